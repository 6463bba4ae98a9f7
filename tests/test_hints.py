"""Printed commands: what a shell makes of them is what was meant."""

from __future__ import annotations

import doctest
import shlex

import spinnerf_ns.hints
from spinnerf_ns.hints import command, say


def test_examples():
    assert doctest.testmod(spinnerf_ns.hints).failed == 0


def test_a_shell_reads_back_what_was_meant(tmp_path):
    odd = tmp_path / "my scene [1]" / "don't; rm $HOME"
    text = command("ns-spinnerf", "segment", data=odd, workspace=tmp_path / "w 1", view="a b.jpg", points=["1,2", "3,4,0"])
    assert shlex.split(text) == [
        "ns-spinnerf", "segment", "--data", str(odd), "--workspace", str(tmp_path / "w 1"), "--view", "a b.jpg",
        "--points", "1,2", "3,4,0",
    ]  # fmt: skip


def test_the_capture_s_own_workspace_is_not_named(tmp_path):
    (tmp_path / "transforms.json").write_text("{}")
    own = tmp_path / "spinnerf"
    for data in (tmp_path, tmp_path / "transforms.json"):
        assert "workspace" not in command("ns-spinnerf", "segment", data=data, workspace=own)
    assert "--workspace" in command("ns-spinnerf", "segment", data=tmp_path, workspace=tmp_path / "other")
    assert "--workspace" in command("ns-spinnerf", "segment", workspace=own)


def test_flags_and_what_is_left_out():
    assert command("ns-spinnerf", "export", load_config="c.yml", overwrite=False, inpainter=None, yes=True) == (
        "ns-spinnerf export --load-config c.yml --yes"
    )
    assert command("ns-train", "m", "--data", "d", **{"pipeline.datamanager.masks": "a b"}).endswith(
        "--pipeline.datamanager.masks 'a b'"
    )


def test_brackets_are_no_markup_and_lines_are_not_broken(capsys):
    text = command("ns-train", "spinnerf-seg", data="scene[bold]/" + 300 * "x")
    say(text)
    assert capsys.readouterr().out == text + "\n"
