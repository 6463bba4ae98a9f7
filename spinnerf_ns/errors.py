"""The one exception that this package raises for what a user can mend, and how a command ends."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

STOPPED = 130
"""Exit status after Ctrl-C, as a shell's."""


class SpinnerfError(RuntimeError):
    """What was found, what was expected, and the command or step that mends it, in one line.

    Commands print the message without a traceback and exit with status 1.
    """


NO_SPACE = "No space left on device; make some, then run the same command again: it goes on where it was"

_WRITER_OF_CHECKPOINTS = ("PytorchStreamWriter failed", "inline_container", "unexpected pos")
"""What torch says, without an errno, where a checkpoint cannot be written in full."""


def last_line(error: BaseException) -> tuple[str, int] | None:
    """What a command says in the end, in one line, and its exit status; None for an error that is a fault of the program.

    Args:
        error: what was not caught.

    Example:
        >>> last_line(KeyboardInterrupt())
        ('stopped; what is finished is kept, and the same command makes the rest', 130)
        >>> last_line(OSError(28, "No space left on device", "a.png"))[0]
        'a.png: No space left on device; make some, then run the same command again: it goes on where it was'
        >>> last_line(ZeroDivisionError())
    """
    if isinstance(error, KeyboardInterrupt):
        return "stopped; what is finished is kept, and the same command makes the rest", STOPPED
    if isinstance(error, SpinnerfError):
        return " ".join(str(error).split()), 1
    if _is_no_space(error):
        return f"{_file_of(error)}{NO_SPACE}", 1
    if (checkpoint := _checkpoint_not_loaded(error)) is not None:
        return f"{checkpoint}: cut short or damaged; delete it, so that an earlier one is taken, or train again", 1
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"{_file_of(error)}{error.strerror}; it cannot be read or written: change who may, or name other folders "
            "(--workspace, --output; ns-train: --output-dir, --pipeline.datamanager.workspace)"
        ), 1
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.EIO, errno.ESTALE, errno.ENOTDIR):
        return f"{_file_of(error)}{error.strerror}; the disk or the name of the file does not allow it: use another place", 1
    return None


def one_line_at_the_end(program: str, interrupts: str | None = "stopped") -> None:
    """From now on, an error that nobody catches in this process and that a user can mend is one line instead of a traceback.

    For programs that are not ours (ns-train): all other errors are shown as before.

    Args:
        program: its name, in front of the line.
        interrupts: what is said of Ctrl-C; by None what `last_line` says.
    """
    before = sys.excepthook
    if getattr(before, "__module__", None) == __name__:
        return

    def show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> Any:
        said = last_line(error)
        if said is None:
            return before(kind, error, traceback)
        sys.stdout.flush()
        print(f"{program}: {interrupts if interrupts and isinstance(error, KeyboardInterrupt) else said[0]}", file=sys.stderr)
        return None

    sys.excepthook = show


def stop_in_one_line(program: str, text: Callable[[], str]) -> None:
    """From now on, Ctrl-C ends this process in one line and with status 130, whoever else catches `KeyboardInterrupt`.

    For ns-train, which prints a traceback of it and ends with status 0. Not where somebody has another handler than Python's own,
    nor outside the main thread.

    Args:
        program: its name, in front of the line.
        text: says where things stand.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # once more: at once
        sys.stdout.flush()
        print(f"\n{program}: {text()}", file=sys.stderr)
        raise SystemExit(STOPPED)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        try:
            signal.signal(signal.SIGINT, stop)
        except ValueError:  # not in the main thread
            pass


@contextmanager
def interrupts_raised() -> Iterator[None]:
    """Within it Ctrl-C is `KeyboardInterrupt`, for what has words of its own for that."""
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _is_no_space(error: BaseException) -> bool:
    if isinstance(error, OSError):
        # numpy's: "4096 requested and 0 written", without an errno
        return error.errno in (errno.ENOSPC, errno.EDQUOT) or (error.errno is None and "requested and" in str(error))
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _WRITER_OF_CHECKPOINTS)


def _checkpoint_not_loaded(error: BaseException) -> str | None:
    """The file that one of nerfstudio's commands was loading when torch failed; torch's own errors, of many kinds, name none."""
    file, step = None, error.__traceback__
    while step is not None:
        if "load_path" in step.tb_frame.f_locals:
            file = str(step.tb_frame.f_locals["load_path"])
        if file is not None and step.tb_frame.f_code.co_filename.endswith("torch/serialization.py"):
            return None if isinstance(error, FileNotFoundError) else file
        step = step.tb_next
    return None


def _file_of(error: BaseException) -> str:
    name = getattr(error, "filename", None)
    return f"{name}: " if name is not None else ""
