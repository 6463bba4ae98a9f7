"""Commands as processes, here and on Ray."""

from __future__ import annotations

import os
import sys
import time

import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.executor import Job, import_ray, last_line, run_jobs

KILLED_ONCE = """
import os, pathlib, signal, sys, time
attempts = pathlib.Path(sys.argv[1])
with open(attempts, "a") as file:
    file.write(f"{os.getpid()}\\n")
if len(attempts.read_text().splitlines()) == 1:
    os.kill(os.getppid(), signal.SIGKILL)  # as if its machine were lost
    time.sleep(60)
print("done")
"""


def job(tmp_path, name, program, *words):
    return Job(name, (sys.executable, "-c", program, *map(str, words)), tmp_path / "logs" / f"{name}.log")


def check_all(tmp_path, executor):
    ended: dict[str, int] = {}
    threads = "import os; print(os.environ['OMP_NUM_THREADS'])"
    jobs = [job(tmp_path, "good", threads), job(tmp_path, "bad", "import sys; print('no photo'); sys.exit(3)")]
    run_jobs(jobs, 2, executor, lambda each, code, seconds: ended.update({each.name: code}))
    assert ended == {"good": 0, "bad": 3}
    assert last_line(jobs[1].log) == "no photo" and int(last_line(jobs[0].log)) >= 1


def test_jobs_end_with_their_status_and_their_output_is_kept(tmp_path):
    check_all(tmp_path, "local")


def test_an_interruption_ends_what_runs(tmp_path):
    started = tmp_path / "started"
    long = f"import os, pathlib, time; pathlib.Path({str(started)!r}).write_text(str(os.getpid())); time.sleep(60)"

    def interrupted(*_):
        while not started.exists():
            time.sleep(0.05)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs([job(tmp_path, "quick", "pass"), job(tmp_path, "long", long)], 2, ended=interrupted)
    pid = int(started.read_text())
    for _ in range(200):
        if not _alive(pid):
            break
        time.sleep(0.05)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_without_ray_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SpinnerfError, match=r"pip install 'spinnerf-ns\[ray\]'"):
        run_jobs([job(tmp_path, "any", "pass")], 1, "ray")


@pytest.fixture(scope="module")
def ray():
    pytest.importorskip("ray")
    found = import_ray()
    found.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    yield found
    found.shutdown()


def test_ray_does_the_same(ray, tmp_path):
    check_all(tmp_path, "ray")


@pytest.mark.skipif(sys.platform != "linux", reason="processes die with their workers on Linux")
def test_what_a_lost_worker_was_at_is_done_again(ray, tmp_path):
    attempts, ended = tmp_path / "attempts", {}
    run_jobs([job(tmp_path, "lost", KILLED_ONCE, attempts)], 1, "ray", lambda each, code, seconds: ended.update({each.name: code}))
    first, second = map(int, attempts.read_text().split())
    assert ended == {"lost": 0} and first != second
    assert last_line(tmp_path / "logs" / "lost.log") == "done"
    assert not _alive(first), "two would work on one scene"
