"""What is done in the page is done by a command as well, to the same files."""

from __future__ import annotations

import json

import numpy as np

from spinnerf_ns.cli import main
from spinnerf_ns.page.session import Session
from spinnerf_ns.page.tracking import TrackingJob
from spinnerf_ns.scene.workspace import Workspace
from spinnerf_ns.segmentation.segmenters.grabcut import GrabCutSegmenter
from spinnerf_ns.segmentation.trackers.flow import FlowTracker
from tests.page.conftest import box_of, true_mask


def files(workspace: Workspace) -> dict[str, bytes]:
    paths = [*workspace.masks_2d.rglob("*.png"), *(workspace.root / "objects").rglob("*.png")]
    return {path.relative_to(workspace.root).as_posix(): path.read_bytes() for path in paths}


def test_the_page_and_the_command_line_write_the_same(twin, capture, workspace, tmp_path) -> None:
    """Two objects, one of them in two photos, by clicks, a box and strokes; one of them is to be removed."""
    session = Session(capture, workspace, GrabCutSegmenter(), FlowTracker())
    first, second = session.views[1].photo, session.views[4].photo
    (x0, y0), (x1, y1) = box_of(true_mask(twin, first))
    rows, columns = np.nonzero(true_mask(twin, second))
    x, y = float(np.median(columns)), float(np.median(rows))
    session.rename_object("object", "vase")
    session.box("vase", first, x0, y0, x1, y1)
    session.point("vase", second, x, y, 1)
    session.point("vase", second, 5.0, 110.0, 0)
    session.stroke("vase", second, [(x - 3, y), (x + 3, y)], 2.5, 1)
    session.add_object("lamp")
    session.stroke("lamp", first, [(10.0, 10.0), (30.0, 12.0)], 6.0, 1)
    job = TrackingJob(session)
    job.start()
    job.wait(60)
    session.select("lamp", False)
    assert session.save() == ["vase"]

    other = Workspace.open(twin.root, tmp_path / "other")
    other.set_object_free(workspace.object_free)
    words = ["segment", "--data", twin.root, "--workspace", other.root, "--segmenter", "grabcut", "--tracker", "flow"]
    words += ["--object", "vase", "--view", first, "--box", f"{x0},{y0},{x1},{y1}"]
    words += ["--view", second, "--points", f"{x},{y}", "5,110,0", "--brush", f"2.5,1,{x - 3},{y},{x + 3},{y}"]
    words += ["--object", "lamp", "--view", first, "--brush", "6,1,10,10,30,12", "--objects", "vase"]
    main([str(word) for word in words])
    assert json.loads(other.prompts_path.read_text()) == json.loads(workspace.prompts_path.read_text())
    assert files(other) == files(workspace) and len(files(other)) > 12
    main([str(word) for word in [*words[:9], "--objects", "vase", "lamp", "--overwrite"]])  # another subset, without tracking again
    session.select("lamp", True)
    assert session.save() == []
    assert files(other) == files(workspace)
