"""Memory that a training step on a CPU frees and asks for again."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys

# glibc's <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_MIB = 1 << 20


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
