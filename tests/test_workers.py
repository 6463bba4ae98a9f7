"""Processes that share work."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from spinnerf_ns import workers as module
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.workers import LEAST_EACH, Workers, worker_count


def test_every_task_is_done_once_by_processes_that_were_prepared():
    with Workers(2, int, (3,)) as workers:
        assert dict(workers.map(operator.mul, range(20))) == {number: 3 * number for number in range(20)}
        assert dict(workers.map(operator.add, [4])) == {4: 7}, "and again, without another start"


def test_what_a_task_raises_is_raised_and_the_others_end():
    with Workers(2, int, (6,)) as workers:
        with pytest.raises(ZeroDivisionError):
            list(workers.map(operator.floordiv, [1, 2, 0, 3]))
        processes = workers._processes
    assert all(process.poll() is not None for process in processes)


def test_a_process_that_is_killed_is_told_in_one_line():
    with Workers(1, os.getpid, ()) as workers, pytest.raises(SpinnerfError, match=r"status -9.*--workers 1"):
        list(workers.map(os.kill, [signal.SIGKILL]))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for processes' states")
def test_processes_end_with_who_asked_however_that_ended(tmp_path):
    script = tmp_path / "asks.py"  # without `if __name__ == "__main__"`: it is not run again by its own workers
    script.write_text(
        textwrap.dedent(f"""
        import os, time
        from spinnerf_ns.workers import Workers
        workers = Workers(2, int, (1,))
        with open({str(tmp_path / "pids")!r}, "a") as file:
            print(*(process.pid for process in workers._processes), file=file)
        time.sleep(60)
        """)
    )
    process = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    for _ in range(600):
        if (tmp_path / "pids").is_file() and (tmp_path / "pids").read_text().endswith("\n"):
            break
        time.sleep(0.1)
    time.sleep(1)
    process.kill()
    process.wait()
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    for _ in range(600):
        if all(_state(pid) == "Z" for pid in pids):
            break
        time.sleep(0.1)
    assert all(_state(pid) == "Z" for pid in pids)


def _state(pid: int) -> str:
    """A process' state as Linux names it; Z for one that has ended, whether or not anybody has asked how."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def test_how_many_processes(monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 4)
    monkeypatch.setattr(module, "free_memory", lambda: 3 * module.BYTES_EACH)
    assert worker_count(None, 100 * LEAST_EACH) == 3, "as far as memory reaches"
    assert worker_count(None, 2 * LEAST_EACH) == 2 and worker_count(None, 3) == 1, "a start is not worth a few photos"
    assert worker_count(8, 5) == 5 and worker_count(1, 5) == 1
    with pytest.raises(SpinnerfError, match="--workers 0"):
        worker_count(0, 5)
