"""ns-spinnerf weights: what pretrained files there are, fetching and checking them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from spinnerf_ns.errors import SpinnerfError

if TYPE_CHECKING:
    from spinnerf_ns.weights.store import HubModel, WeightsFile

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
        from spinnerf_ns.weights.store import WEIGHTS, ensure_weights, find_entry

        if self.action == "fetch":
            if not self.names:
                raise SpinnerfError(f"name what to fetch: ns-spinnerf weights fetch NAME; there are: {', '.join(WEIGHTS)}")
            for name in [find_entry(name).name for name in self.names]:  # a wrong name stops before the first download
                print(f"{name}: {ensure_weights(name)}")
            return
        entries = [find_entry(name) for name in self.names] or list(WEIGHTS.values())
        list_entries(entries) if self.action == "list" else verify_entries(entries)


def find_place(entry: WeightsFile | HubModel) -> Path | None:
    """The entry's file or folder where it lies, unchecked."""
    from spinnerf_ns.weights.store import WeightsFile, find_file, find_hub_folder

    return find_file(entry) if isinstance(entry, WeightsFile) else find_hub_folder(entry)


def list_entries(entries: list[WeightsFile | HubModel]) -> None:
    """Prints the entries: plain lines, since a table would cut names and addresses short."""
    from spinnerf_ns.weights.store import WeightsFile, cache_dir

    for entry in entries:
        place = find_place(entry)
        if isinstance(entry, WeightsFile):
            size = f"{entry.size / 1e6:.0f} MB" if entry.size else "size unknown"
            checksum = "checksum verified" if entry.verified else "checksum unverified, checked on download"
            facts = [size, entry.licence, checksum]
        else:
            facts = ["a folder in Hugging Face's cache", entry.licence, "checked by that library"]
        facts.append(f"here: {place}" if place else "not here")
        print(f"{entry.name}\n    {entry.used_by}\n    {'; '.join(facts)}\n    {entry.url}")
    print(f"Kept in {cache_dir()} (SPINNERF_WEIGHTS moves it); torch's hub cache is looked into as well.")


def verify_entries(entries: list[WeightsFile | HubModel]) -> None:
    """Hashes every file that is here.

    Raises:
        SpinnerfError: one is wrong.
    """
    from spinnerf_ns.weights.store import WeightsFile, check_hub_folder, problem

    wrong = []
    for entry in entries:
        place = find_place(entry)
        if place is None:
            print(f"{entry.name}: not here")
            continue
        checked, reason = (1, problem(entry, place)) if isinstance(entry, WeightsFile) else check_hub_folder(place)
        print(f"{entry.name}: {place}: {reason or ('as expected' if checked else 'no checksum of it is known')}")
        if reason:
            wrong.append(str(place))
    if wrong:
        raise SpinnerfError(f"wrong files: {', '.join(wrong)}; delete them and run ns-spinnerf weights fetch")
