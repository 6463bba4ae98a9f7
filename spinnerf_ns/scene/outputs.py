"""What became of a stage's outputs since it wrote them: what stands, what a person changed, and what is lost or damaged."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spinnerf_ns.files import sha256_of
from spinnerf_ns.scene.manifest import FILE_ITSELF

Found = tuple[str, str]
"""An output's name below the workspace, and a file's name in it (`FILE_ITSELF` for an output that is a file)."""


@dataclass
class OutputsState:
    """Every file of a stage's outputs, by what became of it."""

    intact: list[Found] = field(default_factory=list)
    """As the stage wrote them, or of a manifest that does not say how."""
    changed: list[Found] = field(default_factory=list)
    """Changed by hand."""
    added: list[Found] = field(default_factory=list)
    """Put there by hand."""
    deleted: list[Found] = field(default_factory=list)
    """Deleted by hand, where that means something."""
    lost: list[Found] = field(default_factory=list)
    """Gone, where the next stage needs them."""
    damaged: list[Found] = field(default_factory=list)
    """Empty, cut short or unreadable: nobody's work."""

    @property
    def by_hand(self) -> bool:
        """Whether a person has been at work here."""
        return bool(self.changed or self.added or self.deleted)

    @property
    def complete(self) -> bool:
        """Whether the next stage finds all that it needs."""
        return not (self.lost or self.damaged)

    def describe_by_hand(self) -> str:
        """ "1 changed (masks_2d/a.png), 1 deleted (masks_2d/b.png)"."""
        parts = (("changed", self.changed), ("added", self.added), ("deleted", self.deleted))
        return ", ".join(f"{len(files)} {what} ({_some(files)})" for what, files in parts if files)

    def describe_incomplete(self) -> str:
        """ "1 gone (removed/images/a.png), 1 damaged (removed/transforms.json)"."""
        parts = (("gone", self.lost), ("damaged", self.damaged))
        return ", ".join(f"{len(files)} {what} ({_some(files)})" for what, files in parts if files)


def look_at_outputs(root: Path, outputs: Mapping[str, Any], deletable: Sequence[str] = ()) -> OutputsState:
    """Compares what lies on disk with what a stage's entry says of it.

    Args:
        root: the workspace.
        outputs: the entry's: output -> file -> [sha256, size, mtime_ns]; or a list of files, of which nothing is known.
        deletable: outputs of which single files may be missing.
    """
    state = OutputsState()
    for name, files in outputs.items():
        known = files if isinstance(files, dict) else dict.fromkeys(files or [FILE_ITSELF])
        here = set(list_files(root / name))
        for file, record in known.items():
            if file in here:
                _judge(root / name / file, record, (name, file), state)
            elif name in deletable and here:
                state.deleted.append((name, file))
            else:
                state.lost.append((name, file))
        if isinstance(files, dict):
            own = {record[0] for record in files.values() if record is not None}
            # A copy of what the stage wrote is nobody's work: copying a folder may have resolved a link in it.
            state.added += [(name, file) for file in sorted(here - known.keys()) if sha256_of(root / name / file) not in own]
        if not files and not (root / name).exists():
            state.lost.append((name, FILE_ITSELF))
    return state


def _judge(path: Path, record: Any, found: Found, state: OutputsState) -> None:
    status = os.stat(path)
    if record is None or list(record[1:]) == [status.st_size, status.st_mtime_ns] or sha256_of(path) == record[0]:
        state.intact.append(found)
    elif is_readable(path):
        state.changed.append(found)
    else:
        state.damaged.append(found)


def record_files(path: Path) -> dict[str, list[Any]]:
    """What an entry says of an output's files: file -> [sha256, size, mtime_ns]."""
    files = {}
    for name in list_files(path):
        status = os.stat(path / name)
        files[name] = [sha256_of(path / name), status.st_size, status.st_mtime_ns]
    return files


def list_files(path: Path) -> list[str]:
    """Visible files below a folder, relative and sorted; `FILE_ITSELF` for a file."""
    if not path.is_dir():
        return [FILE_ITSELF] if path.is_file() else []
    files = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    return sorted(file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts))


def is_readable(path: Path) -> bool:
    """Whether a file is, in full, what its suffix says: JSON, image, array, checkpoint; others: whether it has content."""
    if path.stat().st_size == 0:
        return False
    suffix = path.suffix.lower()
    try:
        if suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif suffix == ".npy":
            np.load(path, mmap_mode="r", allow_pickle=False)
        elif suffix in (".pt", ".ckpt"):
            return zipfile.is_zipfile(path)
        elif suffix in (".png", ".jpg", ".jpeg"):
            from PIL import Image

            with Image.open(path) as image:
                image.load()
    except (OSError, ValueError, SyntaxError, EOFError):
        return False
    return True


def photo_of(file: str, photos: Iterable[str]) -> str | None:
    """Whose file in an output this is: <photo>.png, images/<photo>.png, depths/<photo>.npy."""
    stem = file.rsplit(".", 1)[0]
    matching = [photo for photo in photos if stem == photo or stem.endswith(f"/{photo}")]
    return max(matching, key=len, default=None)


def keep_file(source: Path, target: Path) -> None:
    """Copies a file into what becomes the output, its time included; not through a link to a folder, onto another file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not _behind_a_link(target):
        shutil.copy2(source, target)


def _behind_a_link(path: Path) -> bool:
    """Whether one of the folders below the partial output is a link."""
    for folder in path.parents:
        if folder.is_symlink():
            return True
        if folder.name.startswith(".partial-"):
            return False
    return False


def _some(files: Sequence[Found], most: int = 3) -> str:
    names = [name if file == FILE_ITSELF else f"{name}/{file}" for name, file in files]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
