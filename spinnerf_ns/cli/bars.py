"""python -m spinnerf_ns.cli.bars FILE COMMAND ...: an `ns-spinnerf` command whose bars are also written to a file.

Bars are drawn for terminals. Whoever shows them elsewhere reads FILE: [{"what", "done", "total"}], renewed twice a second.
"""

from __future__ import annotations

import sys
from pathlib import Path

from spinnerf_ns.files import write_json
from spinnerf_ns.progress import Bar, watched


def main(arguments: list[str]) -> None:
    """Runs the command."""
    from spinnerf_ns.cli import main as ns_spinnerf

    path = Path(arguments[0])
    before: list | None = None

    def write(bars: list[Bar]) -> None:
        nonlocal before
        now = [
            {"what": bar.what, "done": bar.done, "total": bar.total} for bar in bars if bar.total is None or bar.done < bar.total
        ]
        if now != before:
            before = now
            write_json(path, now)

    with watched(write):
        ns_spinnerf(arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
