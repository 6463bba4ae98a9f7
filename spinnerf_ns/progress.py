"""Bars as other eyes see them: who watches is told of every bar that is shown, and a log file gets a line every 10 %."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from spinnerf_ns.accel.replaced import replaced

EVERY = 0.5
"""Seconds between looks."""
PARTS = 10
"""Lines per bar."""


@dataclass(frozen=True)
class Bar:
    """A bar at some moment."""

    number: int
    """Which bar it is: two may say the same."""
    what: str
    """What is done."""
    done: float
    """How much of it."""
    total: float | None
    """Of how much; None: nobody knows yet."""
    left: float | None
    """Seconds that it will take from here; None: nobody knows yet."""


@contextmanager
def watched(listener: Callable[[list[Bar]], None]) -> Iterator[None]:
    """Within this context the listener is told, `EVERY` so many seconds and when a bar ends, of all bars that are shown."""
    shown: list[Progress] = []
    start, stop, lock = Progress.start, Progress.stop, threading.Lock()

    def look() -> None:
        with lock:
            listener([_bar(progress, task) for progress in list(shown) for task in progress.tasks])

    def starts(self: Progress) -> None:
        if self not in shown:
            shown.append(self)
        start(self)

    def stops(self: Progress) -> None:
        if self in shown:
            look()
            shown.remove(self)
        stop(self)

    ended = threading.Event()

    def keep_looking() -> None:
        while not ended.wait(EVERY):
            look()

    thread = threading.Thread(target=keep_looking, daemon=True)
    with replaced(Progress, start=starts, stop=stops):
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Within this context every bar is also lines of a file, to which they are added: when it begins, every 10 %, when it ends.

    A line: 2026-01-31 12:00:00  Inpainting: 40 % (24 of 60), 0:01:10 left
    """
    if str(path) in _logging:  # somebody further out writes it
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    said: dict[int, int] = {}

    def write(bars: list[Bar]) -> None:
        lines = []
        for bar in bars:
            part = 0 if not bar.total else int(PARTS * bar.done / bar.total)
            if said.get(bar.number, -1) < part:
                said[bar.number] = part
                lines.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line_of(bar)}\n")
        if lines:
            with open(path, "a", encoding="utf-8") as file:
                file.writelines(lines)

    _logging.add(str(path))
    try:
        with watched(write):
            yield
    finally:
        _logging.discard(str(path))


_logging: set[str] = set()
"""Files that are written now."""


def line_of(bar: Bar) -> str:
    """A bar in words."""
    if not bar.total:
        return f"{bar.what}: begins"
    text = f"{bar.what}: {100 * bar.done / bar.total:.0f} % ({bar.done:g} of {bar.total:g})"
    if bar.left is None or bar.done >= bar.total:
        return text
    minutes, seconds = divmod(round(bar.left), 60)
    return f"{text}, {minutes // 60}:{minutes % 60:02}:{seconds:02} left"


def _bar(progress: Progress, task) -> Bar:
    return Bar((id(progress) << 8) + task.id, str(task.description), task.completed, task.total, task.time_remaining)
