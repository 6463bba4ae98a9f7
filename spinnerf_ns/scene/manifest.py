"""manifest.json: how everything in a workspace came about.

Schema 2:
    schema        2
    scene         the capture's folder, relative to the workspace, so that both can be moved together; and `scene_was`, in full
    object_free   photos that do not show the object: truth
    clean_photos  photos that do not show the object and are sources; may be absent
    skipped       photos that are left out (absent, broken), as the capture's files name them -> why; may be absent
    stages        name -> key, capture (its digest), version, parameters, versions, inputs (file -> sha256), outputs (folder or
                  file -> its files, each with [sha256, size, mtime_ns] as the stage wrote it), records (photo -> what the stage
                  says of it)

Schema 1 had neither `capture` nor `version`, and of outputs only the files' names. It is read; its stages are refused in a line.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import write_json

SCHEMA = 2
"""The manifest's schema that this version writes, and the newest that it reads."""

READABLE = (1, SCHEMA)

VERSIONS = {
    "track": 2,
    "segment": 2,
    "render": 3,
    "background": 3,
    "export": 4,
    "spinnerf-seg": 2,
    "spinnerf-inpaint": 3,
}
"""Stage, or trained method -> the version of its algorithm. Raise it when the same inputs and settings give another result from
now on: what was made before is then no longer taken for fresh. A stage that is not named here has version 1."""

DELETABLE = {"track": ("objects",), "segment": ("masks_2d",)}
"""Stage -> outputs of which a person may delete single files: without them the next stage does something else, and can go on."""

FILE_ITSELF = "."
"""The name of an output that is a file, in its own list of files."""


def version_of(name: str) -> int:
    """The version of a stage's or method's algorithm; a -lite method is the same one with other settings."""
    return VERSIONS.get(name.removesuffix("-lite"), 1)


class ManifestFile:
    """manifest.json of a workspace, parsed once for each time that it is written.

    Args:
        path: the file, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity: tuple[int, int, int] | None = None
        self._content: dict[str, Any] = {}

    def view(self) -> Mapping[str, Any]:
        """The contents, not to be changed; an empty manifest where there is no file.

        Raises:
            SpinnerfError: it is damaged, of a newer schema, or cannot be read.
        """
        try:
            status = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return {"schema": SCHEMA, "object_free": [], "stages": {}}
        except OSError as error:
            raise self._unreadable(error) from error
        identity = (status.st_mtime_ns, status.st_size, status.st_ino)
        if identity != self._identity:
            self._content = self._parse()
            self._identity = identity
        return self._content

    def read(self) -> dict[str, Any]:
        """A copy of the contents, to be changed and written.

        Raises:
            SpinnerfError: as `view`.
        """
        return copy.deepcopy(dict(self.view()))

    def write(self, manifest: Mapping[str, Any]) -> None:
        """Replaces the file, atomically."""
        write_json(self.path, {**manifest, "schema": SCHEMA})

    def _parse(self) -> dict[str, Any]:
        path = self.path
        again = "move it away and run the stages again with --overwrite"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error
        schema = manifest.get("schema") if isinstance(manifest, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise SpinnerfError(
                f"{path}: written by a newer spinnerf-ns (manifest schema {schema}, this version reads up to {SCHEMA}); "
                "update it: git pull in its clone, then pip install -e ."
            )
        if not _is_manifest(manifest):
            raise SpinnerfError(
                f"{path}: is no manifest of schema {SCHEMA} (found schema {schema!r} or entries of another kind); {again}"
            )
        return manifest

    def _unreadable(self, error: Exception) -> SpinnerfError:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return SpinnerfError(
            f"{self.path}: cannot be read as a manifest ({what}); move it away and run the stages again with --overwrite"
        )


def find_scene(manifest: Mapping[str, Any], root: Path) -> Path:
    """The capture's folder of a workspace: where it lies relative to the workspace, else where it was, else around it."""
    candidates = []
    if isinstance(manifest.get("scene"), str):
        candidates.append(Path(os.path.normpath(root / manifest["scene"])))
    if isinstance(manifest.get("scene_was"), str):
        candidates.append(Path(manifest["scene_was"]))
    return next((folder for folder in candidates if folder.is_dir()), root.parent)


def describe_scene(scene: Path, root: Path) -> dict[str, str]:
    """The entries `scene` and `scene_was`."""
    absolute = os.path.abspath(scene)
    try:
        relative = Path(os.path.relpath(absolute, root)).as_posix()
    except ValueError:  # another drive (Windows)
        relative = absolute
    return {"scene": relative, "scene_was": absolute}


def is_whole(entry: Any) -> bool:
    """Whether a stage's entry says all that a later run needs; one that was damaged vouches for nothing."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("key"), str)
        and isinstance(entry.get("outputs"), dict)
        and all(isinstance(files, (dict, list)) for files in entry["outputs"].values())
        and is_records(entry.get("records"))
    )


def is_records(value: Any) -> bool:
    """Whether this is photo -> {"status": ..., ...}."""
    return isinstance(value, dict) and all(isinstance(record, dict) and "status" in record for record in value.values())


def _is_manifest(manifest: Any) -> bool:
    return (
        isinstance(manifest, dict)
        and manifest.get("schema") in READABLE
        and _are_names(manifest.get("object_free"))
        and _are_names(manifest.get("clean_photos", []))
        and isinstance(manifest.get("stages"), dict)
        and all(isinstance(stage, dict) for stage in manifest["stages"].values())
    )


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(photo, str) for photo in value)
