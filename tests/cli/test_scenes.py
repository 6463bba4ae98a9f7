"""A list of scenes."""

from __future__ import annotations

import pytest

from spinnerf_ns.cli import scenes as module
from spinnerf_ns.cli.remove import Remove
from spinnerf_ns.cli.scenes import common_words, read_list, remove_scenes
from spinnerf_ns.errors import SpinnerfError


@pytest.fixture
def listed(tmp_path):
    for name in ("a", "b", "deep/a", "with blank"):
        (tmp_path / name).mkdir(parents=True)
    path = tmp_path / "scenes.txt"
    path.write_text(
        "# three rooms\na --view one.jpg --box 1,2,3,4\n\nb   # as pointed at before\ndeep/a\n'with blank' --text vase\n"
    )
    return path


def test_a_line_is_a_folder_and_what_is_pointed_at(listed):
    scenes = read_list(listed)
    assert [scene.data.relative_to(listed.parent).as_posix() for scene in scenes] == ["a", "b", "deep/a", "with blank"]
    assert [scene.words for scene in scenes] == [("--view", "one.jpg", "--box", "1,2,3,4"), (), (), ("--text", "vase")]


@pytest.mark.parametrize(
    "content, said",
    [
        ("", "names no scene"),
        ("nowhere", "line 1: .*nowhere does not exist"),
        ("a\na/.", "line 2: .*twice"),
        ("'a", "line 1: .*quot"),
    ],
)
def test_bad_lists_are_refused_in_one_line(listed, content, said):
    listed.write_text(content)
    with pytest.raises(SpinnerfError, match=said):
        read_list(listed)
    with pytest.raises(SpinnerfError, match="no such file"):
        read_list(listed.with_name("absent.txt"))


def test_the_commands_own_options_are_not_the_scenes():
    words = "--scenes list.txt --lite --jobs=2 --executor ray --seg-steps 9 --export.inpainter opencv".split()
    assert common_words(words) == ["--lite", "--seg-steps", "9", "--export.inpainter", "opencv"]
    assert Remove.prepare_arguments(words)[-2:] == ["--data", "list.txt"]
    assert "--data" not in Remove.prepare_arguments(["--lite"])


def test_every_scene_gets_a_process_and_failures_are_said(listed, monkeypatch, capsys):
    seen = []

    def run(jobs, at_once, executor, ended):
        seen.extend(jobs)
        assert (at_once, executor) == (2, "local")
        for job in jobs:
            job.log.parent.mkdir(exist_ok=True)
            job.log.write_text("starting\nno such photo\n")
            ended(job, int(job.name == "b"), 3.0)

    monkeypatch.setattr(module, "run_jobs", run)
    with pytest.raises(SpinnerfError, match="1 of 4 scenes failed, b first: no such photo"):
        remove_scenes(listed, ["--lite"], 2, "local")
    assert [job.name for job in seen] == ["a", "b", "a'", "with blank"]
    assert seen[0].command[-7:] == ("--data", str(listed.parent / "a"), "--view", "one.jpg", "--box", "1,2,3,4", "--lite")
    assert "[2/4] b: failed, no such photo" in capsys.readouterr().out
