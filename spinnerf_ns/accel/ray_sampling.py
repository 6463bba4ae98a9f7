"""Where samples lie along rays and in the hash grid, fast on a CPU.

nerfstudio computes the places of a ray's samples, their positions and their grid coordinates in some two hundred small torch
operations per step, each of which costs more to start than to do. Here C++ kernels (ray_sampling.cpp, built on first use) do
each part in one pass, and ray samples are put together without being broadcast field by field.

The arithmetic is nerfstudio's and so are the random numbers: samples, positions and densities are equal bit by bit whatever the
number of threads, gradients but for rounding.

Off the CPU, wherever a gradient by position is wanted, and where SPINNERF_KERNELS turns the kernels off (see native.py), it is
nerfstudio's torch path.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from nerfstudio.cameras.rays import Frustums, RayBundle, RaySamples
from nerfstudio.field_components.activations import trunc_exp
from nerfstudio.field_components.spatial_distortions import SceneContraction, SpatialDistortion
from nerfstudio.model_components.ray_samplers import PDFSampler, SpacedSampler, UniformLinDispPiecewiseSampler
from torch import Tensor, nn

from spinnerf_ns.accel.native import Kernel, is_tracing, kernel_threads
from spinnerf_ns.accel.scene_placement import PlacedContraction, PlacedPiecewiseSampler

_ORIGIN, _UNIT = torch.zeros(3), torch.ones(())  # what nerfstudio's contraction is about


def accelerate(module: nn.Module) -> int:
    """Let every sampler inside `module` that the kernels can stand in for use them, in place; returns how many were changed.

    Only the class of these modules changes: settings, state_dict and the stream of random numbers are as before.
    """
    changed = 0
    for part in module.modules():
        if type(part) is PDFSampler and not part.include_original:
            part.__class__ = FastPDFSampler
        elif type(part) in (PlacedPiecewiseSampler, UniformLinDispPiecewiseSampler):
            # Its spacing is a pair of closures: what their radius is shows in the inverse, 2 * radius * s for a small s.
            part.radius = 2.0 * float(part.spacing_fn_inv(torch.tensor(0.25)))  # type: ignore[assignment, operator]
            part.__class__ = FastPiecewiseSampler
        else:
            continue
        changed += 1
    return changed


# ------------------------------------------------------------------------------------------------------------- samplers
class FastPDFSampler(PDFSampler):
    """`PDFSampler` without the original samples, whose new bins are found in one pass."""

    def generate_ray_samples(
        self,
        ray_bundle: RayBundle | None = None,
        ray_samples: RaySamples | None = None,
        weights: Tensor | None = None,
        num_samples: int | None = None,
        eps: float = 1e-5,
    ) -> RaySamples:
        """Samples of (R,) rays drawn by the weights (R, S, 1) of the samples before; no gradient is passed on."""
        count = num_samples or self.num_samples
        if not self._goes_native(ray_bundle, ray_samples, weights, count):
            return super().generate_ray_samples(ray_bundle, ray_samples, weights, num_samples, eps)
        starts, ends = ray_samples.spacing_starts, ray_samples.spacing_ends
        levels, jitter = self._levels(len(weights), count + 1)
        bins = resample_bins(weights, starts, ends, levels, jitter, self.histogram_padding, eps)
        return make_ray_samples(ray_bundle, bins, ray_samples.spacing_to_euclidean_fn)

    def _goes_native(self, rays: RayBundle | None, samples: RaySamples | None, weights: Tensor | None, count: Any) -> bool:
        if rays is None or samples is None or weights is None or not count or self.include_original:
            return False
        edges = (samples.spacing_starts, samples.spacing_ends)
        if any(values is None or values.shape != weights.shape for values in edges) or samples.spacing_to_euclidean_fn is None:
            return False
        return weights.dim() == 3 and weights.numel() > 0 and _takes(rays) and is_native(weights, *edges)

    def _levels(self, rays: int, edges: int) -> tuple[Tensor, Tensor | None]:
        """Where in the cumulative distribution to look: (E,) levels and, in training, (R, 1) or (R, E) random numbers."""
        levels = torch.linspace(0.0, 1.0 - (1.0 / edges), steps=edges, dtype=torch.float32)
        if self.train_stratified and self.training:
            return levels, torch.rand((rays, 1 if self.single_jitter else edges), dtype=torch.float32)
        return levels + 1.0 / (2 * edges), None


class FastPiecewiseSampler(SpacedSampler):
    """nerfacto's first samples and those of `PlacedPiecewiseSampler`: half even up to `radius`, half linear in disparity."""

    radius: float

    def generate_ray_samples(self, ray_bundle: RayBundle | None = None, num_samples: int | None = None) -> RaySamples:
        """Samples of (R,) rays between their near and far distances."""
        count = num_samples or self.num_samples
        known = ray_bundle is not None and ray_bundle.nears is not None and ray_bundle.fars is not None
        if not known or not count or not _takes(ray_bundle) or not is_native(ray_bundle.nears, ray_bundle.fars):
            return super().generate_ray_samples(ray_bundle, num_samples)
        nears, fars = (self.spacing_fn(distance) for distance in (ray_bundle.nears, ray_bundle.fars))
        spacing = piecewise_spacing(nears, fars, self.radius, self.spacing_fn_inv)
        return make_ray_samples(ray_bundle, self._bins(len(ray_bundle.origins), count), spacing)

    def _bins(self, rays: int, count: int) -> Tensor:
        """Bin edges in [0, 1]: (R, S + 1) in training, else (1, S + 1); as nerfstudio's `SpacedSampler` has them."""
        bins = torch.linspace(0.0, 1.0, count + 1, dtype=torch.float32)[None]
        if not (self.train_stratified and self.training):
            return bins
        jitter = torch.rand((rays, 1 if self.single_jitter else count + 1), dtype=torch.float32)
        centers = (bins[..., 1:] + bins[..., :-1]) / 2.0
        upper, lower = torch.cat([centers, bins[..., -1:]], -1), torch.cat([bins[..., :1], centers], -1)
        return lower + (upper - lower) * jitter


def piecewise_spacing(
    nears: Tensor, fars: Tensor, radius: float, inverse: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """The function from bin edges (R or 1, E) in [0, 1] to distances (R, E) along the ray.

    Args:
        nears, fars: (R, 1), already spaced.
        radius: distance at which the spacing changes from even to linear in disparity.
        inverse: the spacing's inverse in torch.
    """

    def to_distances(bins: Tensor) -> Tensor:
        rows = bins.dim() == 2 and bins.shape[0] in (1, len(nears)) and bins.numel() > 0
        if not rows or _wants_gradient(bins, nears, fars) or not is_native(bins, nears, fars):
            return inverse(bins * fars + (1 - bins) * nears)
        rays, edges = len(nears), bins.shape[1]
        bins, step = _rows(bins.expand(rays, edges))
        first, last, out = nears.contiguous(), fars.contiguous(), bins.new_empty(rays, edges)
        KERNEL.library().spinnerf_piecewise_distances(
            bins.data_ptr(), step, rays, edges, first.data_ptr(), last.data_ptr(), radius, out.data_ptr(), kernel_threads()
        )
        return out

    return to_distances


def resample_bins(
    weights: Tensor, starts: Tensor, ends: Tensor, levels: Tensor, jitter: Tensor | None, padding: float, eps: float
) -> Tensor:
    """Edges of new bins, where the weights' cumulative distribution has given values.

    Args:
        weights: (R, S, 1) of the bins there are.
        starts, ends: (R, S, 1) these bins.
        levels: (E,) values in [0, 1].
        jitter: (R, 1) or (R, E) in [0, 1) to be added in units of 1 / E, or None.
        padding: added to every weight.
        eps: least sum of a ray's weights.

    Returns:
        (R, E), without gradient.
    """
    padded = weights.detach()[..., 0] + padding
    sums = padded.sum(dim=-1)  # by torch: in another order of terms all that follows would be rounded differently
    (weights, weights_step), (starts, starts_step), (ends, ends_step) = (
        _rows(values) for values in (padded, starts.detach()[..., 0], ends.detach()[..., 0])
    )
    rays, edges = len(weights), len(levels)
    out = weights.new_empty(rays, edges)
    KERNEL.library().spinnerf_resample_bins(
        weights.data_ptr(), weights_step, sums.data_ptr(), starts.data_ptr(), starts_step, ends.data_ptr(), ends_step, rays,
        weights.shape[1], levels.data_ptr(), None if jitter is None else jitter.data_ptr(),
        0 if jitter is None else jitter.shape[1], edges, eps, out.data_ptr(), kernel_threads(),
    )  # fmt: skip
    return out


# ---------------------------------------------------------------------------------------------------------- ray samples
class RayFrustums(Frustums):
    """`Frustums` of samples on straight rays, whose centres are computed in one pass."""

    def get_positions(self) -> Tensor:
        """(R, S, 3) centres of the samples; other shapes are left to nerfstudio."""
        origins, directions = self.origins, self.directions
        on_rays = len(self._shape) == 2 and origins.stride(1) == 0 and directions.stride(1) == 0
        values = (origins, directions, self.starts, self.ends)
        if self.offsets is not None or not on_rays or _wants_gradient(*values) or not is_native(*values):
            return super().get_positions()
        origins, directions = origins[:, 0].contiguous(), directions[:, 0].contiguous()
        (starts, starts_step), (ends, ends_step) = _rows(self.starts[..., 0]), _rows(self.ends[..., 0])
        out = origins.new_empty(*self._shape, 3)
        KERNEL.library().spinnerf_sample_positions(
            origins.data_ptr(), directions.data_ptr(), starts.data_ptr(), starts_step, ends.data_ptr(), ends_step,
            *self._shape, out.data_ptr(), kernel_threads(),
        )  # fmt: skip
        return out


def make_ray_samples(rays: RayBundle, bins: Tensor, spacing_to_euclidean_fn: Callable[[Tensor], Tensor]) -> RaySamples:
    """What `RayBundle.get_ray_samples` gives for bins, without its rounds of broadcasting; `_takes(rays)` has to hold.

    Args:
        rays: (R,) rays.
        bins: (R or 1, S + 1) bin edges in the sampler's spacing.
        spacing_to_euclidean_fn: from these to distances along the ray.
    """
    shape = torch.Size((len(rays.origins), bins.shape[1] - 1))
    distances = spacing_to_euclidean_fn(bins).expand(shape[0], -1)
    starts, ends = distances[..., :-1, None], distances[..., 1:, None]

    def along_ray(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[:, None].expand(*shape, values.shape[-1])

    frustums = _assemble(
        RayFrustums, shape, origins=along_ray(rays.origins), directions=along_ray(rays.directions), starts=starts, ends=ends,
        pixel_area=along_ray(rays.pixel_area), offsets=None,
    )  # fmt: skip
    metadata = rays.metadata
    return _assemble(
        RaySamples, shape, frustums=frustums, camera_indices=along_ray(rays.camera_indices), deltas=ends - starts,
        spacing_starts=bins[..., :-1, None].expand(*shape, 1), spacing_ends=bins[..., 1:, None].expand(*shape, 1),
        spacing_to_euclidean_fn=spacing_to_euclidean_fn, times=along_ray(rays.times),
        metadata=None if metadata is None else {name: along_ray(values) for name, values in metadata.items()},
    )  # fmt: skip


def _assemble(kind: type, shape: torch.Size, **values: Any) -> Any:
    """A tensor dataclass of fields that all have the batch shape already: what its constructor would make of them."""
    whole = object.__new__(kind)
    whole.__dict__.update(values, _shape=shape)
    return whole


def _takes(rays: RayBundle) -> bool:
    """Whether `make_ray_samples` can be used: one row of rays on the CPU, metadata in tensors alone."""
    tensors = rays.metadata is None or all(isinstance(values, Tensor) for values in rays.metadata.values())
    return len(rays.shape) == 1 and len(rays) > 0 and tensors and rays.origins.device.type == "cpu"


# --------------------------------------------------------------------------------------------------------- grid's points
def grid_points(positions: Tensor, distortion: SpatialDistortion | None) -> tuple[Tensor, Tensor] | None:
    """Positions in a field's grid, as nerfacto's fields compute them.

    Args:
        positions: (..., 3) in the training frame.
        distortion: the field's.

    Returns:
        (..., 3) in the grid's [0, 1], 0 where they are outside of it, and (..., 1): 1 inside, 0 outside. None where
        nerfstudio's path has to be taken: for another contraction or none, off the CPU, and where gradients are wanted.
    """
    center, radius = _ORIGIN, _UNIT
    if type(distortion) is PlacedContraction:
        center, radius = distortion.center, distortion.radius
    elif type(distortion) is not SceneContraction or distortion.order != float("inf"):
        return None
    if positions.numel() == 0 or _wants_gradient(positions) or not is_native(positions, center, radius):
        return None
    positions = positions.contiguous()
    points, inside = torch.empty_like(positions), positions.new_empty(*positions.shape[:-1], 1)
    KERNEL.library().spinnerf_grid_points(
        positions.data_ptr(), inside.numel(), center.data_ptr(), radius.data_ptr(), int(center is _ORIGIN),
        points.data_ptr(), inside.data_ptr(), kernel_threads(),
    )  # fmt: skip
    return points, inside


def density_from_logits(logits: Tensor, inside: Tensor, scale: float) -> Tensor:
    """Density of a field: `scale` * exp(logit) inside the grid, 0 outside, its slope kept finite as in nerfstudio's trunc_exp.

    Args:
        logits: (..., 1) float32 on the CPU; `inside`: the same shape, 1 or 0.
        scale: the field's `average_init_density`.
    """
    return _Density.apply(logits, inside, scale)


class _Density(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, inside: Tensor, scale: float) -> Tensor:
        density = torch.exp(logits).mul_(scale).mul_(inside)
        ctx.save_for_backward(logits, inside, density)
        ctx.scale = scale
        return density

    @staticmethod
    def backward(ctx, grad: Tensor):
        logits, inside, density = ctx.saved_tensors
        step = logits.stride(-2) if logits.dim() > 1 else 1
        if torch.is_grad_enabled() or not _is_evenly_spaced(logits, step):  # create_graph=True: to be differentiated again
            return grad * inside * ctx.scale * torch.exp(logits.clamp(-15, 15)), None, None
        grad, out = grad.contiguous(), torch.empty_like(density)
        KERNEL.library().spinnerf_density_backward(
            grad.data_ptr(), logits.data_ptr(), step, density.data_ptr(), inside.data_ptr(), out.numel(), ctx.scale,
            out.data_ptr(), kernel_threads(),
        )  # fmt: skip
        return out, None, None


def _is_evenly_spaced(values: Tensor, step: int) -> bool:
    """Whether the elements of (..., 1) lie `step` floats apart in memory."""
    for size, stride in zip(reversed(values.shape[:-1]), reversed(values.stride()[:-1]), strict=True):
        if stride != step:
            return False
        step *= size
    return True


# -------------------------------------------------------------------------------------------------------------- the kernel
def _rows(values: Tensor) -> tuple[Tensor, int]:
    """(R, S) values whose rows are contiguous, as they are if possible, and how many floats lie from one row to the next."""
    if values.stride(1) != 1:
        values = values.contiguous()
    return values, values.stride(0)


def is_native(*values: Tensor) -> bool:
    """Whether the kernels may compute with these: float32 on the CPU, and nobody traces the model."""
    for tensor in values:
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            return False
    return not is_tracing() and KERNEL.is_used()


def _wants_gradient(*values: Tensor) -> bool:
    """Whether autograd follows any of these: the kernels pass no gradient on."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in values)


def _declare(library: ctypes.CDLL) -> None:
    pointer, long, integer, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
    rows = [pointer, long]
    library.spinnerf_resample_bins.argtypes = [
        *rows, pointer, *rows, *rows, long, integer, pointer, pointer, integer, integer, number, pointer, integer
    ]  # fmt: skip
    library.spinnerf_piecewise_distances.argtypes = [*rows, long, integer, pointer, pointer, number, pointer, integer]
    library.spinnerf_sample_positions.argtypes = [pointer, pointer, *rows, *rows, long, integer, pointer, integer]
    library.spinnerf_grid_points.argtypes = [pointer, long, pointer, pointer, integer, pointer, pointer, integer]
    library.spinnerf_density_backward.argtypes = [pointer, *rows, pointer, pointer, long, number, pointer, integer]
    for name in ("resample_bins", "piecewise_distances", "sample_positions", "grid_points", "density_backward"):
        getattr(library, f"spinnerf_{name}").restype = None


def _agrees() -> bool:
    """Whether what comes out after all of the kernels is what torch computes."""
    placed = PlacedContraction(torch.tensor([0.3, -0.2, 0.1]), 1.7)
    return (
        _places_agree(UniformLinDispPiecewiseSampler(8), SceneContraction(order=float("inf")))
        and _places_agree(PlacedPiecewiseSampler(1.7), placed)
        and _densities_agree()
    )


@torch.no_grad()
def _places_agree(first: SpacedSampler, contraction: SceneContraction) -> bool:
    """Whether a sampler's rays end up at the same points of the grid, by way of samples drawn anew."""
    rays = RayBundle(torch.arange(6.0).view(2, 3), torch.arange(6.0).view(2, 3).sin(), torch.ones(2, 1))
    rays.nears, rays.fars = torch.full((2, 1), 0.1), torch.full((2, 1), 9.0)
    weights = torch.arange(16.0).view(2, 8, 1).cos().square()
    first, drawn = first.eval(), PDFSampler(12, include_original=False).eval()

    def positions() -> Tensor:
        return drawn(rays, first(rays, num_samples=8), weights).frustums.get_positions()

    truth = (contraction(positions()) + 2.0) / 4.0
    accelerate(nn.ModuleList([first, drawn]))
    points, inside = grid_points(positions(), contraction)
    return bool(inside.all()) and torch.allclose(points, truth, rtol=1e-4, atol=1e-4)


def _densities_agree() -> bool:
    """Whether densities and their gradient agree: logits from one column of features, some beyond the limits of the slope."""
    features = (torch.arange(96.0).view(48, 2).sin() * 20.0).requires_grad_()
    inside = (torch.arange(48).view(48, 1) % 5 > 0).float()
    found = density_from_logits(features[:, 1:], inside, 0.3)
    truth = 0.3 * trunc_exp(features[:, 1:]) * inside
    pairs = [(found, truth), [torch.autograd.grad((values * inside.cumsum(0)).sum(), features)[0] for values in (found, truth)]]
    return all(torch.allclose(ours, theirs, rtol=1e-4, atol=0.0) for ours, theirs in pairs)


KERNEL = Kernel(
    __file__,
    _declare,
    _agrees,
    "rays are sampled on nerfstudio's torch path",
    old_variable="SPINNERF_RAY_SAMPLING",
)
