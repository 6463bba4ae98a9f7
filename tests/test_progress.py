"""Bars in a log file."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import Progress, track

from spinnerf_ns.progress import EVERY, Bar, line_of, logged, watched

QUIET = Console(quiet=True)


def test_a_line_every_ten_percent_and_one_at_the_end(tmp_path):
    path = tmp_path / "deep" / "log.txt"
    with logged(path), logged(path):  # whoever is further in adds nothing
        for _ in track(range(4), "Rendering", console=QUIET):
            time.sleep(EVERY * 1.2)
        for _ in track(range(1000), "Quick", console=QUIET):
            pass
    lines = path.read_text().splitlines()
    assert [line.split("  ")[1].split(",")[0] for line in lines if "Rendering" in line][-1] == "Rendering: 100 % (4 of 4)"
    assert 3 <= sum("Rendering" in line for line in lines) <= 5 and sum("Quick" in line for line in lines) <= 11
    assert "Quick: 100 % (1000 of 1000)" in lines[-1]
    with logged(path):
        list(track(range(3), "Again", console=QUIET))
    assert path.read_text().startswith("\n".join(lines)) and "Again: 100 % (3 of 3)" in path.read_text()


def test_what_is_left_is_said():
    assert line_of(Bar(0, "Inpainting", 24, 60, 70.2)) == "Inpainting: 40 % (24 of 60), 0:01:10 left"
    assert line_of(Bar(0, "Tracking", 0, None, None)) == "Tracking: begins"


def test_progress_is_as_it_was_afterwards():
    start, stop = Progress.start, Progress.stop
    with watched(lambda bars: None):
        assert Progress.start is not start
    assert (Progress.start, Progress.stop) == (start, stop)
