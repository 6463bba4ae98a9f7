"""The whole run from the page: `ns-spinnerf remove` as a program of its own, so that it outlives the page and its server.

<workspace>/page/removal.json   {"pid", "created" (as psutil says), "started", "command"}; then also {"ended", "status"}
<workspace>/page/removal.log    what it prints
<workspace>/page/bars.json      [{"what", "done", "total"}]: the bars that it shows, as `cli.bars` writes them
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import write_json
from spinnerf_ns.page.session import Session
from spinnerf_ns.page.store import FOLDER

POLL = 0.5
"""Seconds between looks at how far it is."""
STAGE_LINE = re.compile(r"(\d)/(\d) ([^─\n]+)")
"""The lines that `remove` rules its stages off with."""
LOG_TAIL = 1 << 20
"""Bytes of its output that are looked at."""


class RemovalJob:
    """At most one run at a time; one that an earlier server started is found again.

    Args:
        session: its scene.
        arguments: more arguments of the command (--lite, --seg-steps 500, ...).
    """

    def __init__(self, session: Session, arguments: list[str]) -> None:
        self.session, self.arguments = session, arguments
        self.folder = session.workspace.root / FOLDER
        self._process: subprocess.Popen | None = None
        if self._entry() and self._running():
            self._watch()

    def start(self) -> None:
        """Saves what is pointed at and starts the run, which goes on where an earlier one stopped.

        Raises:
            SpinnerfError: it runs already, or saving is refused.
        """
        if self._running():
            raise SpinnerfError("the removal is under way; stop it first")
        command = self.command()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "bars.json").unlink(missing_ok=True)
        words = [sys.executable, "-m", "spinnerf_ns.cli.bars", str(self.folder / "bars.json"), *command]
        environment = {**os.environ, "COLUMNS": "160", "PYTHONUNBUFFERED": "1"}
        with open(self.folder / "removal.log", "wb") as log:
            self._process = subprocess.Popen(
                words, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
            )
        created = psutil.Process(self._process.pid).create_time()
        self._write({"pid": self._process.pid, "created": created, "started": time.time(), "command": command})
        self._watch()
        self.session.tell()

    def command(self) -> list[str]:
        """What follows `ns-spinnerf` on the command line to do the same; saves what is pointed at.

        Raises:
            SpinnerfError: saving is refused.
        """
        subset = self.session.save()
        words = ["remove", "--data", str(self.session.capture.data), "--workspace", str(self.session.workspace.root)]
        words += ["--segmenter", self.session.segmenter.name, "--tracker", self.session.tracker.name]
        words += ["--objects", *subset] if subset else []
        words += ["--allow-large-mask"] if self.session.as_they_are(self.session.sources()) else []
        return [*words, *self.arguments]

    def stop(self) -> None:
        """Ends the run; the stages that are done stay."""
        entry = self._entry()
        if entry and self._running():
            os.killpg(entry["pid"], signal.SIGTERM)

    def state(self) -> dict[str, Any] | None:
        """Plain JSON: whether it runs, its stage, its bars, how it ended, and what part of the removed is invented."""
        entry = self._entry()
        photos = [view.photo for view in self.session.views if self.after(view.photo) is not None]
        if not entry:  # the command line may have removed it
            done = {"running": False, "stage": None, "bars": [], "error": None, "invented": self.invented(), "photos": photos}
            return done if photos else None
        log = self._log()
        stages = STAGE_LINE.findall(log)
        running = self._running()
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        return {
            "running": running,
            "stage": [int(stages[-1][0]), int(stages[-1][1]), stages[-1][2].strip()] if stages else None,
            "bars": self._bars() if running else [],
            "error": None if running or entry.get("status") == 0 else (lines[-1] if lines else "it ended without a word"),
            "invented": self.invented(),
            "photos": photos,
        }

    def invented(self) -> float | None:
        """Part of the removed pixels that no photo shows; None where no export says so."""
        records = self.session.workspace.records("export").values()
        region = sum(record.get("region", 0) for record in records)
        return sum(record.get("unseen", 0) for record in records) / region if region else None

    def after(self, photo: str) -> Path | None:
        """A photo without the object; None where there is none yet."""
        path = self.session.workspace.removed / "images" / f"{self.session.view(photo).photo}.png"
        return path if path.is_file() else None

    # -------------------------------------------------------------------------------------------------------- inside
    def _entry(self) -> dict[str, Any]:
        return _read_json(self.folder / "removal.json", {})

    def _write(self, entry: dict[str, Any]) -> None:
        write_json(self.folder / "removal.json", entry)

    def _log(self) -> str:
        try:
            return (self.folder / "removal.log").read_bytes()[-LOG_TAIL:].decode("utf-8", "replace")
        except OSError:
            return ""

    def _bars(self) -> list[dict[str, Any]]:
        return _read_json(self.folder / "bars.json", [])

    def _running(self) -> bool:
        entry = self._entry()
        if not entry or "ended" in entry:
            return False
        if self._process is not None and self._process.pid == entry["pid"]:
            return self._process.poll() is None
        try:  # another server's child: not only a process of that number, but the one that was started then
            process = psutil.Process(entry["pid"])
            return process.create_time() == entry["created"] and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, KeyError):
            return False

    def _watch(self) -> None:
        def watch() -> None:
            before = None
            while self._running():
                now = self._bars()
                if now != before:
                    before = now
                    self.session.tell()
                time.sleep(POLL)
            status = self._process.poll() if self._process is not None else None
            if status is None:  # not our child: nobody tells how it ended but its last words
                status = 0 if "The field without the object" in self._log() else 1
            self._write({**self._entry(), "ended": time.time(), "status": status})
            self.session.tell()

        threading.Thread(target=watch, daemon=True).start()


def _read_json(path: Path, otherwise: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return otherwise
