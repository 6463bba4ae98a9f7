"""The whole run, started from the page: watched, stopped, found again by another server."""

from __future__ import annotations

import json
import subprocess
import time
from unittest import mock

import pytest
from rich.progress import Progress

from spinnerf_ns import progress as bars_progress
from spinnerf_ns.cli import bars
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.page.removal import RemovalJob
from spinnerf_ns.page.tracking import TrackingJob


@pytest.fixture
def saved(make_session):
    """A session in which all is pointed at and tracked."""
    session = make_session()
    session.box("object", session.views[1].photo, 40, 30, 60, 50)
    job = TrackingJob(session)
    job.start()
    job.wait(20)
    return session


def wait(job: RemovalJob) -> dict:
    for _ in range(600):
        state = job.state()
        if state is not None and not state["running"] and "ended" in json.loads((job.folder / "removal.json").read_text()):
            return state
        time.sleep(0.1)
    raise AssertionError(f"never ended: {job.state()}")


def test_the_command_is_what_a_person_would_type(saved, capture, workspace) -> None:
    job = RemovalJob(saved, ["--lite"])
    assert job.state() is None and job.invented() is None
    words = job.command()
    assert words[:3] == ["remove", "--data", str(capture.data)] and words[-1] == "--lite"
    assert words[words.index("--segmenter") + 1] == "paints" and words[words.index("--tracker") + 1] == "shift"
    assert workspace.prompts_path.is_file() and "--objects" not in words
    saved.add_object("lamp")
    with pytest.raises(SpinnerfError, match="no object is selected"):
        saved.select("object", False)
        job.command()


def test_what_the_command_line_removed_is_shown(saved, workspace) -> None:
    photo = saved.views[2].photo
    path = workspace.removed / "images" / f"{photo}.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"png")
    assert RemovalJob(saved, []).state()["photos"] == [photo] and not RemovalJob(saved, []).state()["running"]


def test_a_run_and_its_end(saved, monkeypatch) -> None:
    told = []
    saved.listeners.append(lambda: told.append(1))
    job = RemovalJob(saved, [])
    monkeypatch.setattr(job, "command", lambda: ["check", "--data", "no such folder"])
    job.start()
    with pytest.raises(SpinnerfError, match="under way"):
        job.start()
    state = wait(job)
    assert "no such folder" in state["error"] and "Traceback" not in state["error"] and state["photos"] == [] and told
    monkeypatch.setattr(job, "command", lambda: ["weights", "list"])
    job.start()
    assert wait(job)["error"] is None


def test_a_run_outlives_its_server_and_can_be_stopped_by_the_next(saved, monkeypatch) -> None:
    """A child that does nothing for a minute, under the program's name, stands in for a training."""
    job = RemovalJob(saved, [])
    monkeypatch.setattr(job, "command", lambda: ["check"])
    popen = subprocess.Popen
    slow = ["-c", "import time; time.sleep(60)", "spinnerf_ns"]
    with mock.patch("spinnerf_ns.page.removal.subprocess.Popen", lambda words, **how: popen([words[0], *slow], **how)):
        job.start()
    again = RemovalJob(saved, [])  # as a server that was started again
    assert again.state()["running"]
    with pytest.raises(SpinnerfError, match="under way"):
        again.start()
    again.stop()
    job._process.wait(10)
    assert wait(again)["error"] == "it ended without a word"


def test_bars_are_written_while_they_run(tmp_path, monkeypatch) -> None:
    seen = []

    def command(arguments: list[str]) -> None:
        with Progress() as progress:
            progress.update(progress.add_task("Rendering", total=40), completed=10)
            end = time.monotonic() + 20
            while not (tmp_path / "bars.json").is_file() and time.monotonic() < end:
                time.sleep(0.02)
            seen.append(json.loads((tmp_path / "bars.json").read_text()))

    monkeypatch.setattr(bars_progress, "EVERY", 0.02)
    with mock.patch("spinnerf_ns.cli.main", command):
        bars.main([str(tmp_path / "bars.json"), "remove"])
    assert seen == [[{"what": "Rendering", "done": 10, "total": 40}]]
    with Progress() as progress:  # as before
        progress.add_task("after")
