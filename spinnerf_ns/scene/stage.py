"""A stage of work that can be killed at any moment: its outputs appear complete or not at all, and it goes on where it was.

While it runs, in the workspace:
    .lock, .holder                     no other process writes meanwhile; who has it
    .stage-<name>/key.json             what it is made from; work with another key is thrown away
    .stage-<name>/records.jsonl        a line per photo that is done, written after the photo's files
    .stage-<name>/<step>/              what steps before the last one found out (`scratch`)
    .stage-<name>/commit.json          the manifest's entry: the work is complete and is being moved into place
    .partial-<name>-<output>           beside each output, what becomes it
When it ends, commit.json is written, the outputs are moved into place, the manifest gets its entry, `.stage-<name>` goes.
A commit that was interrupted is finished by whoever opens the stage next.

What a stage is made from: its parameters, its input files' contents, the capture's cameras and points (`Capture.digest`) and the
version of its algorithm (`manifest.VERSIONS`). Where these are the manifest's, it is fresh, and
    what a person changed, added or (`manifest.DELETABLE`) deleted since is kept, and said; `--overwrite` makes it anew;
    what is gone or damaged is made again: of a stage that works photo by photo, those photos alone.
Where they are not, outputs are replaced with `--overwrite` only. One case apart: nothing but files of the workspace itself differs
(a mask of an earlier stage was painted, say), and nobody has been at work on the outputs. These follow by themselves.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import atomic_path, sha256_of, write_json
from spinnerf_ns.hints import say
from spinnerf_ns.scene.lock import WorkspaceLock
from spinnerf_ns.scene.manifest import DELETABLE, is_records, is_whole
from spinnerf_ns.scene.origin import Origin, plain
from spinnerf_ns.scene.outputs import OutputsState, keep_file, look_at_outputs, photo_of, record_files

if TYPE_CHECKING:
    from spinnerf_ns.scene.capture import Capture
    from spinnerf_ns.scene.workspace import Workspace

DONE = "done"
"""Status of a photo that need not be worked on again."""


class Stage:
    """One run of a stage; made by `Workspace.stage`, used as a context.

    Example:
        >>> import numpy as np
        >>> from spinnerf_ns.files import save_object_mask
        >>> from spinnerf_ns.scene.workspace import Workspace
        >>> Path("scene").mkdir()
        >>> workspace = Workspace.open("scene")
        >>> def segment(tracker):
        ...     with workspace.stage("segment", {"tracker": tracker}, [], [workspace.masks_2d]) as stage:
        ...         if not stage.fresh and not stage.done("frame_1"):
        ...             save_object_mask(stage.folder(workspace.masks_2d) / "frame_1.png", np.ones((4, 4), bool))
        ...             stage.record("frame_1", area=16)
        ...     return stage.fresh
        >>> segment("flow"), segment("flow"), workspace.records("segment")["frame_1"]["area"]
        (False, True, 16)
        >>> segment("sam2")
        Traceback (most recent call last):
        ...
        spinnerf_ns.errors.SpinnerfError: scene/spinnerf/masks_2d ...

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
        capture: Capture | None = None,
    ) -> None:
        self.workspace = workspace
        self.name = name
        self.outputs = [Path(os.path.abspath(path)) for path in outputs]
        for output in self.outputs:
            if workspace.root not in output.parents:
                raise ValueError(f"{output} does not lie below the workspace {workspace.root}")
        self.origin = Origin.of(workspace, name, parameters, inputs, capture)
        self.key = self.origin.key
        self._overwrite = overwrite
        self._state = workspace.root / f".stage-{name}"
        self._lock: WorkspaceLock | None = None
        if (self._state / "commit.json").is_file():
            with WorkspaceLock(workspace.root):
                self._finish_interrupted_commit()
        self._look()

    def _look(self) -> None:
        """Finds out what there is to do."""
        entry = self.workspace.manifest["stages"].get(self.name)
        self._entry = entry if is_whole(entry) else None
        self._found = OutputsState()
        self._same = self.fresh = False
        if self._entry is not None:
            self._found = look_at_outputs(self.workspace.root, self._entry["outputs"], DELETABLE.get(self.name, ()))
            named = set(self._entry["outputs"]) == {self._below_root(output) for output in self.outputs}
            self._same = named and self._entry["key"] == self.key
            self.fresh = self._same and self._found.complete and not (self._overwrite and self._found.by_hand)
        if self.fresh:
            self._records = dict(self._entry["records"])
            return
        self._records = self._resumed_records() if self._stored_key() == self.key else self._standing_records()
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

    def scratch(self, step: str) -> Path:
        """A folder for what a step of the stage finds out and the next one reads. What is in it, each file written at once
        (`files.atomic_path`), is there for a run that goes on; it goes when the stage ends, and when another key begins."""
        self._begin()
        folder = self._state / step
        folder.mkdir(parents=True, exist_ok=True)
        return folder

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
        entry = json.loads(json.dumps({"status": status, **fields}, default=plain))
        with open(self._state / "records.jsonl", "a", encoding="utf-8") as file:
            file.write(_as_lines({photo: entry}))
        self._records[photo] = entry

    def __enter__(self) -> Stage:
        if not self.fresh:
            lock = WorkspaceLock(self.workspace.root)
            lock.__enter__()
            try:
                self._finish_interrupted_commit()  # another process may have done it, or died, while this one waited
                self._look()
                self._say_what_is_replaced()
                self._drop_damaged_records()
            except BaseException:
                lock.__exit__()
                raise
            self._lock = lock
        if self.fresh and self._found.by_hand:
            say(f"{self.outputs[0]}: kept what was done by hand, {self._found.describe_by_hand()}; --overwrite undoes it")
        return self

    def __exit__(self, exception_type: type | None, exception: Any, traceback: Any) -> None:
        try:
            if exception_type is None and not self.fresh:
                self._begin()
                self._refuse_to_overwrite()  # something may have appeared meanwhile
                missing = [output for output in self.outputs if not self._partial(output).exists()]
                if missing:
                    raise SpinnerfError(f"{missing[0]}: the stage '{self.name}' ended without writing it; run it again")
                self._write_commit()
                self._finish_interrupted_commit()
        finally:
            if self._lock is not None:
                self._lock.__exit__()
                self._lock = None

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
        self._state.mkdir(parents=True)
        for name, file in self._standing_files():
            keep_file(self.workspace.root / name / file, self._partial(self.workspace.root / name) / file)
        if self._records:
            (self._state / "records.jsonl").write_text(_as_lines(self._records), encoding="utf-8")
        write_json(self._state / "key.json", {"key": self.key})  # last: without it all this counts for nothing

    def _standing_files(self) -> list[tuple[str, str]]:
        """Files of an earlier run from the same, some of whose outputs are lost: what need not be made again."""
        if not self._same:
            return []
        return self._found.intact + ([] if self._overwrite else self._found.changed + self._found.added)

    def _standing_records(self) -> dict[str, dict[str, Any]]:
        """Records of the photos all of whose files are among them."""
        if not self._same or self._entry is None:
            return {}
        gone = self._found.lost + self._found.damaged
        gone += self._found.changed + self._found.deleted if self._overwrite else []
        photos = self._entry["records"]
        again = {photo_of(file, photos) for _, file in gone}
        return {photo: record for photo, record in photos.items() if photo not in again}

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
        """Records of an interrupted run, up to the first line that was cut off or damaged."""
        try:
            content = (self._state / "records.jsonl").read_bytes()
        except OSError:
            return {}
        records: dict[str, dict[str, Any]] = {}
        for line in content.splitlines(keepends=True):
            try:
                photo, record = json.loads(line.decode("utf-8"))
            except (ValueError, TypeError):
                break
            if not line.endswith(b"\n") or not isinstance(photo, str) or not is_records({photo: record}):
                break
            records[photo] = record
        return records

    def _drop_damaged_records(self) -> None:
        """Leaves no half a line before the next one. By who has the lock: another process may be writing it now."""
        path = self._state / "records.jsonl"
        if self._stored_key() == self.key and path.is_file():
            with atomic_path(path) as temporary:
                temporary.write_text(_as_lines(self._records), encoding="utf-8")

    def _partial(self, output: Path) -> Path:
        return output.with_name(f".partial-{self.name}-{output.name}")

    # ------------------------------------------------------------------------------------------------ what may be replaced
    def _refuse_to_overwrite(self) -> None:
        # Made from the same, but incomplete by now: nothing is lost by making it again.
        if self._overwrite or self._same or self._follows():
            return
        for output in self.outputs:
            if not output.exists() or (output.is_dir() and not any(output.iterdir())):
                continue
            lost = f" (and with it what was done by hand: {self._found.describe_by_hand()})" if self._found.by_hand else ""
            raise SpinnerfError(
                f"{output}: exists already, {self.origin.difference(self._entry)} than those of '{self.name}' now; "
                f"replace it{lost} with --overwrite, or move it away"
            )

    def _follows(self) -> bool:
        """Whether the outputs follow from files of the workspace that are others now, and nobody has been at work on them."""
        return self._entry is not None and not self._found.by_hand and self.origin.follows(self._entry)

    def _say_what_is_replaced(self) -> None:
        if self.fresh or self._entry is None:
            return
        if self._same and not self._found.complete:
            say(f"{self.outputs[0]}: made again where it is incomplete: {self._found.describe_incomplete()}")
        elif not self._same and not self._overwrite and self._follows():
            names = self.origin.changed_inputs(self._entry)
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            say(f"{self.outputs[0]}: made again, since {names[0]}{more} changed")

    # ------------------------------------------------------------------------------------------------------ the end
    def _below_root(self, output: Path) -> str:
        return output.relative_to(self.workspace.root).as_posix()

    def _write_commit(self) -> None:
        for output in self.outputs:
            for leftover in self._partial(output).rglob(".tmp-*"):  # of a run that was killed while writing
                leftover.unlink(missing_ok=True)
        made = {self._below_root(output): record_files(self._partial(output)) for output in self.outputs}
        if self._same and not self._overwrite:
            self._keep_by_hand(made)
        entry = {
            **self.origin.entry(),
            "outputs": made,
            "records": self._records,
        }
        write_json(self._state / "commit.json", entry)

    def _keep_by_hand(self, made: dict[str, dict[str, Any]]) -> None:
        """Puts what a person changed, added or deleted into what becomes the outputs; the entry goes on saying what was made."""
        assert self._entry is not None
        found = look_at_outputs(self.workspace.root, self._entry["outputs"], DELETABLE.get(self.name, ()))
        for name, file in found.changed + found.added + found.deleted:
            files = self._entry["outputs"][name]
            before = files.get(file) if isinstance(files, dict) else None
            own, becomes = self.workspace.root / name / file, self._partial(self.workspace.root / name) / file
            if (name, file) in found.deleted:
                made[name].setdefault(file, before)
                becomes.unlink(missing_ok=True)
                continue
            if not becomes.is_file() or sha256_of(becomes) == sha256_of(own):  # not made this time
                made[name][file] = before
                if before is None:
                    del made[name][file]
            keep_file(own, becomes)

    def _finish_interrupted_commit(self) -> None:
        """Moves complete outputs into place; every step may be interrupted and is then done again."""
        path = self._state / "commit.json"
        if not path.is_file():
            return
        manifest = self.workspace.read_manifest()
        if manifest["stages"].pop(self.name, None) is not None:
            self.workspace.write_manifest(manifest)  # the old entry must not vouch for the new outputs
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            entry = None
        if not is_whole(entry):  # damaged: nobody knows any more what is complete
            say(f"{path}: damaged, so the stage '{self.name}' begins anew")
            self._remove_state()
            return
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


def _as_lines(records: Mapping[str, Any]) -> str:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in records.items())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
