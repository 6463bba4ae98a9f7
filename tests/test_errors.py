"""How commands end: in one line for what a user can mend, in a traceback for what is a fault of the program."""

from __future__ import annotations

import doctest
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import spinnerf_ns.errors
from spinnerf_ns.cli import main
from spinnerf_ns.errors import SpinnerfError, last_line
from spinnerf_ns.files import save_depth


def test_examples():
    assert doctest.testmod(spinnerf_ns.errors).failed == 0


@pytest.mark.parametrize(
    "error, expected, status",
    [
        (OSError(28, "No space left on device", "a.png"), "a.png: No space left", 1),
        (OSError(122, "Disk quota exceeded", "a.png"), "No space left", 1),
        (OSError("4096 requested and 0 written"), "No space left", 1),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), "No space left", 1),
        (PermissionError(13, "Permission denied", "/x/a"), "/x/a: Permission denied.*--workspace", 1),
        (OSError(30, "Read-only file system", "/x/a"), "/x/a: Read-only file system.*--workspace", 1),
        (KeyboardInterrupt(), "stopped; what is finished is kept, and the same command makes the rest", 130),
        (SpinnerfError("two\nlines"), "two lines", 1),
    ],
)
def test_commands_end_in_one_line(error, expected, status, monkeypatch, capsys):
    from spinnerf_ns.cli import weights

    def fail(self):
        raise error

    monkeypatch.setattr(weights.Weights, "main", fail)
    with pytest.raises(SystemExit) as exit_info:
        main(["weights", "list"])
    captured = capsys.readouterr()
    assert exit_info.value.code == status
    import re

    assert re.match(f"ns-spinnerf weights: .*{expected}", captured.err) and len(captured.err.splitlines()) == 1


def test_a_fault_of_the_program_is_no_line():
    assert last_line(ZeroDivisionError()) is None and last_line(FileNotFoundError(2, "No such file", "a")) is None


def test_stock_programs_show_a_line_once_our_pipeline_is_set_up(tmp_path):
    """ns-train lets errors through to the interpreter."""
    code = """
        from spinnerf_ns.errors import SpinnerfError, one_line_at_the_end
        import sys
        one_line_at_the_end("ns-train"); one_line_at_the_end("ns-train")
        raise {}
    """
    for error, expected in (
        ("SpinnerfError('a.png: is no mask; paint one')", "ns-train: a.png: is no mask; paint one"),
        ("OSError(28, 'No space left on device', 'x')", "ns-train: x: No space left on device"),
    ):
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code.format(error))], capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.startswith(expected) and len(done.stderr.splitlines()) == 1
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code.format("ValueError(3)"))], capture_output=True, text=True)
    assert "Traceback" in done.stderr and done.returncode == 1


@pytest.mark.parametrize("moment", ["import torch", "main"])
def test_ctrl_c_is_one_line_from_the_first_moment_on(moment, tmp_path):
    """Pressed while torch is imported, before there is a command, and while one runs."""
    code = """
        import sys
        sys.argv = ["/usr/bin/ns-spinnerf", "weights", "list"]
        import os, signal, threading
        def interrupt(*_):
            os.kill(os.getpid(), signal.SIGINT)
        if MOMENT == "import torch":
            import importlib.abc
            class Finder(importlib.abc.MetaPathFinder):
                def find_spec(self, name, path=None, target=None):
                    if name == "torch":
                        interrupt()
            sys.meta_path.insert(0, Finder())
        from spinnerf_ns.cli import main, weights
        weights.Weights.main = interrupt
        main()
    """.replace("MOMENT", repr(moment))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode in (130, -signal.SIGINT)
    assert done.stderr.splitlines() == [line for line in done.stderr.splitlines() if "stopped; what is finished is kept" in line]
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def tiny_disk(tmp_path):
    """A disk of 64 KiB; for root alone, where mounts are allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a tiny disk here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_recognised_whatever_writes(tiny_disk):
    import torch

    def arrays():
        save_depth(tiny_disk / "a.npy", np.ones((200, 200)))

    def checkpoints():
        torch.save({"a": torch.zeros(100_000)}, tiny_disk / "a.pt")

    def texts():
        (tiny_disk / "a.txt").write_text("x" * 100_000)

    for write in (arrays, checkpoints, texts):
        with pytest.raises((OSError, RuntimeError)) as raised:
            write()
        said = last_line(raised.value)
        assert said is not None and "No space left" in said[0], (write, raised.value)
        for path in tiny_disk.iterdir():
            path.unlink()


@pytest.mark.parametrize("content", [b"", b"PK\3\4 cut"])
def test_a_checkpoint_that_stock_commands_cannot_load_is_named(content, tmp_path):
    """nerfstudio's `eval_load_checkpoint` loads it into a local variable of this name."""
    import torch

    load_path = tmp_path / "step-000000003.ckpt"
    load_path.write_bytes(content)
    with pytest.raises(Exception) as raised:  # noqa: B017  # torch raises one of many kinds
        torch.load(load_path, map_location="cpu")["pipeline"]
    said = last_line(raised.value)
    assert said is not None and said[0].startswith(f"{load_path}: cut short or damaged") and said[1] == 1


CTRL_C = """
    import os, signal, sys
    from spinnerf_ns.errors import interrupts_raised, stop_in_one_line
    stop_in_one_line("ns-train", lambda: "stopped; more with --load-dir x")
    def press():
        os.kill(os.getpid(), signal.SIGINT)
    try:
        with interrupts_raised():
            press()
    except KeyboardInterrupt:
        print("exporting")
    try:
        press()
    except KeyboardInterrupt:  # what nerfstudio does
        import traceback
        traceback.print_exc()
"""


def test_ctrl_c_in_training_is_one_line_that_says_how_to_go_on():
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(CTRL_C)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "exporting\n")
    assert done.stderr.split("\n") == ["", "ns-train: stopped; more with --load-dir x", ""]
