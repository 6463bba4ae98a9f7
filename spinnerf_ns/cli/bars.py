"""python -m spinnerf_ns.cli.bars FILE COMMAND ...: an `ns-spinnerf` command whose bars are also written to a file.

Bars are drawn for terminals. Whoever shows them elsewhere reads FILE: [{"what", "done", "total"}], renewed twice a second.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from rich.progress import Progress

from spinnerf_ns.accel.replaced import replaced
from spinnerf_ns.files import write_json

EVERY = 0.5
"""Seconds between writes."""


def main(arguments: list[str]) -> None:
    """Runs the command."""
    from spinnerf_ns.cli import main as ns_spinnerf

    shown: list[Progress] = []
    start, stop = Progress.start, Progress.stop

    def starts(self: Progress) -> None:
        shown.append(self)
        start(self)

    def stops(self: Progress) -> None:
        if self in shown:
            shown.remove(self)
        stop(self)

    ended = threading.Event()
    threading.Thread(target=_write, args=(Path(arguments[0]), shown, ended), daemon=True).start()
    with replaced(Progress, start=starts, stop=stops):
        try:
            ns_spinnerf(arguments[1:])
        finally:
            ended.set()


def _write(path: Path, shown: list[Progress], ended: threading.Event) -> None:
    before = None
    while not ended.wait(EVERY):
        now = [
            {"what": task.description, "done": task.completed, "total": task.total}
            for progress in list(shown)
            for task in progress.tasks
            if not task.finished
        ]
        if now != before:
            before = now
            write_json(path, now)


if __name__ == "__main__":
    main(sys.argv[1:])
