"""Processes that share the work on photos: each is prepared once, then asked for one photo after another.

They are started by a command of their own and not by multiprocessing, whose children run the caller's program again up to its
`if __name__ == "__main__"`: a script that has none would start itself without end. What they are told and say travels by pipes, so
that they end as soon as who asked them has ended, however it ended.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from spinnerf_ns.errors import SpinnerfError

LEAST_EACH = 12
"""Tasks per process from which it is worth its start: seconds of imports."""
BYTES_EACH = 2 << 30
"""Free memory that a process is allowed to need."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(wanted: int | None, tasks: int) -> int:
    """How many processes to share tasks among.

    Args:
        wanted: as somebody asked for; None: as many as there are cores and memory for, and one where that is not worth it.
        tasks: how many there are.

    Raises:
        SpinnerfError: fewer than one are asked for.
    """
    if wanted is not None:
        if wanted < 1:
            raise SpinnerfError(f"--workers {wanted}: at least 1 was expected; leave it out for as many as there are cores")
        return max(1, min(wanted, tasks))
    return max(1, min(cores(), tasks // LEAST_EACH, free_memory() // BYTES_EACH))


def free_memory() -> int:
    """Bytes of memory that can be had without swapping; much where nobody says."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found = next(line for line in file if line.startswith("MemAvailable"))
        return 1024 * int(found.split()[1])
    except (OSError, StopIteration, ValueError):
        return 1 << 40


class Workers:
    """Some processes, used as a context.

    Args:
        count: how many.
        prepare: makes what tasks work with, once in each process; a function of a module.
        arguments: its arguments; they are pickled.
    """

    def __init__(self, count: int, prepare: Callable[..., Any], arguments: Sequence[Any]) -> None:
        self._setup = pickle.dumps((prepare, tuple(arguments)))
        threads = dict.fromkeys(THREADS, str(max(1, cores() // count)))
        environment = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        command = [sys.executable, "-W", "ignore", "-c", f"from {__name__} import _serve; _serve()"]
        self._processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) for _ in range(count)
        ]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: Any) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                try:
                    pipe.close()
                except OSError:  # what was not read by who is gone
                    continue

    def map(self, function: Callable[[Any, Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Calls `function(prepared, task)`, a function of a module, for every task.

        Yields:
            Tasks and results, in the order in which they are done.

        Raises:
            SpinnerfError: a process ended before its task. And what a task raises.
        """
        waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[Any, Any, BaseException | None]] = queue.SimpleQueue()
        for task in tasks:
            waiting.put(task)
        asked = [threading.Thread(target=self._ask, args=(each, function, waiting, done), daemon=True) for each in self._processes]
        for thread in asked:
            thread.start()
        for _ in tasks:
            task, result, error = done.get()
            if error is not None:
                while not waiting.empty():
                    waiting.get()
                raise error
            yield task, result
        for thread in asked:
            thread.join()

    def _ask(self, process: subprocess.Popen, function: Callable[[Any, Any], Any], waiting: Any, done: Any) -> None:
        assert process.stdin is not None and process.stdout is not None
        while True:
            try:
                task = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                _send(process.stdin, (self._setup, pickle.dumps((function, task))))
                result, error = pickle.load(process.stdout)
            except (OSError, EOFError, pickle.UnpicklingError):
                status = process.wait()
                error = SpinnerfError(
                    f"a process that worked on photos ended (status {status}), perhaps for want of memory; what is done is kept: "
                    "the same command goes on, with fewer at once: --workers 1"
                )
                result = None
            done.put((task, result, error))
            if error is not None:
                return


def _send(pipe: BinaryIO, message: Any) -> None:
    pickle.dump(message, pipe)
    pipe.flush()


def _serve() -> None:
    """What a process does until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asked, who ends this
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed is no answer
    questions = sys.stdin.buffer
    prepared: dict[bytes, Any] = {}
    while True:
        try:
            setup, question = pickle.load(questions)
        except EOFError:
            return
        try:
            if setup not in prepared:
                prepare, arguments = pickle.loads(setup)
                prepared[setup] = prepare(*arguments)
            function, task = pickle.loads(question)
            answer = function(prepared[setup], task), None
        except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
            answer = None, error
        try:
            _send(answers, answer)
        except BrokenPipeError:
            return
        except Exception as error:  # noqa: BLE001 - what cannot be pickled is told in words
            _send(answers, (None, RuntimeError(f"{type(error).__name__}: {error}; for {answer[1]!r}")))
