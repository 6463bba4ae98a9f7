"""ns-spinnerf weights: what pretrained files there are, fetching and checking them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from spinnerf_ns.errors import SpinnerfError

COMMAND = "weights"


@dataclass
class Weights:
    """Pretrained files: `list` them with their licences, `fetch NAME ...`, `verify` those that are here."""

    action: tyro.conf.Positional[Literal["list", "fetch", "verify"]]
    """list: every file with source, size, licence and state. fetch: download by name. verify: hash again what is here."""
    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names from the list; for list and verify none means all."""

    def main(self) -> None:
        """Runs the command."""
        from spinnerf_ns.weights import WEIGHTS, ensure_weights, find_entry

        if self.action == "fetch":
            if not self.names:
                raise SpinnerfError(f"name what to fetch: ns-spinnerf weights fetch NAME; there are: {', '.join(WEIGHTS)}")
            for name in [find_entry(name).name for name in self.names]:  # a wrong name stops before the first download
                print(f"{name}: {ensure_weights(name)}")
            return
        entries = [find_entry(name) for name in self.names] or list(WEIGHTS.values())
        list_entries(entries) if self.action == "list" else verify_entries(entries)


def list_entries(entries: list) -> None:
    """Prints the table."""
    from nerfstudio.utils.rich_utils import CONSOLE
    from rich.table import Table

    from spinnerf_ns.weights import WeightsFile, cache_dir, find_file

    table = Table("name", "used by", "MB", "licence", "checksum", "here", "source")
    for entry in entries:
        if isinstance(entry, WeightsFile):
            size = f"{entry.size / 1e6:.0f}" if entry.size else "?"
            checksum = "verified" if entry.verified else "unverified; checked on download"
            row = (size, entry.licence, checksum, "yes" if find_file(entry) else "no")
        else:
            row = ("?", entry.licence, "by the hub", "see Hugging Face's cache")
        table.add_row(entry.name, entry.used_by, *row, entry.url)
    CONSOLE.print(table)
    CONSOLE.print(f"kept in {cache_dir()} (SPINNERF_WEIGHTS moves it) or torch's hub cache", markup=False, soft_wrap=True)


def verify_entries(entries: list) -> None:
    """Hashes every file that is here.

    Raises:
        SpinnerfError: one is wrong.
    """
    from spinnerf_ns.weights import WeightsFile, find_file, problem

    wrong = []
    for entry in entries:
        file = find_file(entry) if isinstance(entry, WeightsFile) else None
        if file is None:
            continue
        reason = problem(entry, file)
        print(f"{entry.name}: {file}: {reason or 'as expected'}")
        if reason:
            wrong.append(str(file))
    if wrong:
        raise SpinnerfError(f"wrong files: {', '.join(wrong)}; delete them and run ns-spinnerf weights fetch")
