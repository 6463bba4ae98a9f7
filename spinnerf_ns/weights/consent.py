"""Whether a large file may be downloaded that nobody named: asked at a terminal, answered beforehand, or not at all.

What is named (`--segmenter sam`, `ns-spinnerf weights fetch`) is fetched, its licence said first. Where the choice is ours
("auto"), size and licence are said and the user is asked. `--yes` or SPINNERF_YES=1 answers for all files; a pipe is asked
nothing, and does without.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from spinnerf_ns.weights.table import HubModel, WeightsFile

VARIABLE = "SPINNERF_YES"

_asks: ContextVar[bool] = ContextVar("asks before a download", default=False)
_answers: dict[str, bool] = {}


@contextmanager
def asking_first() -> Iterator[None]:
    """Within this context a file that is not here is downloaded only if the user agrees."""
    token = _asks.set(True)
    try:
        yield
    finally:
        _asks.reset(token)


def refusal(entry: WeightsFile | HubModel) -> str | None:
    """Why an entry is not to be downloaded now, and what allows it; None if it may be."""
    if not _asks.get() or os.environ.get(VARIABLE, "").lower() not in ("", "0", "false", "no"):
        return None
    what = f"a download of {'unknown size' if entry.size is None else f'{entry.size / 1e6:.0f} MB'}, licence {entry.licence}"
    if entry.name not in _answers and sys.stdin.isatty() and sys.stdout.isatty():
        _answers[entry.name] = _ask(f"{entry.name} ({entry.used_by}): {what}, from {entry.url}. Download it? [y/N] ")
    if _answers.get(entry.name):
        return None
    return f"{what}, that was not agreed to; allow it by --yes or {VARIABLE}=1, or: ns-spinnerf weights fetch {entry.name}"


def _ask(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False
