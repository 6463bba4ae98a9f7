"""<scene>/spinnerf/: where everything of ours lies; `manifest` says how it came about."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.hints import WORKSPACE_FOLDER, command
from spinnerf_ns.scene.lock import WorkspaceLock, cannot_write
from spinnerf_ns.scene.manifest import ManifestFile, describe_scene, find_scene, is_records
from spinnerf_ns.scene.stage import Stage

if TYPE_CHECKING:
    from spinnerf_ns.scene.capture import Capture
    from spinnerf_ns.scene.view import View

REFERENCE = "reference"
"""True in the export's record of the reference view, the photo whose filling is taken at its word."""
REFERS = "refers"
"""True in the export's records of all photos that were completed to be carried to the others."""


class Workspace:
    """A capture's workspace. Nothing is created before something is written.

    Args:
        scene: the capture's folder.
        root: the workspace's folder.
    """

    def __init__(self, scene: Path, root: Path) -> None:
        self.scene = scene
        self.root = Path(os.path.abspath(root))  # absolute: a change of directory must not split it in two
        self._manifest = ManifestFile(self.root / "manifest.json")

    @classmethod
    def open(cls, data: Path | str, workspace: Path | str | None = None) -> Workspace:
        """The workspace of a capture.

        Args:
            data: the capture's folder, or its .json file.
            workspace: the workspace's folder; by default <data's folder>/spinnerf.

        Raises:
            SpinnerfError: no such capture, no place for a workspace, or a manifest that is damaged or of a newer schema.
        """
        data = Path(data)
        if not data.exists():
            raise SpinnerfError(f"{data}: no such folder or file; --data wants the folder of a posed capture")
        scene = data.parent if data.is_file() else data
        return cls._checked(scene, Path(workspace) if workspace is not None else scene / WORKSPACE_FOLDER)

    @classmethod
    def at(cls, root: Path | str) -> Workspace:
        """A workspace by its own folder alone: its capture is where the manifest says, wherever both were moved together.

        Raises:
            SpinnerfError: as `open`.
        """
        opened = cls._checked(Path(root).parent, Path(root))
        opened.scene = find_scene(opened.manifest, opened.root)
        return opened

    @classmethod
    def _checked(cls, scene: Path, root: Path) -> Workspace:
        opened = cls(scene, root)
        if opened.root.exists() and not opened.root.is_dir():
            raise cannot_write(opened.root, NotADirectoryError(20, "it is a file"))
        opened.manifest  # noqa: B018  refuses early what a later version wrote
        return opened

    def lock(self) -> WorkspaceLock:
        """A context in which no other process writes here; stages take it by themselves."""
        return WorkspaceLock(self.root)

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
    def log(self) -> Path:
        """log.txt: how far what was when, added to by every run."""
        return self.root / "log.txt"

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
    @property
    def manifest(self) -> Mapping[str, Any]:
        """The manifest's contents, not to be changed; an empty one where there is no file. See `manifest`.

        Raises:
            SpinnerfError: it is damaged or of a newer schema.
        """
        return self._manifest.view()

    def read_manifest(self) -> dict[str, Any]:
        """A copy of the manifest's contents, to be changed and written.

        Raises:
            SpinnerfError: as `manifest`.
        """
        return self._manifest.read()

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Replaces the manifest, atomically."""
        self._manifest.write({**manifest, **describe_scene(self.scene, self.root)})

    @property
    def reference_view(self) -> str | None:
        """The photo that the last export took for the reference view."""
        records = self.records("export")
        return next((photo for photo, record in records.items() if record.get(REFERENCE)), None)

    @property
    def object_free(self) -> tuple[str, ...]:
        """Photos that do not show the object: never segmented or inpainted, and trained on only if they are `clean_photos`."""
        return tuple(dict.fromkeys([*self.manifest["object_free"], *self.clean_photos]))

    @property
    def clean_photos(self) -> tuple[str, ...]:
        """The object-free photos that a person named as sources: what they show is taken, so they are no truth to compare with."""
        return tuple(self.manifest.get("clean_photos", ()))

    @property
    def truth_photos(self) -> tuple[str, ...]:
        """The other object-free photos: what is made is compared with them, so nothing is made of them."""
        clean = set(self.clean_photos)
        return tuple(photo for photo in self.manifest["object_free"] if photo not in clean)

    def views_with_object(self, capture: Capture) -> list[View]:
        """The views that are segmented and inpainted: all but the object-free ones, in the capture's order."""
        object_free = set(self.object_free)
        return [view for view in capture.views if view.photo not in object_free]

    def clean_views(self, capture: Capture) -> list[View]:
        """The views of the clean photos, in the capture's order."""
        clean = set(self.clean_photos)
        return [view for view in capture.views if view.photo in clean]

    def set_clean_photos(self, photos: Iterable[str]) -> None:
        """Names the clean photos, in place of those named before; `segmentation.clean_photos` checks them first."""
        photos = tuple(photos)
        if photos == self.clean_photos:
            return
        with self.lock():
            manifest = self.read_manifest()
            manifest["clean_photos"] = list(dict.fromkeys(str(photo) for photo in photos))
            if not manifest["clean_photos"]:
                del manifest["clean_photos"]
            self.write_manifest(manifest)

    def set_object_free(self, photos: Iterable[str]) -> None:
        """Names the object-free photos, in place of those named before. Kept in the order given."""
        with self.lock():
            manifest = self.read_manifest()
            manifest["object_free"] = list(dict.fromkeys(str(photo) for photo in photos))
            self.write_manifest(manifest)

    @property
    def skipped(self) -> dict[str, str]:
        """Photos that every command leaves out, as the capture's files name them -> why (absent, cut short, ...)."""
        return dict(self.manifest.get("skipped", {}))

    def set_skipped(self, photos: Mapping[str, str]) -> None:
        """Names the photos to leave out, in place of those named before."""
        with self.lock():
            manifest = self.read_manifest()
            manifest["skipped"] = dict(photos)
            self.write_manifest(manifest)

    def records(self, stage: str) -> dict[str, dict[str, Any]]:
        """What a finished stage recorded: photo -> {"status": ..., ...}; empty for a stage that has not finished."""
        records = self.manifest["stages"].get(stage, {}).get("records")
        return records if is_records(records) else {}

    def export_command(self, overwrite: bool = False) -> str:
        """The command that makes the last export again, of the run that the manifest knows it from."""
        inputs = self.manifest["stages"].get("render", {}).get("inputs")
        checkpoint = next((name for name in inputs if name.endswith(".ckpt")), None) if isinstance(inputs, dict) else None
        config = "CONFIG" if checkpoint is None else self.absolute(checkpoint).parents[1] / "config.yml"
        return command("ns-spinnerf", "export", load_config=config, overwrite=overwrite)

    # ---------------------------------------------------------------------------------------------------------- stages
    def stage(
        self,
        name: str,
        parameters: Mapping[str, Any],
        inputs: Iterable[Path],
        outputs: Iterable[Path],
        overwrite: bool = False,
        capture: Capture | None = None,
    ) -> Stage:
        """A stage of work whose outputs appear all at once, when it is done; see `Stage`.

        Args:
            name: its name in the manifest.
            parameters: what the result depends on besides files: numbers, texts, paths, lists and dicts of these.
            inputs: files, or folders with all files in them; their contents decide what is fresh.
            outputs: what it writes, files or folders below the workspace; a name without suffix is a folder.
            overwrite: whether outputs made from other inputs or parameters are replaced, and what was done by hand is undone.
            capture: whose cameras and points it is made from.

        Raises:
            SpinnerfError: an input is missing, or outputs made otherwise exist and `overwrite` is False.
        """
        return Stage(self, name, parameters, [Path(path) for path in inputs], [Path(path) for path in outputs], overwrite, capture)

    def relative(self, path: Path) -> str:
        """How the manifest names a file: spinnerf/... in the workspace, below the scene if it lies there, so that both can be
        moved; else in full."""
        absolute, scene, root = os.path.abspath(path), os.path.abspath(self.scene), str(self.root)
        if absolute.startswith(root + os.sep):
            return (Path(WORKSPACE_FOLDER) / os.path.relpath(absolute, root)).as_posix()
        return Path(os.path.relpath(absolute, scene) if absolute.startswith(scene + os.sep) else absolute).as_posix()

    def absolute(self, name: str) -> Path:
        """The file that the manifest names so."""
        if name.startswith(f"{WORKSPACE_FOLDER}/"):
            return self.root / name.removeprefix(f"{WORKSPACE_FOLDER}/")
        return Path(os.path.abspath(self.scene)) / name
