"""nerfstudio's hash grid, fast without tiny-cuda-nn.

nerfstudio's torch path of `HashEncoding` makes eight index tensors, eight gathers and, in the backward pass, eight gradients
of the size of the table. Here a C++ kernel (hash_grid.cpp, built on first use) does the same arithmetic in one pass on the
CPU. Parameters, their names and shapes are unchanged, so checkpoints are interchangeable.

The forward pass equals the torch path bit by bit. Gradients differ by the rounding of sums alone: the torch path adds per
corner, the kernel per point. They are the same whatever the number of threads.

SPINNERF_KERNELS (see native.py) chooses the implementation: "auto" (native, else compiled, else torch), "native", "off"
(nerfstudio's torch path), or hash_grid=compiled (torch.compile). Off the CPU the kernel is never used: "auto" and "native" mean
"compiled" there. A grid that runs on tiny-cuda-nn is left alone.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn

from spinnerf_ns.accel.native import COMPILED, VARIABLE, Kernel, failure_of, is_tracing, kernel_threads
from spinnerf_ns.errors import SpinnerfError

Backend = Literal["native", "compiled", "torch"]


def accelerate(module: nn.Module, verbose: bool = True) -> int:
    """Let every torch-path `HashEncoding` inside `module` use the fast implementation, in place.

    Only the class of these modules changes: parameters, state_dict, hooks, copies and moves to a device are as before.

    Args:
        module: any module, a whole model or a single encoding.
        verbose: print one line if a grid was changed.

    Returns:
        how many encodings were changed; those of tiny-cuda-nn and those that were fast already are not counted.
    """
    changed = 0
    for part in module.modules():
        if type(part) is HashEncoding and part.tcnn_encoding is None:
            part.__class__ = FastHashEncoding
            changed += 1
    if changed and verbose:
        CONSOLE.print(f"[dim]{changed} hash grids run without tiny-cuda-nn, on the fast path ({KERNEL.choice()})[/dim]")
    return changed


def hash_grid_backend() -> Backend:
    """What hash grids on the CPU use here and now; builds the kernel if need be.

    Raises:
        SpinnerfError: SPINNERF_KERNELS names no implementation, or names "native" or "compiled" where it can't be had.
    """
    return _backend("cpu", KERNEL.choice())


class FastHashEncoding(HashEncoding):
    """`HashEncoding` whose torch path is fast; the same arguments, parameters and results."""

    position_gradients: bool = True
    """Whether a gradient by position is passed on. Nerfacto's field always asks for one, which only normals and camera
    optimisation use; without them it is a third of the backward pass for nothing."""

    def pytorch_fwd(self, in_tensor: Tensor) -> Tensor:
        """Features at points.

        Args:
            in_tensor: (..., 3); the unit cube is one grid, and beyond it, or below 0, the hash simply goes on.

        Returns:
            (..., num_levels * features_per_level)
        """
        if in_tensor.numel() == 0 or self.hash_table.dtype != torch.float32 or in_tensor.dtype == torch.float64 or is_tracing():
            return super().pytorch_fwd(in_tensor)
        if in_tensor.device != self.hash_table.device:  # the torch path says what is wrong
            return super().pytorch_fwd(in_tensor)
        backend = _backend(in_tensor.device.type, KERNEL.choice())
        if backend == "torch":
            return super().pytorch_fwd(in_tensor)
        assert in_tensor.shape[-1] == 3
        points = in_tensor.reshape(-1, 3).float().contiguous()
        if not self.position_gradients:
            points = points.detach()
        if backend == "compiled":
            # The view is no parameter: torch.compile would make a program for every parameter's shape, that is, per grid.
            table = self.hash_table.view_as(self.hash_table)
            features = _compiled()(points, table, self.scalings.to(points.device), self.hash_table_size)
        else:
            features = _NativeHashGrid.apply(points, self.hash_table, self.scalings, self.hash_table_size)
        return features.view(*in_tensor.shape[:-1], -1)


def torch_hash_grid(points: Tensor, table: Tensor, scalings: Tensor, table_size: int) -> Tensor:
    """The arithmetic of nerfstudio's `HashEncoding.pytorch_fwd` as a function without a module, for torch.compile.

    Args:
        points: (..., 3)
        table: (L * table_size, F) float
        scalings: (L,) resolutions
        table_size: rows per level, a power of two.

    Returns:
        (..., L * F)
    """
    scaled = points[..., None, :] * scalings.to(points.device)[:, None]  # (..., L, 3)
    ceil, floor = torch.ceil(scaled).to(torch.int32), torch.floor(scaled).to(torch.int32)
    offset = scaled - floor
    level_start = torch.arange(scalings.shape[0], device=points.device) * table_size
    (cx, cy, cz), (fx, fy, fz) = _hashed_axes(ceil), _hashed_axes(floor)

    def rows(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return table[((x ^ y ^ z) & (table_size - 1)) + level_start]

    ox, oy, oz = (offset[..., axis, None] for axis in range(3))
    px, py, pz = 1 - ox, 1 - oy, 1 - oz
    f_03 = rows(cx, cy, cz) * ox + rows(fx, cy, cz) * px
    f_12 = rows(cx, fy, cz) * ox + rows(fx, fy, cz) * px
    f_56 = rows(cx, fy, fz) * ox + rows(fx, fy, fz) * px
    f_47 = rows(cx, cy, fz) * ox + rows(fx, cy, fz) * px
    encoded = (f_03 * oy + f_12 * py) * oz + (f_47 * oy + f_56 * py) * pz
    return encoded.flatten(-2)


def _hashed_axes(corner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    wide = corner.to(torch.int64)
    return wide[..., 0], wide[..., 1] * 2654435761, wide[..., 2] * 805459861


class _NativeHashGrid(torch.autograd.Function):
    """(N, 3) float32 points and the (L * T, F) float32 table, both contiguous and on the CPU -> (N, L * F)."""

    @staticmethod
    def forward(ctx, points: Tensor, table: Tensor, scalings: Tensor, table_size: int) -> Tensor:
        ctx.save_for_backward(points, table)
        ctx.scalings, ctx.table_size = scalings, table_size
        return _native_forward(points, table, scalings, table_size)

    @staticmethod
    def backward(ctx, grad: Tensor):
        points, table = ctx.saved_tensors
        wants_points, wants_table = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # create_graph=True: the gradient itself is to be differentiated
            wanted = [tensor for tensor, wants in ((points, wants_points), (table, wants_table)) if wants]
            features = torch_hash_grid(points, table, ctx.scalings, ctx.table_size)
            found = list(torch.autograd.grad(features, wanted, grad, create_graph=True))
            return found.pop(0) if wants_points else None, found.pop(0) if wants_table else None, None, None
        return *_native_backward(points, table, ctx.scalings, ctx.table_size, grad, wants_points, wants_table), None, None


def _native_forward(points: Tensor, table: Tensor, scalings: Tensor, table_size: int) -> Tensor:
    points, table, levels = points.detach(), table.detach().contiguous(), np.asarray(scalings, np.float32)
    out = table.new_empty(len(points), len(levels) * table.shape[1])
    KERNEL.library().spinnerf_hash_grid_forward(
        *_grid_arguments(points, table, levels, table_size), out.data_ptr(), kernel_threads()
    )
    return out


def _native_backward(
    points: Tensor, table: Tensor, scalings: Tensor, table_size: int, grad: Tensor, wants_points: bool, wants_table: bool
) -> tuple[Tensor | None, Tensor | None]:
    points, table, levels = points.detach(), table.detach().contiguous(), np.asarray(scalings, np.float32)
    grad = grad.detach().float().contiguous()
    grad_points = torch.empty_like(points) if wants_points else None
    grad_table = torch.empty_like(table) if wants_table else None
    failed = KERNEL.library().spinnerf_hash_grid_backward(
        *_grid_arguments(points, table, levels, table_size),
        grad.data_ptr(),
        None if grad_table is None else grad_table.data_ptr(),
        None if grad_points is None else grad_points.data_ptr(),
        kernel_threads(),
    )
    if failed:
        raise MemoryError(f"no memory for {grad.numel() * 4} bytes in the hash grid's backward pass")
    return grad_points, grad_table


def _grid_arguments(points: Tensor, table: Tensor, levels: np.ndarray, table_size: int) -> tuple:
    return points.data_ptr(), len(points), table.data_ptr(), len(levels), table.shape[1], table_size, levels.ctypes.data


def _declare(library: ctypes.CDLL) -> None:
    pointer, long, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    grid = [pointer, long, pointer, integer, integer, long, pointer]
    library.spinnerf_hash_grid_forward.argtypes = [*grid, pointer, integer]
    library.spinnerf_hash_grid_backward.argtypes = [*grid, pointer, pointer, pointer, integer]


@functools.cache
def _compiled() -> Callable[[Tensor, Tensor, Tensor, int], Tensor]:
    return torch.compile(torch_hash_grid, dynamic=True)


@functools.cache
def _backend(device: str, choice: str) -> Backend:
    """The implementation for a device type: the best that works, tried once."""
    if choice == "off" or device not in ("cpu", "cuda"):
        return "torch"
    reasons = []
    order: list[Backend] = ["native"] if device == "cpu" and choice != COMPILED else []
    order += ["compiled"] if not (device == "cpu" and choice == "native") else []
    for backend in order:
        reason = KERNEL.failure() if backend == "native" else failure_of(functools.partial(_agrees, backend, device))
        if reason is None:
            return backend
        reasons.append(f"{backend}: {reason}")
    if choice != "auto" and device == "cpu":
        raise SpinnerfError(
            f"{VARIABLE} asks for hash_grid={choice}, which can't be had here ({'; '.join(reasons)}); "
            "set it to auto or hash_grid=off"
        )
    CONSOLE.print(f"[yellow]hash grids run slowly on nerfstudio's torch path ({'; '.join(reasons)})[/yellow]")
    return "torch"


def _agrees(backend: Backend = "native", device: str = "cpu") -> bool:
    """Whether an implementation gives torch's values and gradients here."""
    scalings, table_size = torch.tensor([3.0, 7.0]), 16
    points = torch.arange(90.0).reshape(30, 3).sin().to(device).requires_grad_()
    table = torch.arange(64.0).cos().reshape(32, 2).to(device).requires_grad_()
    if backend == "native":
        features = _NativeHashGrid.apply(points, table, scalings, table_size)
    else:
        features = _compiled()(points, table.view_as(table), scalings.to(device), table_size)
    found = [features, *torch.autograd.grad(features.square().sum(), (points, table))]
    features = torch_hash_grid(points, table, scalings, table_size)
    truth = [features, *torch.autograd.grad(features.square().sum(), (points, table))]
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(found, truth, strict=True))


KERNEL = Kernel(__file__, _declare, _agrees, "", old_variable="SPINNERF_HASH_GRID")
