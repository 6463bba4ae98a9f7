"""What the page's buttons do, without a browser; and that every step is on disk."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_object_mask
from spinnerf_ns.page.tracking import TrackingJob
from spinnerf_ns.segmentation import segment_capture
from spinnerf_ns.segmentation.corrections import add_points
from spinnerf_ns.segmentation.prompts import Prompt
from spinnerf_ns.segmentation.prompts_file import load_prompts
from spinnerf_ns.segmentation.tracking import track_objects
from tests.page.conftest import Paints, Shift


def square(x0, y0, x1, y1) -> np.ndarray:
    mask = np.zeros((120, 160), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def track(session) -> TrackingJob:
    job = TrackingJob(session)
    job.start()
    job.wait(20)
    assert not job.state()["running"] and job.state()["error"] is None
    return job


@pytest.fixture
def photos(make_session) -> list[str]:
    return [view.photo for view in make_session().views]


def test_clicks_boxes_strokes_and_undo(make_session, photos) -> None:
    session, first = make_session(), photos[0]
    assert session.mask("object", first) is None and not session.state()["undo"]
    session.point("object", first, 50, 40, 1)
    assert (session.mask("object", first) == square(42, 32, 58, 48)).all()
    session.point("object", first, 50, 60, 0)
    session.stroke("object", first, [(100, 100)], 3, 1)
    assert session.mask("object", first)[100, 100]
    session.stroke("object", first, [(50, 40), (52, 40)], 2, 0)
    assert not session.mask("object", first)[40, 51]
    assert session.state()["undo"] == 4
    session.undo()
    session.undo()
    assert session.mask("object", first)[40, 51] and not session.mask("object", first)[100, 100]
    session.redo()
    assert session.mask("object", first)[100, 100]
    session.box("object", first, 30, 20, 10, 10)  # drawn from the other corner
    assert (session.mask("object", first) == square(10, 10, 30, 20)).all() and session.state()["redo"] == 0
    session.clear("object", first)
    assert session.mask("object", first) is None
    session.undo()
    assert (session.mask("object", first) == square(10, 10, 30, 20)).all()


@pytest.mark.parametrize(
    "step, message",
    [
        (lambda one, photo: one.point("object", photo, 160, 5, 1), "outside the photo"),
        (lambda one, photo: one.point("object", photo, 5, 5, 0), "all points are background"),
        (lambda one, photo: one.point("object", photo, 5, 5, 7), "label 7"),
        (lambda one, photo: one.stroke("object", photo, [(5, 5)], 4, 0), "all strokes erase"),
        (lambda one, photo: one.stroke("object", photo, [], 4, 1), "no points"),
        (lambda one, photo: one.stroke("object", photo, [(float("nan"), 5)], 4, 1), "not made of numbers"),
        (lambda one, photo: one.box("object", photo, 5, 5, 5, 9), "no area"),
        (lambda one, photo: one.point("vase", photo, 5, 5, 1), "none of that name"),
        (lambda one, photo: one.point("object", "../secret", 5, 5, 1), "there is none"),
        (lambda one, photo: one.upload("object", photo, np.ones((5, 5), bool)), "scale it"),
        (lambda one, photo: one.add_object("Object"), "already"),
        (lambda one, photo: one.add_object("a/b"), "'/' in it"),
        (lambda one, photo: one.rename_object("object", ".."), "is no name"),
        (lambda one, photo: one.save(), "nothing is pointed at"),
        (lambda one, photo: TrackingJob(one).start(), "nothing is pointed at"),
    ],
)
def test_what_is_refused_changes_nothing(make_session, photos, step, message) -> None:
    session = make_session()
    before = session.state()
    with pytest.raises(SpinnerfError, match=message) as error:
        step(session, photos[0])
    assert "\n" not in str(error.value) and session.state() == before and make_session().state()["undo"] == 0


def test_a_killed_server_loses_nothing(make_session, photos) -> None:
    """Every step is on disk before it is answered; nothing is closed here."""
    session = make_session()
    session.point("object", photos[0], 50, 40, 1)
    session.add_object("lamp")
    session.box("lamp", photos[1], 10, 10, 30, 20)
    session.stroke("lamp", photos[1], [(60, 60)], 3, 1)
    session.undo()
    session.select("object", False)
    again = make_session()
    for name in ("objects", "prompts", "masks", "undo", "redo"):
        assert again.state()[name] == session.state()[name]
    again.redo()
    assert again.mask("lamp", photos[1])[60, 60]
    assert (again.mask("object", photos[0]) == square(42, 32, 58, 48)).all()


def test_tracked_corrected_and_tracked_again_from_all_that_was_said(make_session, photos) -> None:
    session = make_session()
    session.box("object", photos[1], 40, 30, 60, 50)
    assert session.stale("object")
    track(session)
    assert not session.stale("object")
    assert (session.mask("object", photos[3]) == square(42, 30, 62, 50)).all()
    state = session.state()["masks"]["object"]
    assert state[photos[3]]["kind"] == "tracked" and state[photos[1]]["kind"] == "prompt"
    session.stroke("object", photos[4], [(100, 100)], 3, 1)  # corrects the tracked mask: it stays under the stroke
    assert session.mask("object", photos[4])[100, 100] and session.mask("object", photos[4])[40, 50]
    session.point("object", photos[4], 43.5, 49.5, 0)  # a click takes away what the segmenter says that it means
    assert session.stale("object")
    track(session)
    corrected = session.mask("object", photos[4])
    assert (session.mask("object", photos[5]) == np.roll(corrected, 1, axis=1)).all()  # follows the nearer anchor
    assert (session.mask("object", photos[0]) == square(39, 30, 59, 50)).all()
    session.undo()
    session.undo()
    assert (session.mask("object", photos[4]) == square(43, 30, 63, 50)).all()  # the tracked one again


def test_saved_as_the_command_line_would(make_session, photos, capture, workspace) -> None:
    session = make_session()
    session.box("object", photos[1], 40, 30, 60, 50)
    with pytest.raises(SpinnerfError, match="track it first"):
        session.save()
    track(session)
    session.rename_object("object", "the vase")
    session.add_object("lamp")
    session.box("lamp", photos[2], 100, 30, 120, 50)
    track(session)
    session.stroke("the vase", photos[3], [(80, 80)], 4, 1)
    track(session)
    assert not session.state()["saved"]
    assert session.save() == []
    assert session.state()["saved"]
    prompts = load_prompts(workspace.prompts_path)
    assert [(one.object, one.view) for one in prompts] == [("the vase", photos[1]), ("the vase", photos[3]), ("lamp", photos[2])]
    for photo in photos:
        both = session.mask("the vase", photo) | session.mask("lamp", photo)
        assert (load_object_mask(workspace.mask_path("masks_2d", photo)) == both).all()
    times = {path: path.stat().st_mtime_ns for path in workspace.masks_2d.iterdir()}
    segment_capture(capture, workspace, None, Paints(), Shift(), allow_large_mask=True)  # finds them finished
    assert {path: path.stat().st_mtime_ns for path in workspace.masks_2d.iterdir()} == times
    session.select("lamp", False)
    assert session.save() == ["the vase"]
    assert (load_object_mask(workspace.mask_path("masks_2d", photos[0])) == session.mask("the vase", photos[0])).all()


def test_starts_from_what_the_command_line_made(make_session, photos, capture, workspace) -> None:
    prompts = [Prompt(photos[1], box=(40, 30, 60, 50), object="vase"), Prompt(photos[2], box=(90, 30, 99, 50), object="lamp")]
    segment_capture(capture, workspace, prompts, Paints(), Shift())
    session = make_session()
    assert [one["name"] for one in session.state()["objects"]] == ["vase", "lamp"]
    assert session.state()["saved"] and (session.mask("vase", photos[3]) == square(42, 30, 62, 50)).all()
    session.box("vase", photos[1], 50, 30, 70, 50)
    assert not make_session().state()["saved"]  # the page's own, not saved yet
    time.sleep(0.02)
    segment_capture(capture, workspace, prompts[1:], Paints(), Shift(), overwrite=True)
    assert [one["name"] for one in make_session().state()["objects"]] == ["lamp"]  # the command line came later


def test_a_prompt_that_was_added_since_is_to_be_tracked(make_session, photos, capture, workspace) -> None:
    """As a click in nerfstudio's viewer adds it."""
    prompts = [Prompt(photos[1], box=(40, 30, 60, 50), object="vase"), Prompt(photos[2], box=(90, 30, 99, 50), object="lamp")]
    segment_capture(capture, workspace, prompts, Paints(), Shift())
    views = {view.photo: view for view in make_session().views}
    add_points(workspace, views, "vase", {photos[4]: (90.0, 40.0)}, 1)
    session = make_session()
    assert session.stale("vase") and not session.stale("lamp") and not session.state()["saved"]
    corrected = session.mask("vase", photos[4])
    assert (corrected == square(43, 30, 63, 50) | square(82, 32, 98, 48)).all()
    track(session)
    assert (session.mask("vase", photos[5]) == np.roll(corrected, 1, axis=1)).all()


def test_the_bar_starts_anew_where_a_tracker_looks_again(make_session, photos) -> None:
    class Twice(Shift):
        def track(self, images, source_masks, progress=None):
            super().track(images, source_masks, progress)
            return super().track(images, source_masks, progress)

    said = []
    session = make_session(tracker=Twice())
    session.box("object", photos[1], 40, 30, 60, 50)
    track_objects(session.views, session.sources(), Twice(), lambda *how: said.append(how))
    assert said == [("object", n, 6) for n in range(1, 7)] + [("object, look 2", n, 6) for n in range(1, 7)]


def test_masks_of_the_command_line_are_compared(make_session, photos, capture, workspace, twin) -> None:
    path = "images/{}.png".format
    masks = {photo: load_object_mask(twin.truth(path(photo), "object_masks")) for photo in photos}

    class True_(Shift):
        def track(self, images, source_masks, progress=None):
            return [np.roll(masks[photo], 60, axis=1) if photo == photos[4] else masks[photo] for photo in photos]

    rows, columns = np.nonzero(masks[photos[1]])
    box = (float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max()))
    segment_capture(capture, workspace, [Prompt(photos[1], box=box)], Paints(), True_())
    session = make_session()
    job = TrackingJob(session)
    job.compare()
    job.wait(20)
    found = {photo: entry["agreement"] for photo, entry in session.state()["masks"]["object"].items()}
    assert min(found, key=found.__getitem__) == photos[4] and len(job.solids["object"].points)
    assert not session.stale("object") and session.state()["saved"]


def test_objects_forgotten_and_brought_back(make_session, photos) -> None:
    session = make_session()
    session.box("object", photos[1], 40, 30, 60, 50)
    session.add_object("lamp")
    session.remove_object("object")
    assert [one["name"] for one in session.state()["objects"]] == ["lamp"]
    session.undo()
    assert [one["name"] for one in session.state()["objects"]] == ["object", "lamp"]
    assert session.mask("object", photos[1]).any() and session.mask("lamp", photos[1]) is None
    session.redo()
    session.remove_object("lamp")
    assert [one["name"] for one in session.state()["objects"]] == ["object"] and not session.state()["prompts"].get("object")


def test_stopped_tracking_keeps_what_was_found(make_session, photos) -> None:
    session = make_session(tracker=Shift(seconds=0.1))
    session.box("object", photos[0], 40, 30, 60, 50)
    job = TrackingJob(session)
    job.start()
    with pytest.raises(SpinnerfError, match="under way"):
        job.start()
    while job.state()["done"] < 2:
        time.sleep(0.02)
    assert make_session().state()["interrupted"]  # a server killed now would say so
    job.stop()
    job.wait(10)
    assert "stopped" in job.state()["error"] and session.stale("object")
    kinds = [session.state()["masks"]["object"].get(photo, {}).get("kind") for photo in photos]
    assert kinds[:2] == ["prompt", "tracked"] and kinds[-1] is None
    assert not make_session().state()["interrupted"]


@pytest.mark.parametrize("possible", [True, False])
def test_depth_is_measured_once_for_a_tracker_that_carries_masks_by_it(make_session, photos, monkeypatch, possible) -> None:
    from spinnerf_ns.page import session as module

    class Carries(Shift):
        name = "carries"
        placed = None

        def place(self, views, depth):
            self.placed = len(views)

    asked: list[str] = []

    def stereo(capture, workspace, progress=None):
        progress(3, 12)
        asked.append(job.state()["what"])
        return possible

    monkeypatch.setattr(module, "stereo_if_possible", stereo)
    monkeypatch.setattr(module, "give_depth", lambda tracker, capture, workspace, views: tracker.place(views, None))
    session = make_session(tracker=Carries())
    session.box("object", photos[0], 40, 30, 60, 50)
    job = TrackingJob(session)
    job.start()
    job.wait(20)
    assert asked == ["measuring depth, once for a capture"] and len(session.state()["masks"]["object"]) == len(photos)
    assert (session.tracker.name, getattr(session.tracker, "placed", None)) == (("carries", 6) if possible else ("flow", None))


def test_a_tracker_that_fails_is_said(make_session, photos) -> None:
    class Broken(Shift):
        def track(self, *arguments):
            raise RuntimeError("no memory")

    session = make_session(tracker=Broken())
    session.box("object", photos[0], 40, 30, 60, 50)
    job = TrackingJob(session)
    job.start()
    job.wait(10)
    assert "RuntimeError: no memory" in job.state()["error"] and session.stale("object")


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 9}', '{"schema": 1, "objects": [3]}'])
def test_a_damaged_session_is_named(make_session, workspace, text) -> None:
    path = workspace.root / "page" / "session.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(SpinnerfError, match=r"session.json.*move it away"):
        make_session()


def test_what_is_written_is_json_without_paths_of_this_machine(make_session, photos, workspace) -> None:
    session = make_session()
    session.upload("object", photos[0], square(10, 10, 30, 30))
    text = (workspace.root / "page" / "session.json").read_text()
    assert json.loads(text)["prompts"]["object"][photos[0]]["mask"].startswith("prompts/object/")
    assert str(workspace.root) not in text
