"""What the machine has for a network: its device and free memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spinnerf_ns.errors import SpinnerfError

if TYPE_CHECKING:
    import torch

GIGABYTE = 1e9
"""Bytes."""


def pick_device(name: str, who: str) -> torch.device:
    """The device called `name`; "auto" is the first CUDA device where there is one, else the CPU.

    Args:
        name: auto, cpu, cuda, cuda:1, ...
        who: whose option it is, for messages.

    Raises:
        SpinnerfError: no such device here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SpinnerfError(f"{who}: device is {name!r}, which cannot be used here ({reason}); take auto or cpu") from error
    return device


def free_memory(device: torch.device) -> int:
    """Bytes that may still be taken on a device."""
    import torch

    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    import psutil

    return psutil.virtual_memory().available
