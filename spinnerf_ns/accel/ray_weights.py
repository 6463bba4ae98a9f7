"""Rendering weights along rays and nerfacto's losses on them, fast on a CPU.

nerfstudio computes weights, interlevel and distortion loss by some sixty torch operations on small arrays, each of which costs
more to start than to compute. Here a C++ kernel (ray_weights.cpp, built on first use) takes each ray through in one go, and
has the gradient of a loss ready by the time it has its value.

Results differ from nerfstudio's by the rounding of sums and of exp: weights by no more than 1e-6, losses by 1e-5 of their value.
They are the same whatever the number of threads.

Off the CPU, for anything but float32, and where SPINNERF_KERNELS turns the kernel off (see native.py), torch does the work.

Shapes: R rays, S samples of a ray.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from nerfstudio.cameras.rays import RaySamples
from nerfstudio.model_components import losses as stock
from nerfstudio.model_components.ray_samplers import ProposalNetworkSampler
from nerfstudio.models import nerfacto
from torch import Tensor, nn

from spinnerf_ns.accel.kernels import KernelUnavailable
from spinnerf_ns.accel.native import Kernel, is_tracing, kernel_threads
from spinnerf_ns.accel.replaced import replaced

MAX_SAMPLES = 1024  # of ray_weights.cpp


def accelerate(module: nn.Module) -> int:
    """Let the samples that proposal samplers inside `module` draw compute their weights fast; in place.

    The samplers stay what they are: a hook changes the class of what they return. Call it after a sampler was replaced.

    Returns:
        how many samplers were changed.
    """
    changed = 0
    for part in module.modules():
        if isinstance(part, ProposalNetworkSampler):
            for sampler in (part.initial_sampler, part.pdf_sampler):
                if _weigh_fast not in sampler._forward_hooks.values():
                    sampler.register_forward_hook(_weigh_fast)
                    changed += 1
    return changed


def _weigh_fast(sampler: nn.Module, arguments: tuple, samples: Any) -> None:
    if type(samples) is RaySamples:
        samples.__class__ = FastRaySamples


@contextmanager
def fast_losses() -> Iterator[None]:
    """Within this context nerfacto's models take their interlevel and distortion loss from here."""
    with replaced(nerfacto, interlevel_loss=interlevel_loss, distortion_loss=distortion_loss):
        yield


# -------------------------------------------------------------------------------------------------------------- weights
class FastRaySamples(RaySamples):
    """`RaySamples` whose weights are computed fast; the same fields and results."""

    def get_weights(self, densities: Tensor) -> Tensor:
        """(R, S, 1) densities, per unit length -> (R, S, 1) rendering weights."""
        return rendering_weights(densities, self.deltas)


def rendering_weights(densities: Tensor, deltas: Tensor) -> Tensor:
    """Each sample's share in its ray's colour: the light that reaches it times its opacity, as `RaySamples.get_weights`.

    Args:
        densities: (R, S, 1), per unit length.
        deltas: (R, S, 1) lengths of the samples.

    Returns:
        (R, S, 1), each at least 0 and at most 1 in sum.
    """
    if densities.shape != deltas.shape or not (_goes_native(densities) and _goes_native(deltas)):
        return torch_weights(densities, deltas)
    if torch.is_grad_enabled() and (densities.requires_grad or deltas.requires_grad):
        return _NativeWeights.apply(densities, deltas)
    return _weights_forward(densities, deltas)


def torch_weights(densities: Tensor, deltas: Tensor) -> Tensor:
    """The same by nerfstudio."""
    return RaySamples.get_weights(SimpleNamespace(deltas=deltas), densities)  # type: ignore[arg-type]


class _NativeWeights(torch.autograd.Function):
    """(R, S, 1) float32 densities and deltas on the CPU -> (R, S, 1) weights."""

    @staticmethod
    def forward(ctx, densities: Tensor, deltas: Tensor) -> Tensor:
        ctx.save_for_backward(densities, deltas)
        return _weights_forward(densities, deltas)

    @staticmethod
    def backward(ctx, grad: Tensor):
        inputs, wants = ctx.saved_tensors, ctx.needs_input_grad
        if not torch.is_grad_enabled():
            return _weights_backward(*inputs, grad, *wants)  # type: ignore[call-arg]
        # create_graph=True: the gradient itself is to be differentiated
        wanted = [tensor for tensor, wants_own in zip(inputs, wants, strict=True) if wants_own]
        found = iter(torch.autograd.grad(torch_weights(*inputs), wanted, grad, create_graph=True))
        return tuple(next(found) if wants_own else None for wants_own in wants)


def _weights_forward(densities: Tensor, deltas: Tensor) -> Tensor:
    densities, deltas = densities.detach().contiguous(), deltas.detach().contiguous()
    weights = torch.empty_like(densities)
    KERNEL.library().spinnerf_ray_weights_forward(
        densities.data_ptr(), deltas.data_ptr(), *weights.shape[:2], weights.data_ptr(), kernel_threads()
    )
    return weights


def _weights_backward(
    densities: Tensor, deltas: Tensor, grad: Tensor, wants_densities: bool, wants_deltas: bool
) -> tuple[Tensor | None, Tensor | None]:
    densities, deltas, grad = (tensor.detach().contiguous() for tensor in (densities, deltas, grad))
    grad_densities = torch.empty_like(densities) if wants_densities else None
    grad_deltas = torch.empty_like(deltas) if wants_deltas else None
    KERNEL.library().spinnerf_ray_weights_backward(
        densities.data_ptr(),
        deltas.data_ptr(),
        grad.data_ptr(),
        *densities.shape[:2],
        None if grad_densities is None else grad_densities.data_ptr(),
        None if grad_deltas is None else grad_deltas.data_ptr(),
        kernel_threads(),
    )
    return grad_densities, grad_deltas


# --------------------------------------------------------------------------------------------------------------- losses
def interlevel_loss(weights_list: list[Tensor], ray_samples_list: list[RaySamples]) -> Tensor:
    """mip-NeRF 360's proposal loss, as nerfstudio's: what the final weights exceed the proposals' bounds by; a scalar.

    It trains the proposals' weights alone.

    Args:
        weights_list: (R, S_k, 1) weights of each proposal and, last, of the final samples.
        ray_samples_list: their samples; spacing bins ascend along a ray.
    """
    same_rays = all(len(weights) == len(weights_list[-1]) for weights in weights_list) and len(weights_list) > 1
    if not same_rays or not all(_goes_native(*pair) for pair in zip(weights_list, ray_samples_list, strict=True)):
        return stock.interlevel_loss(weights_list, ray_samples_list)
    edges, weights = _edges(ray_samples_list[-1]), weights_list[-1].detach().contiguous()
    total: Tensor | None = None
    for samples, own in zip(ray_samples_list[:-1], weights_list[:-1], strict=True):
        own_edges = _edges(samples)
        loss = _loss_by_weights(
            own,
            functools.partial(_interlevel, edges, weights, own_edges),
            lambda own, own_edges=own_edges: stock.lossfun_outer(edges, weights[..., 0], own_edges, own[..., 0]).mean(),
        )
        total = loss if total is None else total + loss
    assert total is not None
    return total


def distortion_loss(weights_list: list[Tensor], ray_samples_list: list[RaySamples]) -> Tensor:
    """mip-NeRF 360's distortion loss of the final samples, as nerfstudio's: how far apart a ray's weights lie; a scalar.

    Args:
        weights_list: the last is (R, S, 1), the final samples' weights.
        ray_samples_list: the last holds the final samples; spacing bins ascend along a ray.
    """
    if not _goes_native(weights_list[-1], ray_samples_list[-1]):
        return stock.distortion_loss(weights_list, ray_samples_list)
    edges = _edges(ray_samples_list[-1])
    return _loss_by_weights(
        weights_list[-1],
        functools.partial(_distortion, edges),
        lambda weights: stock.lossfun_distortion(edges, weights[..., 0]).mean(),
    )


LossKernel = Callable[[Tensor, bool], "tuple[Tensor, Tensor | None]"]
"""((R, S, 1) weights, whether a gradient is wanted) -> scalar loss, its gradient by the weights."""


def _loss_by_weights(weights: Tensor, kernel: LossKernel, by_torch: Callable[[Tensor], Tensor]) -> Tensor:
    if torch.is_grad_enabled() and weights.requires_grad:
        return _NativeLoss.apply(weights, kernel, by_torch)
    return kernel(weights.detach(), False)[0]


class _NativeLoss(torch.autograd.Function):
    """A loss whose kernel finds the gradient along with the value."""

    @staticmethod
    def forward(ctx, weights: Tensor, kernel: LossKernel, by_torch: Callable[[Tensor], Tensor]) -> Tensor:
        loss, gradient = kernel(weights.detach(), True)
        ctx.by_torch = by_torch
        ctx.save_for_backward(weights, gradient)
        return loss

    @staticmethod
    def backward(ctx, grad: Tensor):
        weights, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the gradient itself is to be differentiated
            (gradient,) = torch.autograd.grad(ctx.by_torch(weights), weights, grad, create_graph=True)
            return gradient, None, None
        return grad * gradient, None, None


def _edges(samples: RaySamples) -> Tensor:
    """(R, S + 1) edges of the spacing bins, consecutive along a ray."""
    starts, ends = samples.spacing_starts.detach(), samples.spacing_ends.detach()
    # Samplers cut both from one array; there is then nothing to put together.
    if (
        starts.untyped_storage().data_ptr() == ends.untyped_storage().data_ptr()
        and starts.stride() == ends.stride()
        and starts.stride(1) == 1
        and starts.storage_offset() + 1 == ends.storage_offset()
    ):
        return starts.as_strided((starts.shape[0], starts.shape[1] + 1), (starts.stride(0), 1))
    return stock.ray_samples_to_sdist(samples).detach()


def _distortion(edges: Tensor, weights: Tensor, wants_gradient: bool) -> tuple[Tensor, Tensor | None]:
    weights = weights.contiguous()
    rays, samples = weights.shape[:2]
    gradient, losses = torch.empty_like(weights) if wants_gradient else None, edges.new_empty(rays, dtype=torch.float64)
    loss = KERNEL.library().spinnerf_ray_distortion(
        edges.data_ptr(),
        edges.stride(0),
        weights.data_ptr(),
        rays,
        samples,
        1.0 / rays,
        losses.data_ptr(),
        None if gradient is None else gradient.data_ptr(),
        kernel_threads(),
    )
    return torch.tensor(loss, dtype=torch.float32), gradient


def _interlevel(
    edges: Tensor, weights: Tensor, proposal_edges: Tensor, proposal_weights: Tensor, wants_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    proposal_weights = proposal_weights.contiguous()
    rays, samples = weights.shape[:2]
    gradient = torch.empty_like(proposal_weights) if wants_gradient else None
    losses = edges.new_empty(rays, dtype=torch.float64)
    loss = KERNEL.library().spinnerf_ray_interlevel(
        edges.data_ptr(),
        edges.stride(0),
        weights.data_ptr(),
        samples,
        proposal_edges.data_ptr(),
        proposal_edges.stride(0),
        proposal_weights.data_ptr(),
        proposal_weights.shape[1],
        rays,
        stock.EPS,
        1.0 / (rays * samples),
        losses.data_ptr(),
        None if gradient is None else gradient.data_ptr(),
        kernel_threads(),
    )
    return torch.tensor(loss, dtype=torch.float32), gradient


# --------------------------------------------------------------------------------------------------------------- kernel
def _goes_native(values: Tensor, samples: RaySamples | None = None) -> bool:
    """Whether the kernel takes (R, S, 1) values and, where given, the bins of their samples."""
    if is_tracing() or not _is_ours(values) or not KERNEL.is_used():
        return False
    if samples is None:
        return True
    bins = (samples.spacing_starts, samples.spacing_ends)
    return all(own is not None and _is_ours(own) and own.shape == values.shape and not own.requires_grad for own in bins)


def _is_ours(values: Tensor) -> bool:
    return (
        values.dtype == torch.float32
        and values.device.type == "cpu"
        and values.dim() == 3
        and values.shape[0] > 0
        and 0 < values.shape[1] <= MAX_SAMPLES
        and values.shape[2] == 1
    )


def _declare(library: ctypes.CDLL) -> None:
    pointer, long, integer, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_double
    library.spinnerf_ray_weights_forward.argtypes = [pointer, pointer, long, integer, pointer, integer]
    library.spinnerf_ray_weights_forward.restype = None
    library.spinnerf_ray_weights_backward.argtypes = [pointer, pointer, pointer, long, integer, pointer, pointer, integer]
    library.spinnerf_ray_weights_backward.restype = None
    bins, results = [pointer, long, pointer], [real, pointer, pointer, integer]
    library.spinnerf_ray_distortion.argtypes = [*bins, long, integer, *results]
    library.spinnerf_ray_distortion.restype = real
    library.spinnerf_ray_interlevel.argtypes = [*bins, integer, *bins, integer, long, ctypes.c_float, *results]
    library.spinnerf_ray_interlevel.restype = real
    if library.spinnerf_ray_max_samples() != MAX_SAMPLES:
        raise KernelUnavailable("ray_weights.cpp and ray_weights.py state different limits")


def _agrees() -> bool:
    """Whether the kernel gives torch's values and gradients here."""
    with torch.autocast("cpu", enabled=False):
        values = torch.arange(33 * 20.0).reshape(33, 20, 1)
        densities, deltas = (values.sin() + 1.0).requires_grad_(), values.cos().square()
        edges = torch.cat([torch.zeros(33, 1), deltas[..., 0].cumsum(dim=1)], dim=1)
        final, final_edges = deltas[:, :10].contiguous(), edges[:, 2:13]

        def results(weigh: Callable[..., Tensor], *losses: Callable[[Tensor], Tensor]) -> list[Tensor]:
            weights = weigh(densities, deltas)
            found = torch.stack([loss(weights) for loss in losses])
            return [weights, found, *torch.autograd.grad(found.sum(), [weights, densities])]

        found = results(
            _NativeWeights.apply,
            lambda own: _NativeLoss.apply(own, functools.partial(_distortion, edges), None),
            lambda own: _NativeLoss.apply(own, functools.partial(_interlevel, final_edges, final, edges), None),
        )
        truth = results(
            torch_weights,
            lambda own: stock.lossfun_distortion(edges, own[..., 0]).mean(),
            lambda own: stock.lossfun_outer(final_edges, final[..., 0], edges, own[..., 0]).mean(),
        )
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(found, truth, strict=True))


KERNEL = Kernel(
    __file__,
    _declare,
    _agrees,
    "rendering weights and their losses run on torch's path",
    old_variable="SPINNERF_RAY_WEIGHTS",
)
