"""ns-spinnerf remove --scenes LIST: many scenes, each in a process of its own, here or on the machines of a Ray cluster."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.executor import Executor, Job, last_line, run_jobs

OWN = {"--scenes": 1, "--executor": 1, "--jobs": 1, "--data": 1}
"""Options of the command as a whole, with how many words follow: all others are each scene's."""


@dataclass(frozen=True)
class Scene:
    """A line of the list."""

    data: Path
    """The capture."""
    words: tuple[str, ...]
    """What is said of it alone: where to point, mostly."""


def read_list(path: Path) -> list[Scene]:
    """The scenes of a list: a line each, a capture's folder and then options as on the command line; `#` begins a comment.

    Folders are relative to the list.

    Raises:
        SpinnerfError: it is missing, holds no scene, one that is not there, or one twice.
    """
    if not path.is_file():
        raise SpinnerfError(f"{path}: no such file; write a line per scene: FOLDER --view PHOTO --points X,Y")
    scenes: list[Scene] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise SpinnerfError(f"{path}, line {number}: {error}; quote it as for a shell") from error
        if not words:
            continue
        data = path.parent / words[0]
        if not data.exists():
            raise SpinnerfError(f"{path}, line {number}: {data} does not exist; correct the line")
        if any(data.resolve() == scene.data.resolve() for scene in scenes):
            raise SpinnerfError(f"{path}, line {number}: {data} is there twice; give all that is pointed at in it on one line")
        scenes.append(Scene(data, tuple(words[1:])))
    if not scenes:
        raise SpinnerfError(f"{path}: names no scene; write a line per scene: FOLDER --view PHOTO --points X,Y")
    return scenes


def common_words(arguments: Sequence[str]) -> list[str]:
    """The options of a command line that are each scene's."""
    words, skip = [], 0
    for argument in arguments:
        name = argument.partition("=")[0].replace("_", "-")
        if skip:
            skip -= 1
        elif name in OWN:
            skip = 0 if "=" in argument else OWN[name]
        else:
            words.append(argument)
    return words


def remove_scenes(path: Path, arguments: Sequence[str], jobs: int, executor: Executor) -> None:
    """Removes the objects of all scenes of a list. The same command goes on where an interrupted one stopped.

    Args:
        path: the list (`read_list`).
        arguments: options for every scene.
        jobs: scenes at once on a machine.
        executor: where.

    Raises:
        SpinnerfError: as `read_list`; or scenes failed: the others are finished.
    """
    from spinnerf_ns.hints import say

    scenes = read_list(path)
    logs = path.with_name(f"{path.name}.logs")
    program = (sys.executable, "-W", "ignore", "-c", "from spinnerf_ns.cli import main; main()", "remove")
    made: dict[str, Job] = {}
    for scene in scenes:
        name = scene.data.name
        while name in made:
            name += "'"
        words = ("--data", str(scene.data.resolve()), *scene.words, *arguments)
        made[name] = Job(name, (*program, *words), logs / f"{name}.log")
    failed: list[Job] = []
    count = 0

    def ended(job: Job, code: int, seconds: float) -> None:
        nonlocal count
        count += 1
        text = f"[{count}/{len(made)}] {job.name}"
        if code:
            failed.append(job)
        say(f"{text}: {f'failed, {last_line(job.log)}' if code else f'{seconds:.0f} s'}")

    run_jobs(list(made.values()), jobs, executor, ended)
    if failed:
        raise SpinnerfError(
            f"{len(failed)} of {len(made)} scenes failed, {failed[0].name} first: {last_line(failed[0].log)} (all of it: "
            f"{failed[0].log}); the others are finished, and the same command goes on with those that failed"
        )
