"""`matching`'s functions in C++ (plane_sweep.cpp, built on first use): the same results but for rounding, some hundred times faster.

The environment variable SPINNERF_STEREO chooses the implementation: "auto" (the default: native, else torch), "native" or "torch".
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import torch

from spinnerf_ns.kernels import load_kernel
from spinnerf_ns.native import choose_native, kernel_threads, requested
from spinnerf_ns.stereo import matching
from spinnerf_ns.stereo.matching import Photos, Samples, Tensor

VARIABLE = "SPINNERF_STEREO"
_SOURCE = Path(__file__).with_suffix(".cpp")


def sweep(photos: Photos, inverses: Tensor, radius: int) -> Tensor:
    """As `matching.sweep`."""
    if not _native(photos.reference):
        return matching.sweep(photos, inverses, radius)
    arguments = _Arguments(photos)
    volume = torch.empty(*photos.reference.shape, len(inverses))
    inverses = inverses.contiguous()
    _library().spinnerf_stereo_sweep(
        arguments.fields, len(inverses), inverses.data_ptr(), radius, volume.data_ptr(), kernel_threads()
    )
    return volume


def aggregate(volume: Tensor, guide: Tensor, small: float, large: float, contrast: float) -> tuple[Tensor, Tensor]:
    """As `matching.aggregate`."""
    if not _native(volume):
        return matching.aggregate(volume, guide, small, large, contrast)
    guide, sums = guide.contiguous(), torch.zeros_like(volume)
    place, least = torch.empty_like(guide), torch.empty_like(guide)
    _library().spinnerf_stereo_aggregate(
        *volume.shape, volume.data_ptr(), guide.data_ptr(), small, large, contrast,
        sums.data_ptr(), place.data_ptr(), least.data_ptr(), kernel_threads(),
    )  # fmt: skip
    return place, least


def refine(
    photos: Photos,
    samples: Samples,
    planes: Tensor,
    anchor: Tensor,
    offsets: Sequence[tuple[int, int]],
    reach: float,
    tilt: float,
    pull: float,
    unit: float,
) -> tuple[Tensor, Tensor]:
    """As `matching.refine`."""
    if not _native(photos.reference):
        return matching.refine(photos, samples, planes, anchor, offsets, reach, tilt, pull, unit)
    arguments = _Arguments(photos)
    down, right = (torch.tensor([offset[i] for offset in offsets], dtype=torch.int64) for i in (0, 1))
    planes, anchor = planes.contiguous(), anchor.contiguous()
    out, costs = torch.empty_like(planes), torch.empty_like(anchor)
    _library().spinnerf_stereo_refine(
        arguments.fields, len(samples.dx), samples.dx.data_ptr(), samples.dy.data_ptr(), samples.near.data_ptr(),
        samples.contrast, len(offsets), down.data_ptr(), right.data_ptr(), reach, tilt, pull, unit,
        anchor.data_ptr(), planes.data_ptr(), out.data_ptr(), costs.data_ptr(), kernel_threads(),
    )  # fmt: skip
    return out, costs


class _Fields(ctypes.Structure):
    """`Photos` of plane_sweep.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("height", "width", "count")),
        *((name, ctypes.c_void_p) for name in ("reference", "greys", "heights", "widths", "poses")),
        ("best", ctypes.c_int64),
        ("noise", ctypes.c_float),
    )


class _Arguments:
    """Photos as the kernel sees them; keeps alive what the addresses point to."""

    def __init__(self, photos: Photos) -> None:
        self._kept = [photos.reference.contiguous(), photos.poses.contiguous(), *(n.contiguous() for n in photos.neighbours)]
        greys = self._kept[2:]
        self._lists = [
            torch.tensor(values, dtype=torch.int64)
            for values in ([g.data_ptr() for g in greys], [g.shape[0] for g in greys], [g.shape[1] for g in greys])
        ]
        height, width = photos.reference.shape
        self._fields = _Fields(
            height, width, len(greys), self._kept[0].data_ptr(), *(lst.data_ptr() for lst in self._lists),
            self._kept[1].data_ptr(), photos.best, photos.noise,
        )  # fmt: skip
        self.fields = ctypes.byref(self._fields)


def _native(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and _available(requested(VARIABLE))


@functools.cache
def _library() -> ctypes.CDLL:
    library = load_kernel(_SOURCE)
    pointer, long, integer, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
    library.spinnerf_stereo_sweep.argtypes = [pointer, long, pointer, long, pointer, integer]
    library.spinnerf_stereo_aggregate.argtypes = [*3 * [long], *2 * [pointer], *3 * [real], *3 * [pointer], integer]
    library.spinnerf_stereo_refine.argtypes = [
        pointer, long, *3 * [pointer], real, long, *2 * [pointer], *4 * [real], *4 * [pointer], integer
    ]  # fmt: skip
    for name in ("sweep", "aggregate", "refine"):
        getattr(library, f"spinnerf_stereo_{name}").restype = None
    return library


@functools.cache
def _available(choice: str) -> bool:
    """Whether the kernel is to be used; tried once."""
    return choose_native(VARIABLE, choice, _agrees, "stereo runs on torch, some hundred times slower")


def _agrees() -> bool:
    _library()
    return True
