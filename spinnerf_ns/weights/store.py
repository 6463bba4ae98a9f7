"""Every pretrained file that the package may use: where it comes from, its licence, how it is checked, where it is kept.

Looked for in `cache_dir()` (moved by SPINNERF_WEIGHTS), then in torch's hub cache. Downloads are checked before first use; a
file that fails its check is moved aside and never used. SPINNERF_OFFLINE=1 forbids downloads.

The table itself is `weights_table.py`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import sha256_of
from spinnerf_ns.weights.consent import refusal
from spinnerf_ns.weights.download import CHUNK, DownloadFailed, WrongFile, download
from spinnerf_ns.weights.table import WEIGHTS, HubModel, WeightsFile

if TYPE_CHECKING:
    import torch


class WeightsUnavailable(SpinnerfError):
    """Pretrained weights can't be had here; the message says which file to put where."""


# ------------------------------------------------------------------------------------------------------------ where it is
def cache_dir() -> Path:
    """The folder for pretrained files: SPINNERF_WEIGHTS, or ~/.cache/spinnerf_ns."""
    return Path(os.environ.get("SPINNERF_WEIGHTS") or Path.home() / ".cache" / "spinnerf_ns").expanduser()


def _torch_cache() -> Path:
    """torch's hub cache, where torchvision and others keep files of the same names."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def offline() -> bool:
    """Whether SPINNERF_OFFLINE forbids downloads."""
    return os.environ.get("SPINNERF_OFFLINE", "").lower() not in ("", "0", "false", "no")


def find_entry(name: str) -> WeightsFile | HubModel:
    """The table's entry; "-" and "_" are the same.

    Raises:
        SpinnerfError: there is none; the message names similar ones.
    """
    by_name = {known.replace("_", "-"): entry for known, entry in WEIGHTS.items()}
    entry = by_name.get(name.replace("_", "-"))
    if entry is None:
        near = get_close_matches(name.replace("_", "-"), by_name, n=3) or by_name
        raise SpinnerfError(f"no weights are called '{name}'; there are: {', '.join(by_name[each].name for each in near)}")
    return entry


def ensure_weights(name: str, allow_download: bool = True, path: Path | str | None = None) -> Path:
    """A pretrained file's place on disk; downloaded if need be.

    Args:
        name: its name in `WEIGHTS`.
        allow_download: whether the network may be used.
        path: a file (or hub folder) that the user names instead: taken as it is.

    Returns:
        The checked file; for a hub model its folder.

    Raises:
        WeightsUnavailable: it is nowhere and can't be had; the message says which file to put where.
        SpinnerfError: no such name, or `path` is missing.
    """
    entry = find_entry(name)
    if path is not None:
        if not Path(path).exists():
            raise SpinnerfError(f"{path}: this file of weights ({entry.name}) is missing; correct the path")
        return Path(path)
    allow_download = allow_download and not offline()
    if isinstance(entry, HubModel):
        return _ensure_hub(entry, allow_download)
    found, rejected = locate(entry)
    if found is not None:
        return found
    target = cache_dir() / entry.file_name
    by_hand = f"download {entry.url} and put it into {cache_dir()}"
    before = f"{rejected}; " if rejected else ""
    if not allow_download:
        raise WeightsUnavailable(f"{before}{entry.name}: {entry.file_name} is absent and downloads are off; {by_hand}")
    refused = refusal(entry)
    if refused is not None:
        raise WeightsUnavailable(f"{before}{entry.name}: {entry.file_name} is absent, and {refused}")
    _announce(entry, f"{(entry.size or 0) / 1e6:.0f} MB into {cache_dir()}")
    try:
        download(entry.url, target, entry.size, lambda file: problem(entry, file))
    except WrongFile as error:
        raise WeightsUnavailable(f"{before}{entry.name}: {error}; try later, or {by_hand}") from error
    except DownloadFailed as error:
        raise WeightsUnavailable(f"{before}{entry.name}: {entry.file_name} can't be had: {error}; {by_hand}") from error
    _stamp(target)
    return target


def find_file(entry: WeightsFile) -> Path | None:
    """The entry's file where it lies, unchecked."""
    files = (folder / entry.file_name for folder in (cache_dir(), _torch_cache()))
    return next((file for file in files if file.is_file()), None)


def locate(entry: WeightsFile) -> tuple[Path | None, str | None]:
    """The entry's file where it already is: (checked file, None), or (None, why a file in our cache was refused).

    A wrong file in our cache is moved aside (`.rejected`); one in torch's cache is not ours, and only passed over.
    """
    rejected = None
    for folder in (cache_dir(), _torch_cache()):
        file = folder / entry.file_name
        if not file.is_file():
            continue
        if _stamped(file):
            return file, None
        wrong = problem(entry, file)
        if wrong is None:
            _stamp(file)
            return file, None
        if folder == cache_dir():
            aside = file.with_name(f"{file.name}.rejected")
            os.replace(file, aside)
            rejected = f"{file} is a wrong file ({wrong}) and was moved to {aside.name}"
        else:
            rejected = f"{file} is a wrong file ({wrong})"
    return None, rejected


# ------------------------------------------------------------------------------------------------------------------ checks
def problem(entry: WeightsFile, file: Path) -> str | None:
    """What is wrong with a file, by size, sha256 and the publisher's digest; None if nothing is."""
    size = file.stat().st_size
    if entry.size is not None and size != entry.size:
        return f"{size} bytes, {entry.size} expected"
    if entry.sha256 is None and entry.publisher_digest is None:
        return "no checksum of it is known"
    wanted = [("sha256", entry.sha256)] if entry.sha256 else []
    wanted += [entry.publisher_digest] if entry.publisher_digest else []
    found = _digests(file, {algorithm for algorithm, _ in wanted})
    for algorithm, expected in wanted:
        if not found[algorithm].startswith(expected.lower()):
            return f"{algorithm} {found[algorithm]}, {expected} expected"
    return None


def _digests(file: Path, algorithms: set[str]) -> dict[str, str]:
    hashes = {algorithm: hashlib.new(algorithm, usedforsecurity=False) for algorithm in algorithms}
    with open(file, "rb") as stream:
        while chunk := stream.read(CHUNK):
            for each in hashes.values():
                each.update(chunk)
    return {algorithm: each.hexdigest() for algorithm, each in hashes.items()}


def _stamp_file(file: Path) -> Path:
    # In our own cache even for torch's files: that folder is not ours to write into.
    key = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
    return cache_dir() / "checked" / f"{file.name}-{key}.json"


def _stamp(file: Path) -> None:
    """Remembers that a file passed its check, so that gigabytes are not hashed at every start."""
    state = file.stat()
    try:
        _stamp_file(file).parent.mkdir(parents=True, exist_ok=True)
        _stamp_file(file).write_text(json.dumps({"size": state.st_size, "mtime_ns": state.st_mtime_ns}))
    except OSError:
        pass  # a read-only cache is hashed every time


def _stamped(file: Path) -> bool:
    state = file.stat()
    try:
        return json.loads(_stamp_file(file).read_text()) == {"size": state.st_size, "mtime_ns": state.st_mtime_ns}
    except (OSError, ValueError):
        return False


# --------------------------------------------------------------------------------------------------------------------- hub
_HUB_PATTERNS: dict[str, Any] = {
    "allow_patterns": ["*.json", "*.txt", "*.model", "*.safetensors"],  # no pickles
    "ignore_patterns": ["*.fp16.*", "*non_ema*", "safety_checker/*"],  # other precisions of the same; what is not used
}


def find_hub_folder(entry: HubModel) -> Path | None:
    """A hub model's folder where it already is: one put by hand into our cache, else one in huggingface_hub's caches."""
    by_hand = cache_dir() / entry.name
    if any((by_hand / name).is_file() for name in ("config.json", "model_index.json")):
        return by_hand
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        return None
    for cache in (None, _own_hub_cache()):
        try:
            folder = Path(snapshot_download(entry.hub_id, local_files_only=True, cache_dir=cache, **_HUB_PATTERNS))
        except Exception:  # that library's own kinds, which differ between its versions: not there
            continue
        if _is_complete(folder):
            return folder
    return None


def _own_hub_cache() -> Path:
    return cache_dir() / "hub"


def _ensure_hub(entry: HubModel, allow_download: bool) -> Path:
    """A hub model's folder, found or downloaded by huggingface_hub, which has its own cache, resume and checks."""
    found = find_hub_folder(entry)
    if found is not None:
        return found
    mend = (
        f"on a machine with network: hf download {entry.hub_id} --local-dir {entry.name}, or its .json, .txt and "
        f".safetensors files from {entry.url}/tree/main, then put that folder here as {cache_dir() / entry.name}"
    )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise WeightsUnavailable(
            f"{entry.name} is fetched by the package huggingface_hub, which is not installed; pip install huggingface_hub, "
            f"or {mend}"
        ) from error
    if not allow_download:
        raise WeightsUnavailable(f"{entry.name} is not (wholly) in Hugging Face's cache and downloads are off; {mend}")
    refused = refusal(entry)
    if refused is not None:
        raise WeightsUnavailable(f"{entry.name} is not (wholly) in Hugging Face's cache, and {refused}")
    # SPINNERF_WEIGHTS moves all that we download; without it that library's cache serves, which other programs share.
    cache = _own_hub_cache() if os.environ.get("SPINNERF_WEIGHTS") else None
    _announce(entry, f"into {cache or 'the cache of Hugging Face (HF_HOME)'}")
    try:
        return Path(snapshot_download(entry.hub_id, cache_dir=cache, **_HUB_PATTERNS))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsUnavailable(f"{entry.name} can't be downloaded ({reason}); {mend}") from error


def _is_complete(folder: Path) -> bool:
    """Whether a folder in Hugging Face's cache looks whole: that library hands out what an interrupted download left."""
    begun = (folder.parent.parent / "blobs").glob("*.incomplete")
    return any(folder.rglob("*.safetensors")) and not any(begun)


def check_hub_folder(folder: Path) -> tuple[int, str | None]:
    """Hashes a folder in Hugging Face's cache, where large files are kept under their sha256.

    Returns:
        How many files could be checked (none of a folder put there by hand), and what is wrong.
    """
    checked = 0
    for file in sorted(folder.rglob("*.safetensors")):
        expected = file.resolve().name
        if not file.is_symlink() or len(expected) != 64:
            continue
        checked += 1
        found = sha256_of(file)
        if found != expected:
            return checked, f"{file.relative_to(folder)} has the sha256 {found}, {expected} expected"
    return checked, None


def _announce(entry: WeightsFile | HubModel, what: str) -> None:
    """Says the licence before a download begins."""
    from nerfstudio.utils.rich_utils import CONSOLE

    text = f"{entry.name}: licence {entry.licence}; downloading {entry.url}, {what}"
    CONSOLE.print(text, markup=False, highlight=False, soft_wrap=True)


# ----------------------------------------------------------------------------------------------------------------- loading
def load_state_dict(path: Path | str, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Reads a checkpoint of plain tensors (`weights_only=True`: no code of the file is run).

    Raises:
        SpinnerfError: the file is missing, damaged, or holds more than tensors.
    """
    import torch

    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # pickle, zip and runtime errors, by the kind of damage
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SpinnerfError(f"{path}: cannot be read as weights ({reason}); delete it and fetch it again") from error


def load_torchscript(path: Path | str, sha256: str | None = None, trusted: bool = False, device: str = "cpu") -> Any:
    """Reads a TorchScript file, which is a program: only one that is known, or that the user vouches for.

    Args:
        path: the file.
        sha256: what it must be; None where nothing is known of it.
        trusted: the user named this very file with an explicit flag.
        device: where its tensors go.

    Returns:
        The `torch.jit.ScriptModule`, in evaluation mode.

    Raises:
        SpinnerfError: the file is missing, not the known one and not trusted, or damaged.
    """
    import torch

    try:
        content = Path(path).read_bytes()  # what is hashed is what is run
    except OSError as error:
        raise SpinnerfError(f"{path}: this TorchScript cannot be read ({error.strerror}); correct the path") from error
    found = hashlib.sha256(content).hexdigest()
    if not trusted and (sha256 is None or found != sha256.lower()):
        known = f"sha256 {sha256} was expected" if sha256 else "nothing is known of it"
        raise SpinnerfError(
            f"{path}: TorchScript is a program, and this one is unknown (sha256 {found}, {known}); "
            "fetch the known one with ns-spinnerf weights fetch, or say explicitly that you trust this file"
        )
    try:
        return torch.jit.load(io.BytesIO(content), map_location=device).eval()
    except RuntimeError as error:
        reason = (str(error).splitlines() or ["RuntimeError"])[0]
        raise SpinnerfError(f"{path}: cannot be read as TorchScript ({reason}); fetch it again") from error
