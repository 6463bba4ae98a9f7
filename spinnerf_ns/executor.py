"""Commands as processes: on this machine, or on the machines of a Ray cluster (extra `[ray]`).

Workspaces lie on storage that all machines share. What a lost machine was at is done again elsewhere, and goes on where it was: the
stages of a workspace keep what is whole, and nothing that is half-written is ever seen (`scene.stage`).
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.workers import THREADS, cores

Executor = Literal["local", "ray"]
RETRIES = 5
"""So often a command is begun again whose machine was lost."""


@dataclass(frozen=True)
class Job:
    """A command that is run in a process of its own."""

    name: str
    command: tuple[str, ...]
    """The program and its words."""
    log: Path
    """Its output is added to this file."""


Ended = Callable[[Job, int, float], None]
"""(job, exit status, seconds): called as soon as a job has ended, one at a time."""


def run_jobs(jobs: Sequence[Job], at_once: int, executor: Executor = "local", ended: Ended | None = None) -> None:
    """Runs all jobs; returns when all have ended. What interrupts it (Ctrl-C) ends those that run.

    Args:
        jobs: what to run.
        at_once: processes at once on a machine; its cores are divided among them.
        executor: local: on this machine. ray: on the cluster that RAY_ADDRESS names, else on one that is started here.
        ended: is told of each.

    Raises:
        SpinnerfError: Ray is asked for and can't be had.
    """
    threads = str(max(1, cores() // max(1, at_once)))
    environment = {**os.environ, **dict.fromkeys(THREADS, threads), "PYTHONUNBUFFERED": "1"}
    lock = threading.Lock()

    def tell(job: Job, code: int, seconds: float) -> None:
        if ended is not None:
            with lock:
                ended(job, code, seconds)

    for job in jobs:
        job.log.parent.mkdir(parents=True, exist_ok=True)
    (_run_with_ray if executor == "ray" else _run_here)(jobs, at_once, environment, tell)


def last_line(log: Path) -> str:
    """The last line of a log that says something: mostly why a command failed."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def import_ray() -> Any:
    """The module.

    Raises:
        SpinnerfError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise SpinnerfError(f"--executor ray: Ray can't be imported ({error}); pip install 'spinnerf-ns[ray]'") from error
    return ray


def _run_here(jobs: Sequence[Job], at_once: int, environment: Mapping[str, str], tell: Ended) -> None:
    running: set[subprocess.Popen] = set()
    lock, stopped = threading.Lock(), threading.Event()

    def run(job: Job) -> None:
        start = time.monotonic()
        with open(job.log, "ab") as file:
            with lock:
                if stopped.is_set():
                    return
                process = subprocess.Popen(job.command, stdout=file, stderr=subprocess.STDOUT, env=dict(environment))
                running.add(process)
            code = process.wait()
        with lock:
            running.discard(process)
            if stopped.is_set():
                return
        tell(job, code, time.monotonic() - start)

    pool = ThreadPoolExecutor(max(1, at_once))
    try:
        list(pool.map(run, jobs))
    finally:  # also on Ctrl-C: nothing goes on in the background
        stopped.set()
        with lock:
            for process in running:
                process.terminate()
        pool.shutdown(cancel_futures=True)


def _run_with_ray(jobs: Sequence[Job], at_once: int, environment: Mapping[str, str], tell: Ended) -> None:
    ray = import_ray()
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    own = {name: environment[name] for name in (*THREADS, "PYTHONUNBUFFERED")}
    # What machines have of their own (PATH, HOME) is theirs; what this package is told by its user goes with it.
    own |= {name: value for name, value in environment.items() if name.startswith("SPINNERF_") or name == "PYTHONPATH"}
    each = max(1.0, cores() / max(1, at_once))
    work = ray.remote(num_cpus=each, max_retries=RETRIES)(_ray_process())
    started = {work.remote(job.command, str(job.log), own): job for job in jobs}
    try:
        while started:
            done, _ = ray.wait(list(started), num_returns=1)
            job = started.pop(done[0])
            try:
                code, seconds = ray.get(done[0])
            except ray.exceptions.RayError as error:
                with open(job.log, "a", encoding="utf-8") as file:
                    file.write(f"\nits machine was lost {RETRIES + 1} times: {' '.join(str(error).split())[:200]}\n")
                code, seconds = -1, float("nan")
            tell(job, code, seconds)
    finally:
        for reference in started:
            ray.cancel(reference, force=True)


def _ray_process() -> Callable[[tuple[str, ...], str, dict[str, str]], tuple[int, float]]:
    """What a worker does; made here so that it travels by its text, and machines need no particular version of this module."""

    def process(command: tuple[str, ...], log: str, own: dict[str, str]) -> tuple[int, float]:
        import ctypes
        import os
        import signal
        import subprocess
        import sys
        import time

        def die_with_worker() -> None:
            if sys.platform == "linux":  # else the command would go on beside the one that is begun again
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)

        start = time.monotonic()
        with open(log, "ab") as file:
            code = subprocess.call(
                command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **own}, preexec_fn=die_with_worker
            )
        return code, time.monotonic() - start

    return process
