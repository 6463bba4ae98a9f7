"""A stage of work that can be killed at any moment: its outputs appear complete or not at all, and it goes on where it was.

While it runs, in the workspace:
    .stage-<name>/key.json             what it is made from; work with another key is thrown away
    .stage-<name>/records.jsonl        a line per photo that is done, written after the photo's files
    .stage-<name>/commit.json          the manifest's entry: the work is complete and is being moved into place
    .partial-<name>-<output>           beside each output, what becomes it
When it ends, commit.json is written, the outputs are moved into place, the manifest gets its entry, `.stage-<name>` goes.
A commit that was interrupted is finished by whoever opens the stage next.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import spinnerf_ns
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import atomic_path

if TYPE_CHECKING:
    from spinnerf_ns.scene.workspace import Workspace

DONE = "done"
"""Status of a photo that need not be worked on again."""

RECORDED_PACKAGES = ("nerfstudio", "torch", "numpy", "opencv-python-headless")


class Stage:
    """One run of a stage; made by `Workspace.stage`, used as a context.

    Example:
        >>> with workspace.stage("segment", {"tracker": "flow"}, photos, [workspace.masks_2d]) as stage:
        ...     if not stage.fresh:
        ...         for view in views:
        ...             if not stage.done(view.photo):
        ...                 save_object_mask(stage.folder(workspace.masks_2d) / f"{view.photo}.png", object_mask)
        ...                 stage.record(view.photo, area=int(object_mask.sum()))

    If the block raises, what was recorded stays for the next run with the same inputs and parameters.
    """

    fresh: bool
    """Whether the outputs stand and come from the same inputs and parameters: there is nothing to do."""

    def __init__(
        self,
        workspace: Workspace,
        name: str,
        parameters: Mapping[str, Any],
        inputs: Sequence[Path],
        outputs: Sequence[Path],
        overwrite: bool,
    ) -> None:
        self.workspace = workspace
        self.name = name
        self.outputs = [Path(os.path.abspath(path)) for path in outputs]
        for output in self.outputs:
            if Path(os.path.abspath(workspace.root)) not in output.parents:
                raise ValueError(f"{output} does not lie below the workspace {workspace.root}")
        self.parameters = json.loads(json.dumps(parameters, default=_plain, sort_keys=True))
        self.inputs = hash_files(inputs, workspace)
        # A file outside the scene counts by its name alone, so that a moved checkpoint is the same input.
        named = [(name if not os.path.isabs(name) else Path(name).name, digest) for name, digest in self.inputs.items()]
        self.key = _digest([self.parameters, sorted(named)])
        self._state = workspace.root / f".stage-{name}"
        self._finish_interrupted_commit()
        entry = workspace.read_manifest()["stages"].get(name)
        self.fresh = entry is not None and entry.get("key") == self.key and self._outputs_stand(entry)
        self._entry = entry
        self._overwrite = overwrite
        self._records = dict(entry["records"]) if self.fresh else self._resumed_records()
        if not self.fresh:
            self._refuse_to_overwrite()

    # ------------------------------------------------------------------------------------------------------- for users
    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """Photo -> what was recorded of it, this time or before."""
        return dict(self._records)

    def folder(self, output: Path) -> Path:
        """Where to write instead of `output`; it becomes `output` when the stage ends.

        Args:
            output: one of the stage's outputs, or a path below one.

        Returns:
            Its partial twin, beside it and so equally deep: relative paths in its files stay true. A folder (a name without
            suffix) exists already, and so does a file's folder.
        """
        self._begin()
        output = Path(os.path.abspath(output))
        for known in self.outputs:
            if output == known or known in output.parents:
                partial = self._partial(known) / output.relative_to(known)
                (partial.parent if output.suffix else partial).mkdir(parents=True, exist_ok=True)
                return partial
        raise ValueError(f"{output} is no output of the stage {self.name}")

    def done(self, photo: str) -> bool:
        """Whether a photo is finished, in this run or in one before that was interrupted."""
        return self._records.get(photo, {}).get("status") == DONE

    def record(self, photo: str, status: str = DONE, **fields: Any) -> None:
        """Notes that a photo's files are written; call it after they are.

        Args:
            photo: the photo's key.
            status: "done", or why it is not: only "done" spares it the next time.
            fields: what the manifest should say of it (numbers, texts).
        """
        self._begin()
        entry = json.loads(json.dumps({"status": status, **fields}, default=_plain))
        with open(self._state / "records.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps([photo, entry], ensure_ascii=False) + "\n")
        self._records[photo] = entry

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, exception_type: type | None, exception: Any, traceback: Any) -> None:
        if exception_type is None and not self.fresh:
            self._begin()
            self._refuse_to_overwrite()  # something may have appeared meanwhile
            missing = [output for output in self.outputs if not self._partial(output).exists()]
            if missing:
                raise SpinnerfError(f"{missing[0]}: the stage '{self.name}' ended without writing it; run it again")
            self._write_commit()
            self._finish_interrupted_commit()

    # ------------------------------------------------------------------------------------------------------ beginning
    def _begin(self) -> None:
        """Before the first write: throws away what another key left."""
        if self.fresh:
            raise ValueError(f"the stage {self.name} is fresh: there is nothing to write")
        if self._stored_key() == self.key:
            return
        self._remove_state()  # first: records must not outlive the files that they speak of
        for output in self.outputs:
            _remove(self._partial(output))
        with atomic_path(self._state / "key.json") as temporary:
            temporary.write_text(json.dumps({"key": self.key}))

    def _remove_state(self) -> None:
        """All of it at once: a kill in between must not leave records without the key or the commit they belong to."""
        trash = self.workspace.root / f".trash-{self.name}"
        _remove(trash)
        if self._state.exists():
            os.replace(self._state, trash)
            _remove(trash)

    def _stored_key(self) -> str | None:
        try:
            return json.loads((self._state / "key.json").read_text(encoding="utf-8")).get("key")
        except (OSError, ValueError, AttributeError):
            return None

    def _resumed_records(self) -> dict[str, dict[str, Any]]:
        """Records of an interrupted run with the same key. A line that the kill cut off is dropped, from the file too."""
        path = self._state / "records.jsonl"
        if self._stored_key() != self.key or not path.is_file():
            return {}
        content = path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if len(complete) < len(content):
            with open(path, "r+b") as file:
                file.truncate(len(complete))
        return dict(json.loads(line) for line in complete.decode("utf-8").splitlines())

    def _partial(self, output: Path) -> Path:
        return output.with_name(f".partial-{self.name}-{output.name}")

    def _refuse_to_overwrite(self) -> None:
        if self._overwrite:
            return
        for output in self.outputs:
            if not output.exists() or (output.is_dir() and not any(output.iterdir())):
                continue
            same = self._entry is not None and self._entry.get("key") == self.key
            if same:  # made from the same, but incomplete by now: nothing is lost by making it again
                continue
            by = "by other inputs or parameters" if self._entry is not None else "and no manifest says from what"
            raise SpinnerfError(
                f"{output}: exists already, made {by} than those of '{self.name}' now; replace it with --overwrite, or move it away"
            )

    # ------------------------------------------------------------------------------------------------------ the end
    def _outputs_stand(self, entry: Mapping[str, Any]) -> bool:
        files = entry.get("outputs", {})
        root = self.workspace.root
        if set(files) != {self._below_root(output) for output in self.outputs}:
            return False
        return all((root / name).exists() and all((root / name / file).is_file() for file in files[name]) for name in files)

    def _below_root(self, output: Path) -> str:
        return output.relative_to(os.path.abspath(self.workspace.root)).as_posix()

    def _write_commit(self) -> None:
        for output in self.outputs:
            for leftover in self._partial(output).rglob(".tmp-*"):  # of a run that was killed while writing
                leftover.unlink(missing_ok=True)
        entry = {
            "key": self.key,
            "parameters": self.parameters,
            "versions": _versions(),
            "inputs": self.inputs,
            "outputs": {self._below_root(output): _listing(self._partial(output)) for output in self.outputs},
            "records": self._records,
        }
        with atomic_path(self._state / "commit.json") as temporary:
            temporary.write_text(json.dumps(entry, ensure_ascii=False), encoding="utf-8")

    def _finish_interrupted_commit(self) -> None:
        """Moves complete outputs into place; every step may be interrupted and is then done again."""
        path = self._state / "commit.json"
        if not path.is_file():
            return
        entry = json.loads(path.read_text(encoding="utf-8"))
        manifest = self.workspace.read_manifest()
        if manifest["stages"].pop(self.name, None) is not None:
            self.workspace.write_manifest(manifest)  # the old entry must not vouch for the new outputs
        for name in entry["outputs"]:
            output = self.workspace.root / name
            partial = self._partial(output)
            if partial.exists():  # else it has been moved before the interruption
                if output.is_dir() and not output.is_symlink():
                    replaced = output.with_name(f".replaced-{self.name}-{output.name}")
                    _remove(replaced)
                    os.replace(output, replaced)
                os.replace(partial, output)
            _remove(output.with_name(f".replaced-{self.name}-{output.name}"))
        manifest["stages"][self.name] = entry
        self.workspace.write_manifest(manifest)
        for leftover in self.workspace.root.glob(".tmp-*"):  # of a run that was killed while it wrote the manifest
            leftover.unlink(missing_ok=True)
        self._remove_state()


def hash_files(paths: Sequence[Path], workspace: Workspace) -> dict[str, str]:
    """File -> sha256 of its contents; folders count with all visible files in them.

    Raises:
        SpinnerfError: a path does not exist.
    """
    hashes = {}
    for path in paths:
        if not path.exists():
            raise SpinnerfError(f"{path}: missing, and needed as an input; put it back, or run the stage that writes it")
        files = [path / name for name in _listing(path)] if path.is_dir() else [path]
        for file in files:
            hashes[workspace.relative(file)] = _sha256(file)
    return hashes


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _listing(path: Path) -> list[str]:
    """Visible files below a folder, relative and sorted; nothing for a file."""
    if not path.is_dir():
        return []
    files = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    return sorted(file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
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


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
