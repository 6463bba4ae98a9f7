"""Downloading one file: progress, resume, and nothing under the final name before it has been checked."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from spinnerf_ns.errors import SpinnerfError

TIMEOUT = 30.0
"""Seconds without a byte after which a connection is given up."""

CHUNK = 1 << 20


class DownloadFailed(SpinnerfError):
    """The file could not be had: no network, a server's refusal, a connection that broke, a full disk."""


class WrongFile(SpinnerfError):
    """What came is not the file that was expected."""


def download(url: str, target: Path, size: int | None, check: Callable[[Path], str | None]) -> Path:
    """Downloads `url` to `target`.

    Bytes go to `<target>.part`; a download that broke is resumed there (HTTP Range). The complete file is checked and only
    then renamed, so that no run ever finds a half or wrong file under the final name.

    Args:
        url: where it is.
        target: where it goes; its folder is made.
        size: bytes, where known.
        check: says what is wrong with a complete file, or None.

    Returns:
        `target`.

    Raises:
        DownloadFailed: it could not be had; what came so far stays in `.part`.
        WrongFile: it is another file than expected; nothing stays.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadFailed(f"the folder {target.parent} cannot be made ({error.strerror})") from error
    with _lock(target):
        if target.is_file() and check(target) is None:  # another process has been here meanwhile
            return target
        part = target.with_name(f"{target.name}.part")
        resumed = _fetch(url, part, size)
        wrong = check(part)
        if wrong and resumed:  # the first half may have been of another file: once more, whole
            part.unlink()
            _fetch(url, part, size)
            wrong = check(part)
        if wrong:
            part.unlink()
            raise WrongFile(f"{url} gave a wrong file: {wrong}; it was deleted")
        os.replace(part, target)
    return target


def _fetch(url: str, part: Path, size: int | None) -> bool:
    """Fills `part` to the end; True if it went on from an earlier try."""
    start = part.stat().st_size if part.is_file() else 0
    if start and size is not None and start >= size:
        return True  # complete, or too long: the check says
    _check_space(part, size, start)
    request = urllib.request.Request(url, headers={"User-Agent": "spinnerf-ns"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            if start and not (response.status == 206 and _range_start(response) == start):
                start = 0  # the server begins again
            length = response.headers.get("Content-Length")
            total = start + int(length) if length and length.isdigit() else None
            if size is not None and total is not None and total != size:
                part.unlink(missing_ok=True)
                raise WrongFile(f"{url} has {total} bytes, {size} were expected; is it still the same file?")
            _copy(response, part, start, total or size)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == 416:  # nothing after `start`: complete, or another file than ours
            return True
        raise DownloadFailed(f"the server answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
        raise DownloadFailed(str(getattr(error, "reason", "") or error) or type(error).__name__) from error
    return start > 0


def _copy(response: http.client.HTTPResponse, part: Path, start: int, total: int | None) -> None:
    """Appends the response to `part` (from byte `start`) with a progress bar; a short one is an error."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress, open(part, "ab" if start else "wb") as file:
        task = progress.add_task(part.name.removesuffix(".part"), total=total, completed=start)
        done = start
        while chunk := response.read(CHUNK):
            file.write(chunk)
            done += len(chunk)
            progress.update(task, completed=done)
    if total is not None and done < total:
        raise OSError(f"the connection broke after {done} of {total} bytes; the next try goes on from there")


def _range_start(response: http.client.HTTPResponse) -> int | None:
    """The first byte's place in "Content-Range: bytes 100-199/200"."""
    first = (response.headers.get("Content-Range") or "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else None


def _check_space(part: Path, size: int | None, start: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if size is not None and free < size - start:
        raise DownloadFailed(f"{part.parent} has {free / 1e6:.0f} MB left, {(size - start) / 1e6:.0f} MB are needed")


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Lets one process at a time download `target` (where the system has flock)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    lock = target.with_name(f".{target.name}.lock")
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
