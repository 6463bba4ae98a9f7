"""<scene>/spinnerf/: where everything of ours lies, and the manifest that says how it came about.

manifest.json, schema 1:
    schema        1
    object_free   photos that do not show the object
    stages        name -> key, parameters, versions, inputs (file -> sha256), outputs (folder or file -> its files), records
                  (photo -> what the stage says of it)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import atomic_path
from spinnerf_ns.scene.stage import Stage

SCHEMA = 1
"""The manifest's schema that this version writes, and the newest that it reads."""

FOLDER = "spinnerf"
"""The workspace's name below the scene."""

REFERENCE = "reference"
"""True in the export's record of the reference view, the photo whose filling is taken at its word."""


class Workspace:
    """A capture's workspace. Nothing is created before something is written.

    Args:
        scene: the capture's folder.
        root: the workspace's folder.
    """

    def __init__(self, scene: Path, root: Path) -> None:
        self.scene = scene
        self.root = root

    @classmethod
    def open(cls, data: Path | str, workspace: Path | str | None = None) -> Workspace:
        """The workspace of a capture.

        Args:
            data: the capture's folder, or its .json file.
            workspace: the workspace's folder; by default <data's folder>/spinnerf.

        Raises:
            SpinnerfError: no such capture, or a manifest that is damaged or of a newer schema.
        """
        data = Path(data)
        if not data.exists():
            raise SpinnerfError(f"{data}: no such folder or file; --data wants the folder of a posed capture")
        scene = data.parent if data.is_file() else data
        root = Path(workspace) if workspace is not None else scene / FOLDER
        opened = cls(scene, Path(os.path.abspath(root)))  # absolute: a change of directory must not split it in two
        opened.read_manifest()  # refuses early what a later version wrote
        return opened

    # --------------------------------------------------------------------------------------------------------- layout
    @property
    def manifest_path(self) -> Path:
        """manifest.json."""
        return self.root / "manifest.json"

    @property
    def prompts_path(self) -> Path:
        """prompts.json: what the person pointed at."""
        return self.root / "prompts.json"

    @property
    def masks_2d(self) -> Path:
        """Folder of tracked object masks."""
        return self.root / "masks_2d"

    @property
    def masks_3d(self) -> Path:
        """Folder of object masks rendered from the field."""
        return self.root / "masks_3d"

    @property
    def points(self) -> Path:
        """Folder of own sparse points, for a capture that brings none."""
        return self.root / "points"

    @property
    def stereo(self) -> Path:
        """Folder of dense depth and its confidence."""
        return self.root / "stereo"

    @property
    def removed(self) -> Path:
        """Folder of the object-free capture."""
        return self.root / "removed"

    def mask_path(self, kind: Literal["masks_2d", "masks_3d"], photo: str) -> Path:
        """A photo's object mask."""
        if kind not in ("masks_2d", "masks_3d"):
            raise ValueError(f"{kind}: masks_2d or masks_3d was expected")
        return self.root / kind / f"{photo}.png"

    # ------------------------------------------------------------------------------------------------------- manifest
    def read_manifest(self) -> dict[str, Any]:
        """The manifest's contents; an empty one where there is no file.

        Raises:
            SpinnerfError: it is damaged or of a newer schema.
        """
        path = self.manifest_path
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"schema": SCHEMA, "object_free": [], "stages": {}}
        except (OSError, ValueError) as error:
            raise SpinnerfError(
                f"{path}: cannot be read as a manifest ({error}); move it away and run the stages again with --overwrite"
            ) from error
        schema = manifest.get("schema") if isinstance(manifest, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise SpinnerfError(
                f"{path}: written by a newer spinnerf-ns (manifest schema {schema}, this version reads up to {SCHEMA}); "
                "update it: git pull in its clone, then pip install -e ."
            )
        if not _is_manifest(manifest):
            raise SpinnerfError(
                f"{path}: is no manifest of schema {SCHEMA} (found schema {schema!r} or entries of another kind); "
                "move it away and run the stages again with --overwrite"
            )
        return manifest

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Replaces the manifest, atomically."""
        with atomic_path(self.manifest_path) as temporary:
            temporary.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @property
    def reference_view(self) -> str | None:
        """The photo that the last export took for the reference view."""
        records = self.read_manifest()["stages"].get("export", {}).get("records", {})
        return next((photo for photo, record in records.items() if record.get(REFERENCE)), None)

    @property
    def object_free(self) -> tuple[str, ...]:
        """Photos that do not show the object: never segmented, inpainted or trained on."""
        return tuple(self.read_manifest()["object_free"])

    def set_object_free(self, photos: Iterable[str]) -> None:
        """Names the object-free photos, in place of those named before. Kept in the order given."""
        manifest = self.read_manifest()
        manifest["object_free"] = list(dict.fromkeys(str(photo) for photo in photos))
        self.write_manifest(manifest)

    def records(self, stage: str) -> dict[str, dict[str, Any]]:
        """What a finished stage recorded: photo -> {"status": ..., ...}; empty for a stage that has not finished."""
        return self.read_manifest()["stages"].get(stage, {}).get("records", {})

    # ---------------------------------------------------------------------------------------------------------- stages
    def stage(
        self,
        name: str,
        parameters: Mapping[str, Any],
        inputs: Iterable[Path],
        outputs: Iterable[Path],
        overwrite: bool = False,
    ) -> Stage:
        """A stage of work whose outputs appear all at once, when it is done; see `Stage`.

        Args:
            name: its name in the manifest.
            parameters: what the result depends on besides files: numbers, texts, paths, lists and dicts of these.
            inputs: files, or folders with all files in them; their contents decide what is fresh.
            outputs: what it writes, files or folders below the workspace; a name without suffix is a folder.
            overwrite: whether outputs made from other inputs or parameters are replaced.

        Raises:
            SpinnerfError: an input is missing, or outputs made otherwise exist and `overwrite` is False.
        """
        return Stage(self, name, parameters, [Path(path) for path in inputs], [Path(path) for path in outputs], overwrite)

    def relative(self, path: Path) -> str:
        """How the manifest names a file: below the scene if it lies there, so that scenes can be moved; else in full."""
        absolute, scene = os.path.abspath(path), os.path.abspath(self.scene)
        return Path(os.path.relpath(absolute, scene) if absolute.startswith(scene + os.sep) else absolute).as_posix()


def _is_manifest(manifest: Any) -> bool:
    return (
        isinstance(manifest, dict)
        and manifest.get("schema") == SCHEMA
        and isinstance(manifest.get("object_free"), list)
        and all(isinstance(photo, str) for photo in manifest["object_free"])
        and isinstance(manifest.get("stages"), dict)
        and all(isinstance(stage, dict) for stage in manifest["stages"].values())
    )
