"""Opens the page on a scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spinnerf_ns.accel.cpu import lite_here
from spinnerf_ns.hints import say
from spinnerf_ns.page.server import Server
from spinnerf_ns.page.session import Session
from spinnerf_ns.scene.check import checked_capture
from spinnerf_ns.scene.workspace import Workspace
from spinnerf_ns.segmentation.choose import choose
from spinnerf_ns.segmentation.segment import TRACK_STAGE, give_depth, views_with_object
from spinnerf_ns.segmentation.segmenters import SEGMENTERS
from spinnerf_ns.segmentation.trackers import TRACKERS


def open_page(
    data: Path, workspace: Path | None, segmenter: Any, tracker: Any, host: str = "127.0.0.1", port: int | None = None,
    removal_arguments: list[str] | None = None, token: str | None = None, anew: bool = False, skip_missing: bool = False,
) -> Server:  # fmt: skip
    """A server of the page, which listens already; `serve` answers.

    Args:
        data, workspace: as on the command line.
        segmenter, tracker: names, "auto" or instances.
        host, port, token: of the server.
        anew: start from prompts.json even where an earlier page left something.
        skip_missing: go on without photos that are absent or broken.
        removal_arguments: more arguments of `ns-spinnerf remove`; by default --lite where there is no GPU.

    Raises:
        SpinnerfError: no such capture, no such backend, or it cannot listen there.
    """
    capture = checked_capture(data, workspace, skip_missing, say)
    opened = Workspace.open(data, workspace)
    recorded = opened.read_manifest()["stages"].get(TRACK_STAGE, {}).get("parameters", {})
    made = [
        choose(registry, one, recorded=(recorded.get(registry.kind) or {}).get("name"), embedded=embedded)
        if isinstance(one, str)
        else one
        for registry, one, embedded in ((SEGMENTERS, segmenter, None), (TRACKERS, tracker, lambda: "geometry"))
    ]  # depth is measured when it is tracked, and the session goes on without where it can't be had
    # Nobody waits for depth before a page opens, unless this tracker was asked for or made the masks that are there.
    give_depth(made[1], capture, opened, views_with_object(capture, opened))
    if removal_arguments is None:
        removal_arguments = ["--lite"] if lite_here("") else []
    return Server(Session(capture, opened, *made, anew=anew), host, port, removal_arguments, token)
