"""Segmenters and trackers by name; what `auto` stands for: the network if it can be had, else the embedded backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.registry import Registry
from spinnerf_ns.segmentation.segmenters import SEGMENTERS
from spinnerf_ns.segmentation.trackers import TRACKERS
from spinnerf_ns.weights.consent import asking_first

AUTO = "auto"
AUTO_ORDER = {SEGMENTERS.kind: ("sam", "grabcut"), TRACKERS.kind: ("sam2", "geometry", "flow")}
"""Kind of backend -> what `auto` takes if its package is installed and its weights are here or the user lets them be fetched,
and what it takes else; the last one always can be."""


def choose(
    registry: Registry,
    name: str,
    options: Mapping[str, Any] | None = None,
    recorded: str | None = None,
    embedded: Callable[[], str] | None = None,
) -> Any:
    """A backend by name.

    Args:
        registry: SEGMENTERS or TRACKERS.
        name: its name, or "auto"; what that chose is printed in one line.
        options: its options.
        recorded: the backend that made the masks that are there, if any: "auto" stays with it, so that weights that come
            or go between two runs do not make them stale.
        embedded: says which one "auto" takes where the network can't be had, if not the last one; asked only then.

    Raises:
        SpinnerfError: no such name or option.
    """
    if name != AUTO:
        return registry.create(name, **(options or {}))
    if options:
        raise SpinnerfError(f"options of a {registry.kind} were given, but not which one; add --{registry.kind} NAME")
    from nerfstudio.utils.rich_utils import CONSOLE

    network, *without = AUTO_ORDER[registry.kind]
    if recorded in (network, *without):
        chosen, reason = registry.create(recorded), "as for the masks that are there"
    else:
        try:
            chosen, reason = registry.create(network), "as its weights are there"
            with asking_first():
                chosen.ensure()
        except SpinnerfError as error:
            chosen = registry.create(without[-1] if embedded is None else embedded())
            reason = f"as '{network}' can't be had: {error}"
    CONSOLE.print(f"{registry.kind} auto: {chosen.name}, {reason}", markup=False, highlight=False, soft_wrap=True)
    return chosen
