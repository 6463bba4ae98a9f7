"""What is downloaded unasked: nothing. Asked at a terminal, answered beforehand, and never in a pipe."""

from __future__ import annotations

import builtins
import os
import sys

import pytest

from spinnerf_ns.cli import main
from spinnerf_ns.nerf.perceptual import make_perceptual_loss
from spinnerf_ns.segmentation.choose import choose
from spinnerf_ns.segmentation.segmenters import SEGMENTERS
from spinnerf_ns.segmentation.trackers import TRACKERS
from spinnerf_ns.weights import consent, store
from spinnerf_ns.weights.consent import asking_first


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """Empty caches, and a network that would be there; returns what was begun to be downloaded."""
    monkeypatch.delenv("SPINNERF_OFFLINE", raising=False)
    monkeypatch.setenv("SPINNERF_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv(consent.VARIABLE, raising=False)
    monkeypatch.setattr(consent, "_answers", {})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    begun = []

    def download(url, *_):
        begun.append(url.rpartition("/")[2])
        raise store.DownloadFailed("no network")

    monkeypatch.setattr(store, "download", download)
    return begun


@pytest.fixture
def terminal(monkeypatch):
    """A user who answers: set .answer; .questions is what was asked."""

    class Terminal:
        answer = "n"
        questions: list[str] = []

    Terminal.questions = []

    def ask(question):
        Terminal.questions.append(question)
        return Terminal.answer

    monkeypatch.setattr(builtins, "input", ask)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    return Terminal


@pytest.mark.parametrize(
    "auto, taken", [
        (lambda: choose(SEGMENTERS, "auto"), "grabcut"),
        (lambda: choose(TRACKERS, "auto"), "flow"),
        (lambda: make_perceptual_loss("auto"), "ssim"),
    ],
)  # fmt: skip
def test_auto_in_a_pipe_takes_what_is_there_and_says_so_in_one_line(auto, taken, begun, monkeypatch, capsys):
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("a pipe was asked"))
    assert auto().name == taken and not begun
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert " MB, licence " in line and "--yes or SPINNERF_YES=1" in line and "ns-spinnerf weights fetch" in line


def test_at_a_terminal_size_and_licence_are_said_and_one_answer_counts(begun, terminal):
    for _ in range(2):
        with asking_first(), pytest.raises(store.WeightsUnavailable, match="not agreed to"):
            store.ensure_weights("sam_vit_b")
    (question,) = terminal.questions
    assert "375 MB" in question and "Apache-2.0" in question and "dl.fbaipublicfiles.com" in question
    assert not begun
    terminal.answer = "y"
    with asking_first(), pytest.raises(store.WeightsUnavailable, match="no network"):
        store.ensure_weights("vgg16")
    assert begun == ["vgg16-397923af.pth"]


def test_what_is_named_is_fetched_without_a_question(begun, terminal):
    with pytest.raises(store.WeightsUnavailable, match="no network"):
        SEGMENTERS.create("sam").ensure()
    assert begun == ["sam_vit_b_01ec64.pth"] and not terminal.questions


def test_yes_answers_for_every_command(begun, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(consent.VARIABLE, "0")
    with pytest.raises(SystemExit):
        main(["evaluate", "--load-config", str(tmp_path / "absent.yml"), "--yes"])
    assert "no such file" in capsys.readouterr().err
    assert os.environ[consent.VARIABLE] == "1"
    with asking_first(), pytest.raises(store.WeightsUnavailable, match="no network"):
        store.ensure_weights("big-lama")
    assert begun == ["big-lama.pt"]
