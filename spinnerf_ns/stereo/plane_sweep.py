"""`matching`'s functions in C++ (plane_sweep.cpp, see accel/native.py): the same results but for rounding, far faster."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch

from spinnerf_ns.accel.native import Kernel, kernel_threads
from spinnerf_ns.stereo import matching
from spinnerf_ns.stereo.matching import Photos, Samples, Tensor


def sweep(photos: Photos, inverses: Tensor, radius: int) -> Tensor:
    """As `matching.sweep`."""
    return (_native_sweep if _native(photos.reference) else matching.sweep)(photos, inverses, radius)


def _native_sweep(photos: Photos, inverses: Tensor, radius: int) -> Tensor:
    arguments = _Arguments(photos)
    volume = torch.empty(*photos.reference.shape, len(inverses))
    inverses = inverses.contiguous()
    KERNEL.library().spinnerf_stereo_sweep(
        arguments.fields, len(inverses), inverses.data_ptr(), radius, volume.data_ptr(), kernel_threads()
    )
    return volume


def aggregate(volume: Tensor, guide: Tensor, small: float, large: float, contrast: float) -> tuple[Tensor, Tensor]:
    """As `matching.aggregate`."""
    return (_native_aggregate if _native(volume) else matching.aggregate)(volume, guide, small, large, contrast)


def _native_aggregate(volume: Tensor, guide: Tensor, small: float, large: float, contrast: float) -> tuple[Tensor, Tensor]:
    volume, guide = volume.contiguous(), guide.contiguous()
    sums = torch.zeros_like(volume)
    place, least = torch.empty_like(guide), torch.empty_like(guide)
    KERNEL.library().spinnerf_stereo_aggregate(
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
    how = _native_refine if _native(photos.reference) else matching.refine
    return how(photos, samples, planes, anchor, offsets, reach, tilt, pull, unit)


def _native_refine(
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
    arguments = _Arguments(photos)
    down, right = (torch.tensor([offset[i] for offset in offsets], dtype=torch.int64) for i in (0, 1))
    planes, anchor = planes.contiguous(), anchor.contiguous()
    out, costs = torch.empty_like(planes), torch.empty_like(anchor)
    KERNEL.library().spinnerf_stereo_refine(
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
    return tensor.device.type == "cpu" and KERNEL.is_used()


def _declare(library: ctypes.CDLL) -> None:
    pointer, long, integer, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
    library.spinnerf_stereo_sweep.argtypes = [pointer, long, pointer, long, pointer, integer]
    library.spinnerf_stereo_aggregate.argtypes = [*3 * [long], *2 * [pointer], *3 * [real], *3 * [pointer], integer]
    library.spinnerf_stereo_refine.argtypes = [
        pointer, long, *3 * [pointer], real, long, *2 * [pointer], *4 * [real], *4 * [pointer], integer
    ]  # fmt: skip
    for name in ("sweep", "aggregate", "refine"):
        getattr(library, f"spinnerf_stereo_{name}").restype = None


def _agrees() -> bool:
    """Whether kernel and torch give the same on a small photo: but for rounding, which may choose another of two equal planes."""
    photos, samples, inverses = example()
    volume = matching.sweep(photos, inverses, 2)
    place, cost = matching.aggregate(volume, photos.reference, 0.03, 0.4, 8.0)
    planes = torch.stack([0.2 + 0.1 * place, torch.zeros_like(place), torch.zeros_like(place)], dim=2)
    rest = (planes, planes[..., 0], ((0, 1), (-2, 0)), 0.02, 0.005, 0.02, 0.1)
    refined = matching.refine(photos, samples, *rest)
    ours = _native_sweep(photos, inverses, 2)
    return all(
        bool(((one - other).abs() < 1e-3).float().mean() > 0.99)
        for one, other in (
            (ours, volume),
            *zip(_native_aggregate(volume, photos.reference, 0.03, 0.4, 8.0), (place, cost), strict=True),
            *zip(_native_refine(photos, samples, *rest), refined, strict=True),
        )
    )


def example() -> tuple[Photos, Samples, Tensor]:
    """A small photo with two neighbours of noise moved aside, a patch and some planes: what implementations are compared on."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.nn.functional.avg_pool2d(255 * torch.rand(1, 1, 30, 40, generator=generator), 3, 1)[0, 0]
    identity = torch.tensor([1.0, 0, 0, 0, 1, 0, 0.001, 0, 1])
    poses = torch.stack([torch.cat([identity, torch.tensor(b)]) for b in ([9.0, 1.0, 0.1], [-9.0, 0.0, 0.2])])
    photos = Photos(noise, [noise.roll(4, dims=1), 0.7 * noise.roll(-4, dims=1)[:-3, :-2]], poses, 1, 4.0)
    steps = torch.arange(8.0)
    samples = Samples(steps % 3 - 1, (steps / 3).floor() - 1, 1 / (1 + steps), 12.0)
    return photos, samples, torch.linspace(0.2, 0.8, 7)


KERNEL = Kernel(__file__, _declare, _agrees, "stereo runs on torch, some hundred times slower")
