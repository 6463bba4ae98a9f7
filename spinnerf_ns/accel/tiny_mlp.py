"""nerfstudio's small networks, fast on a CPU without tiny-cuda-nn.

nerfacto's networks are at most 64 wide: in torch most of their time goes into writing and reading activations, not into
arithmetic. Here a C++ kernel (tiny_mlp.cpp, built on first use) takes a block of points through all layers at once.
Parameters, their names and shapes are unchanged, so checkpoints are interchangeable.

Results differ from torch's by the rounding of sums: by no more than 1e-5 of the largest value. They are the same whatever
the number of threads. Under autocast the kernel computes in float32 all the same: it is faster and more exact.

Off the CPU, for networks of another kind, and where SPINNERF_KERNELS turns the kernel off (see native.py), torch does the work.
"""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from nerfstudio.field_components.mlp import MLP
from torch import Tensor, nn

from spinnerf_ns.accel.kernels import KernelUnavailable
from spinnerf_ns.accel.native import Kernel, is_tracing, kernel_threads

LEAST_ROWS = 4096
"""Below this many rows torch is as fast."""
MAX_WIDTH, MAX_LAYERS = 64, 8  # of tiny_mlp.cpp


def accelerate(module: nn.Module) -> int:
    """Let every torch-path `MLP` inside `module` that the kernel can compute use it, in place.

    Only the class of these modules changes: parameters, state_dict, hooks, copies and moves to a device are as before.

    Args:
        module: any module, a whole model or a single network.

    Returns:
        how many networks were changed.
    """
    changed = 0
    for part in module.modules():
        if type(part) is MLP and part.tcnn_encoding is None and _suits(part):
            part.__class__ = FastMLP
            changed += 1
    return changed


class FastMLP(MLP):
    """`MLP` whose torch path is fast on a CPU; the same arguments, parameters and results."""

    def pytorch_fwd(self, in_tensor: Tensor) -> Tensor:
        """Takes points through the network.

        Args:
            in_tensor: (..., in_dim)

        Returns:
            (..., out_dim)
        """
        if not self._goes_native(in_tensor):
            return super().pytorch_fwd(in_tensor)
        rows = in_tensor.reshape(-1, in_tensor.shape[-1]).float()
        if rows.stride(1) != 1:
            rows = rows.contiguous()
        parameters = [tensor for layer in self.layers for tensor in (layer.weight, layer.bias)]
        if torch.is_grad_enabled() and (rows.requires_grad or any(tensor.requires_grad for tensor in parameters)):
            out = _NativeMLP.apply(rows, self.out_activation is not None, *parameters)
        else:
            out = _forward(rows.detach(), self.out_activation is not None, parameters)
        return out.view(*in_tensor.shape[:-1], -1)

    def _goes_native(self, in_tensor: Tensor) -> bool:
        if is_tracing() or in_tensor.device.type != "cpu" or in_tensor.numel() < max(LEAST_ROWS, 1) * in_tensor.shape[-1]:
            return False
        weight = self.layers[0].weight
        same = in_tensor.dtype == torch.float32 or (in_tensor.dtype == torch.bfloat16 and torch.is_autocast_cpu_enabled())
        if not same or weight.dtype != torch.float32 or weight.device.type != "cpu" or in_tensor.shape[-1] != self.in_dim:
            return False
        return _suits(self) and KERNEL.is_used()


def _suits(network: MLP) -> bool:
    """Whether the kernel computes this kind of network."""
    layers = list(network.layers)
    return (
        len(layers) <= MAX_LAYERS
        and not network._skip_connections
        and all(type(layer) is nn.Linear and layer.bias is not None for layer in layers)
        and all(max(layer.in_features, layer.out_features) <= MAX_WIDTH for layer in layers)
        and (type(network.activation) is nn.ReLU or len(layers) == 1)
        and (network.out_activation is None or type(network.out_activation) is nn.Sigmoid)
    )


class _NativeMLP(torch.autograd.Function):
    """(N, in) float32 rows on the CPU, then weight and bias of each layer -> (N, out)."""

    @staticmethod
    def forward(ctx, rows: Tensor, sigmoid: bool, *parameters: Tensor) -> Tensor:
        out = _forward(rows.detach(), sigmoid, parameters)
        ctx.sigmoid = sigmoid
        ctx.save_for_backward(rows, out if sigmoid else None, *parameters)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        rows, out, *parameters = ctx.saved_tensors
        wants_rows, _, *wants_parameters = ctx.needs_input_grad
        if torch.is_grad_enabled():  # create_graph=True: the gradient itself is to be differentiated
            inputs = [rows, *parameters]
            wanted = [tensor for tensor, wants in zip(inputs, [wants_rows, *wants_parameters], strict=True) if wants]
            found = iter(torch.autograd.grad(torch_mlp(rows, ctx.sigmoid, parameters), wanted, grad, create_graph=True))
            gradients = [next(found) if wants else None for wants in (wants_rows, *wants_parameters)]
            return gradients[0], None, *gradients[1:]
        grad_rows, grad_parameters = _backward(rows, ctx.sigmoid, parameters, out, grad, wants_rows, any(wants_parameters))
        chosen = (gradient if wants else None for gradient, wants in zip(grad_parameters, wants_parameters, strict=True))
        return grad_rows, None, *chosen


def torch_mlp(rows: Tensor, sigmoid: bool, parameters: list[Tensor]) -> Tensor:
    """What the kernel computes, by torch: (N, in) rows and each layer's weight and bias -> (N, out)."""
    pairs = list(zip(parameters[::2], parameters[1::2], strict=True))
    for index, (weight, bias) in enumerate(pairs):
        rows = F.linear(rows, weight, bias)
        if index < len(pairs) - 1:
            rows = torch.relu(rows)
    return torch.sigmoid(rows) if sigmoid else rows


def _forward(rows: Tensor, sigmoid: bool, parameters: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    arguments, kept = _arguments(rows, sigmoid, parameters)
    out = rows.new_empty(len(rows), len(kept[-1]))
    KERNEL.library().spinnerf_mlp_forward(*arguments, out.data_ptr(), kernel_threads())
    return out


def _backward(
    rows: Tensor,
    sigmoid: bool,
    parameters: list[Tensor],
    out: Tensor | None,
    grad: Tensor,
    wants_rows: bool,
    wants_parameters: bool,
) -> tuple[Tensor | None, list[Tensor | None]]:
    arguments, kept = _arguments(rows.detach(), sigmoid, parameters)
    grad = grad.detach().float().contiguous()
    grad_rows = rows.new_empty(rows.shape) if wants_rows else None
    sizes = [tensor.numel() for tensor in kept]
    flat = rows.new_empty(sum(sizes)) if wants_parameters else None
    failed = KERNEL.library().spinnerf_mlp_backward(
        *arguments,
        None if out is None else out.data_ptr(),
        grad.data_ptr(),
        None if grad_rows is None else grad_rows.data_ptr(),
        None if flat is None else flat.data_ptr(),
        kernel_threads(),
    )
    if failed:
        raise MemoryError("no memory for the sums of a small network's backward pass")
    if flat is None:
        return grad_rows, [None] * len(kept)
    return grad_rows, [part.view(tensor.shape) for part, tensor in zip(flat.split(sizes), kept, strict=True)]


def _arguments(rows: Tensor, sigmoid: bool, parameters: list[Tensor] | tuple[Tensor, ...]) -> tuple[tuple, list[Tensor]]:
    """The arguments that both passes begin with, and the tensors behind the pointers, to be kept until after the call."""
    kept = [tensor.detach().contiguous() for tensor in parameters]
    count = len(kept) // 2
    widths = (ctypes.c_int * (count + 1))(rows.shape[1], *(len(bias) for bias in kept[1::2]))
    weights = (ctypes.c_void_p * count)(*(tensor.data_ptr() for tensor in kept[::2]))
    biases = (ctypes.c_void_p * count)(*(tensor.data_ptr() for tensor in kept[1::2]))
    return (rows.data_ptr(), len(rows), rows.stride(0), widths, count, weights, biases, int(sigmoid)), kept


def _declare(library: ctypes.CDLL) -> None:
    pointer, long, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    integers, pointers = ctypes.POINTER(integer), ctypes.POINTER(pointer)
    network = [pointer, long, long, integers, integer, pointers, pointers, integer]
    library.spinnerf_mlp_forward.argtypes = [*network, pointer, integer]
    library.spinnerf_mlp_forward.restype = None
    library.spinnerf_mlp_backward.argtypes = [*network, pointer, pointer, pointer, pointer, integer]
    if (library.spinnerf_mlp_max_width(), library.spinnerf_mlp_max_layers()) != (MAX_WIDTH, MAX_LAYERS):
        raise KernelUnavailable("tiny_mlp.cpp and tiny_mlp.py state different limits")


def _agrees() -> bool:
    """Whether the kernel gives torch's values and gradients here."""
    with torch.autocast("cpu", enabled=False):
        shapes = [(33, 5), (33,), (3, 33), (3,)]
        parameters = [torch.arange(float(torch.Size(shape).numel())).reshape(shape).sin() for shape in shapes]
        inputs = [torch.arange(500.0).reshape(100, 5).cos(), *parameters]
        inputs = [tensor.requires_grad_() for tensor in inputs]
        results = []
        for function in (lambda rows, sigmoid, tensors: _NativeMLP.apply(rows, sigmoid, *tensors), torch_mlp):
            out = function(inputs[0], True, inputs[1:])
            results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(*results, strict=True))


KERNEL = Kernel(__file__, _declare, _agrees, "small networks run on torch's path", old_variable="SPINNERF_TINY_MLP")
