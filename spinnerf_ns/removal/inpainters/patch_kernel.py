"""`patch_field.Field` with its loops over patches in C++ (patch_kernel.cpp; native.py says when it is used). Both choose the same
sources, but for rounding with patches of 13 pixels and more.
"""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from spinnerf_ns.accel.native import Kernel, kernel_threads
from spinnerf_ns.removal.inpainters.patch_field import NEARBY, VERTICAL, Field, Floats, Indices, Level

_LANES = 8  # kLanes of patch_kernel.cpp


def field_class() -> type[Field]:
    """The implementation to use.

    Raises:
        SpinnerfError: SPINNERF_KERNELS names no implementation, or "native" where it can't be had.
    """
    return NativeField if KERNEL.is_used() else Field


class NativeField(Field):
    """The same as `Field`; sums of up to 128 numbers have numpy's order, so that they round alike."""

    def __init__(self, level: Level, patch: int, generator: np.random.Generator) -> None:
        super().__init__(level, patch, generator)
        self.rows, self.columns = np.ascontiguousarray(self.rows), np.ascontiguousarray(self.columns)
        self.planes: Floats | None = None

    def _look(self) -> None:
        # (3, H, W), and some numbers that are read beside a patch's last row but do not count.
        self.planes = np.zeros(self.level.image.size + _LANES, np.float32)
        self.planes[:-_LANES].reshape(3, self.height, self.width)[:] = np.moveaxis(self.level.image, 2, 0)
        if self.weights is None:
            self.weights = np.zeros((self.rows.size, self.patch, -(-self.patch // _LANES) * _LANES), np.float32)
            confidence = np.ascontiguousarray(self.level.confidence)
            KERNEL.library().spinnerf_patch_weigh(self._arguments(), *map(_address, (confidence, self.weights)), kernel_threads())

    def _try_around(self, drawn: npt.NDArray[np.float64]) -> None:
        KERNEL.library().spinnerf_patch_try_around(self._arguments(), _address(drawn), kernel_threads())

    def _propagate(self, down: int, right: int) -> None:
        before = self.source_rows.copy(), self.source_columns.copy()
        KERNEL.library().spinnerf_patch_propagate(self._arguments(), *map(_address, before), down, right, kernel_threads())

    def _mean_of_votes(self, rows: Indices, columns: Indices, trust: Floats) -> Floats:
        mean = np.empty((rows.size, 3), np.float32)
        shift = (self.source_rows - self.rows) * self.width + self.source_columns - self.columns
        trust = trust + np.float32(1e-12)
        image, rows, columns = (np.ascontiguousarray(array) for array in (self.level.image, rows, columns))
        field, pixels = map(_address, (image, shift, trust)), map(_address, (rows, columns, mean))
        KERNEL.library().spinnerf_patch_vote(self._arguments(), *field, rows.size, *pixels, kernel_threads())
        return mean

    def _arguments(self) -> _Arguments:
        """The field as the kernel sees it, now: it holds addresses of arrays that may be replaced."""
        return _Arguments(
            *(self.height, self.width, self.patch, self.rows.size),
            *(_address(array) for array in (self.planes, self.valid, self.number, self.rows, self.columns, self.weights)),
            *(_address(array) for array in (self.source_rows, self.source_columns, self.cost)),
            *(NEARBY * self.variance, VERTICAL),
        )


class _Arguments(ctypes.Structure):
    """`Field` of patch_kernel.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("height", "width", "patch", "targets")),
        *((name, ctypes.c_void_p) for name in ("planes", "valid", "number", "rows", "columns", "weights")),
        *((name, ctypes.c_void_p) for name in ("source_rows", "source_columns", "cost")),
        *((name, ctypes.c_double) for name in ("nearby", "vertical")),
    )


def _address(array: npt.NDArray | None) -> int | None:
    return None if array is None else array.ctypes.data


def _declare(library: ctypes.CDLL) -> None:
    pointer, long, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    field = ctypes.POINTER(_Arguments)
    library.spinnerf_patch_weigh.argtypes = [field, pointer, pointer, integer]
    library.spinnerf_patch_propagate.argtypes = [field, pointer, pointer, long, long, integer]
    library.spinnerf_patch_try_around.argtypes = [field, pointer, integer]
    library.spinnerf_patch_vote.argtypes = [field, *3 * [pointer], long, *3 * [pointer], integer]
    for name in ("weigh", "propagate", "try_around", "vote"):
        getattr(library, f"spinnerf_patch_{name}").restype = None


def _agrees() -> bool:
    """Whether both choose the same sources for a small gap at the border of a picture of noise, and colours from them."""
    known = np.ones((26, 31), bool)
    known[:9, 8:17] = False
    noise = np.random.default_rng(0).integers(0, 256, (*known.shape, 3)).astype(np.float32)
    fields = []
    for implementation in (Field, NativeField):
        field = implementation(Level(noise.copy(), known, ~known), 5, np.random.default_rng(0))
        field.scatter()
        field.search(1, 4)
        field.vote(sharpness=1.0)
        fields.append(field)
    ours, theirs = fields[1], fields[0]
    return (
        np.array_equal(ours.source_rows, theirs.source_rows)
        and np.array_equal(ours.source_columns, theirs.source_columns)
        and np.allclose(ours.cost, theirs.cost, rtol=1e-4, atol=0.0)
        and np.allclose(ours.level.image, theirs.level.image, rtol=1e-4, atol=1e-3)
    )


KERNEL = Kernel(
    __file__,
    _declare,
    _agrees,
    "patchmatch runs on numpy, some ten times slower",
    other="numpy",
    old_variable="SPINNERF_PATCHMATCH",
)
