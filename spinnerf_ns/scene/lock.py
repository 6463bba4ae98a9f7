"""One process at a time writes into a workspace."""

from __future__ import annotations

import errno
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from spinnerf_ns.errors import SpinnerfError

LOCK = ".lock"
"""The file whose lock the operating system gives to one process, and takes back however that process ends."""

HOLDER = ".holder"
"""Who has it, for people."""

PATIENCE = 3.0
"""Seconds that a process waits for another: enough for one that is about to end."""


class NotWritable(SpinnerfError):
    """Nothing can be written into a workspace: a read-only capture, a full disk, a file in the folder's place."""


_held: dict[tuple[Path, int], tuple[FileLock, int, list[Path]]] = {}
"""(workspace, thread) -> the lock, how many times it was taken, and the folders made for it."""


class WorkspaceLock:
    """A context in which no other process writes into the workspace; may be entered again within itself.

    Folders that it had to make for its file, and in which nothing else was written, are gone afterwards.

    Args:
        root: the workspace's folder.

    Raises:
        SpinnerfError: another process has it for longer than `PATIENCE`, or the folder cannot be written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))

    def __enter__(self) -> WorkspaceLock:
        own = (self.root, threading.get_ident())
        if own in _held:
            lock, count, made = _held[own]
            _held[own] = (lock, count + 1, made)
            return self
        made = []
        try:
            made = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
            self.root.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / LOCK)
            try:
                lock.acquire(timeout=PATIENCE)
            except Timeout:
                raise SpinnerfError(
                    f"{self.root}: {self._holder()} is working on it; wait until that has ended, or name another --workspace"
                ) from None
            (self.root / HOLDER).write_text(f"{os.getpid()} {socket.gethostname()}", encoding="utf-8")
        except OSError as error:
            _remove_empty(made)
            raise cannot_write(self.root, error) from error
        _held[own] = (lock, 1, made)
        return self

    def __exit__(self, *exception: object) -> None:
        own = (self.root, threading.get_ident())
        lock, count, made = _held[own]
        if count > 1:
            _held[own] = (lock, count - 1, made)
            return
        del _held[own]
        for name in (HOLDER, LOCK):  # while it is held: who opened the file before tries again on a new one
            with suppress(OSError):
                (self.root / name).unlink()
        lock.release()
        _remove_empty(made)

    def _holder(self) -> str:
        try:
            process, _, host = (self.root / HOLDER).read_text(encoding="utf-8").partition(" ")
        except OSError:
            return "another process"
        return f"process {process} on {host}"


def cannot_write(folder: Path, error: OSError) -> NotWritable:
    """What to say where a workspace cannot be written to."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NotWritable(f"{folder}: No space left on device; make some, then run the same command again")
    return NotWritable(
        f"{folder}: nothing can be written there ({error.strerror or error}); name a folder of yours: --workspace FOLDER "
        "(ns-train: --pipeline.datamanager.workspace FOLDER)"
    )


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:  # the innermost first
        with suppress(OSError):
            folder.rmdir()
