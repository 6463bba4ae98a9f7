"""What a stage's outputs are made from, and how that differs from what they were made from before."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import spinnerf_ns
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import digest_of, sha256_of
from spinnerf_ns.hints import WORKSPACE_FOLDER
from spinnerf_ns.scene.manifest import version_of
from spinnerf_ns.scene.outputs import list_files

if TYPE_CHECKING:
    from spinnerf_ns.scene.capture import Capture
    from spinnerf_ns.scene.workspace import Workspace

RECORDED_PACKAGES = ("nerfstudio", "torch", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class Origin:
    """All that decides what a stage's outputs are."""

    parameters: dict[str, Any]
    """Its settings, as JSON gives them back."""
    inputs: dict[str, str]
    """File, as the manifest names it -> sha256."""
    capture: str | None
    """The capture's digest: cameras and points."""
    version: int
    """Of the stage's algorithm."""

    @classmethod
    def of(
        cls, workspace: Workspace, stage: str, parameters: Mapping[str, Any], inputs: Sequence[Path], capture: Capture | None
    ) -> Origin:
        """What a stage is made from now.

        Raises:
            SpinnerfError: an input is missing.
        """
        settings = json.loads(json.dumps(parameters, default=plain, sort_keys=True))
        digest = None if capture is None else capture.digest
        return cls(settings, hash_files(inputs, workspace), digest, version_of(stage))

    @property
    def key(self) -> str:
        """One text for all of it."""
        # A file outside scene and workspace counts by its name alone, so that a moved checkpoint is the same input.
        named = [(name if not os.path.isabs(name) else Path(name).name, digest) for name, digest in self.inputs.items()]
        content = [self.parameters, sorted(named), self.capture, self.version]
        return digest_of(content)

    def entry(self) -> dict[str, Any]:
        """What the manifest keeps of it."""
        return {"key": self.key, **vars(self), "versions": _versions()}

    def follows(self, entry: Mapping[str, Any]) -> bool:
        """Whether nothing but files of the workspace itself is another than in an entry."""
        same = all(entry.get(name) == getattr(self, name) for name in ("parameters", "capture", "version"))
        changed = self.changed_inputs(entry)
        return same and bool(changed) and all(name.startswith(f"{WORKSPACE_FOLDER}/") for name in changed)

    def changed_inputs(self, entry: Mapping[str, Any] | None) -> list[str]:
        """Names of input files that are others than an entry's, or were no inputs then, or are none now."""
        before = (entry or {}).get("inputs")
        before = before if isinstance(before, dict) else {}
        return sorted(name for name in before.keys() | self.inputs.keys() if before.get(name) != self.inputs.get(name))

    def difference(self, entry: Mapping[str, Any] | None) -> str:
        """How outputs of that entry were made, for "... than those of now": "made by other inputs or parameters (dilation)"."""
        if entry is None:
            return "and no manifest says from what; perhaps from other inputs or parameters"
        if "capture" not in entry:
            return "made by an earlier spinnerf-ns, which did not record the cameras: perhaps by other inputs"
        if entry["capture"] != self.capture:
            return "made with other cameras or sparse points"
        if entry.get("version") != self.version:
            return f"made by another version of the algorithm ({entry.get('version')}, now {self.version}), by other means"
        before = entry.get("parameters")
        before = before if isinstance(before, dict) else {}
        names = sorted(n for n in before.keys() | self.parameters.keys() if before.get(n) != self.parameters.get(n))
        names = names or self.changed_inputs(entry)
        return f"made by other inputs or parameters ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def hash_files(paths: Sequence[Path], workspace: Workspace) -> dict[str, str]:
    """File -> sha256 of its contents; folders count with all visible files in them.

    Raises:
        SpinnerfError: a path does not exist.
    """
    hashes = {}
    for path in paths:
        if not path.exists():
            raise SpinnerfError(f"{path}: missing, and needed as an input; put it back, or run the stage that writes it")
        for name in list_files(path):
            hashes[workspace.relative(path / name)] = sha256_of(path / name)
    return hashes


def plain(value: Any) -> Any:
    """What json cannot write: numpy's numbers and arrays, sets, and (as text) paths and the rest."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


def _versions() -> dict[str, str]:
    versions = {"spinnerf_ns": spinnerf_ns.__version__}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
