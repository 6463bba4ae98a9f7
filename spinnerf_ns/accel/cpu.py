"""What a training step on a CPU asks of the process: memory that is kept, and arithmetic without subnormal numbers."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from typing import TYPE_CHECKING

import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

# glibc's <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_MIB = 1 << 20


def lite_here(method: str) -> str:
    """A method's name for a hint: its -lite variant where there is no GPU."""
    return method if torch.cuda.is_available() else f"{method}-lite"


def prepare_cpu() -> None:
    """Both of the below, for pipelines that train or render on a CPU."""
    keep_freed_memory()
    flush_subnormals()


def flush_subnormals() -> bool:
    """Takes numbers below 1.2e-38 for 0 on this thread and on those that it starts later; for the rest of the process.

    Weights and gradients fade exponentially along a ray and pass through that range, where each operation takes a processor a
    hundred cycles more: a third of a step of the segmentation stage.

    Returns:
        whether this processor can.
    """
    return torch.set_flush_denormal(True)


def nearest_tree(points: npt.NDArray) -> cKDTree:
    """A k-d tree of (N, K) points that can be built where subnormal numbers are 0.

    scipy's default splits at the median, and where all coordinates are at least the median it takes the next larger number: above
    0 that is subnormal, so 0 again, and it never ends (seen with points on the plane z = 0: the stack overflows).
    """
    from scipy.spatial import cKDTree

    return cKDTree(points, balanced_tree=False)


@functools.cache
def keep_freed_memory() -> bool:
    """Asks glibc to keep what is freed instead of giving it back to the system; for the whole process.

    Every activation of a step is a block of megabytes. By default glibc returns each to the system, and the next step pays a
    page fault per 4 KiB to have it back: about a sixth of a small step on a CPU.

    Returns:
        whether it was done: False off Linux and with another C library.
    """
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - AttributeError with another C library, whose mallopt may mean anything
        # glibc refuses a larger threshold than 32 MiB: larger blocks go on being mapped one by one.
        settings = ((_MMAP_THRESHOLD, 32 * _MIB), (_TRIM_THRESHOLD, (1 << 31) - 1), (_TOP_PAD, 256 * _MIB))
        return all([library.mallopt(name, value) == 1 for name, value in settings])
    return False
