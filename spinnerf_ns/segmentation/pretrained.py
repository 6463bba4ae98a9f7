"""Loads pretrained networks for segmentation: which device, from which file or folder, and what to say when it can't be."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import digest_of, sha256_of
from spinnerf_ns.registry import install_command
from spinnerf_ns.weights.store import ensure_weights

MOST_MISSING = 0.1
"""A folder that lacks more than this part of a network's tensors belongs to another network."""
CHUNK = 1 << 20


def need_package(module: str, extra: str, what: str) -> ModuleType:
    """Imports an optional package.

    Args:
        module: its import name.
        extra: the extra of this package that brings it.
        what: what needs it, for the message.

    Raises:
        SpinnerfError: it is not installed, or does not import.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SpinnerfError(
            f"{what} needs the package {module}, which does not import ({error}); try: {install_command(extra)}"
        ) from error


def pick_device(device: str) -> str:
    """ "auto" -> "cuda" where there is one, else "cpu"; anything else as it is."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def find_weights(name: str, checkpoint: Path | None) -> Path:
    """A network's file or folder: the one that the user names, or the published one of that name, fetched if need be.

    Raises:
        SpinnerfError: `checkpoint` is missing, no such name, or it can't be had.
    """
    if checkpoint is None:
        return ensure_weights(name)
    if not Path(checkpoint).exists():
        raise SpinnerfError(f"{checkpoint}: this checkpoint is missing; correct its path, or leave it out for '{name}'")
    return Path(checkpoint)


def content_digest(path: Path) -> str:
    """sha256 over a checkpoint's contents: a file's, or those of a model folder's configuration and weights."""
    if path.is_file():
        return sha256_of(path)
    return digest_of({file.name: sha256_of(file) for ending in ("*.json", "*.safetensors") for file in path.glob(ending)})


def load_folder(name: str, checkpoint: Path | None, network: str, processor: str, device: str, what: str) -> tuple[Any, Any]:
    """A network of the package transformers and its processor, from a model folder with safetensors (no pickles).

    Args:
        name: the folder's name in the table of weights.
        checkpoint: a folder in place of that.
        network: class of the network, for example "Sam2VideoModel".
        processor: class of its processor.
        device: where the network goes.
        what: what needs it, for messages.

    Returns:
        The network in evaluation mode, and the processor.

    Raises:
        SpinnerfError: transformers is missing; the folder can't be had, is damaged or belongs to another network.
    """
    transformers = need_package("transformers", "sam2", what)
    if not hasattr(transformers, network):
        raise SpinnerfError(
            f"{what} needs {network}, which transformers {transformers.__version__} lacks; update it: {install_command('sam2')}"
        )
    folder = find_weights(name, checkpoint)
    again = f"delete the folder and fetch it again: ns-spinnerf weights fetch {name}"
    if checkpoint is not None:
        again = "name the folder of a published checkpoint (config.json, model.safetensors, preprocessor_config.json)"
    try:
        with _quiet(transformers):
            loaded, info = getattr(transformers, network).from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            prepared = getattr(transformers, processor).from_pretrained(folder, local_files_only=True)
    except Exception as error:  # OSError, ValueError, RuntimeError and safetensors' own, by the kind of damage
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SpinnerfError(f"{folder}: cannot be read as {network} ({reason}); {again}") from error
    missing, total = len(info["missing_keys"]), len(loaded.state_dict())
    if missing > MOST_MISSING * total:
        raise SpinnerfError(f"{folder}: lacks {missing} of {total} tensors of {network}, it is another network's; {again}")
    return loaded.to(device).eval(), prepared


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Without progress bars and notes on loading; what matters in them is checked here."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
