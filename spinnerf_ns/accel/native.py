"""What the modules with a C++ kernel share: whether to use it, on how many threads, and when another has to do the work."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from spinnerf_ns.accel.kernels import KernelUnavailable
from spinnerf_ns.errors import SpinnerfError

_in_forked_child = False


def requested(variable: str) -> str:
    """What an environment variable asks for; "auto" where it is not set or empty."""
    return os.environ.get(variable, "auto") or "auto"


def choose_native(variable: str, choice: str, agrees: Callable[[], bool], slow: str, other: str = "torch") -> bool:
    """Whether a kernel is to be used. Callers cache it: it builds and tries the kernel.

    Args:
        variable: the environment variable that chooses, for messages.
        choice: what it says: "auto", "native" or `other`.
        agrees: tries the kernel; see `failure_of`.
        slow: what to tell the user where it can't: a sentence that the reason follows in brackets.
        other: the library that does the work without the kernel.

    Raises:
        SpinnerfError: the variable names no implementation, or "native" where it can't be had.
    """
    if choice not in ("auto", "native", other):
        raise SpinnerfError(f"{variable}={choice} names no implementation: set it to auto, native or {other}")
    if choice == other:
        return False
    reason = failure_of(agrees, other)
    if reason is None:
        return True
    if choice == "native":
        raise SpinnerfError(f"{variable}=native can't be had here ({reason}); set it to auto or {other}")
    CONSOLE.print(f"[yellow]{slow} ({reason})[/yellow]")
    return False


def failure_of(agrees: Callable[[], bool], other: str = "torch") -> str | None:
    """Why a kernel can't be used, in one line: it can't be had, fails, or does not give the other's values; None if it can.

    Args:
        agrees: runs the kernel and the other library on the same input; whether both give the same.
        other: that library.
    """
    try:
        # The first use may be a render without gradients.
        with torch.inference_mode(False), torch.enable_grad():
            return None if agrees() else f"its values differ from {other}'s"
    except KernelUnavailable as error:
        return str(error)
    except Exception as error:  # whatever a compiler or a kernel may raise: a slow path is better than none
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def kernel_threads() -> int:
    """Threads that a kernel may use."""
    # An OpenMP runtime that was used before a fork hangs in the child as soon as it is used there with several threads.
    return 1 if _in_forked_child else torch.get_num_threads()


def is_tracing() -> bool:
    """Whether torch.compile, torch.jit.trace or torch.func reads the model: they can follow the torch path alone."""
    compiling = getattr(torch.compiler, "is_compiling", None)
    transforming = getattr(torch._C, "_are_functorch_transforms_active", None)  # private, so it may be absent
    return torch.jit.is_tracing() or bool(compiling and compiling()) or bool(transforming and transforming())


def _after_fork() -> None:
    global _in_forked_child
    _in_forked_child = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
