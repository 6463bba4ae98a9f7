"""Clicks that are added to prompts.json."""

from __future__ import annotations

import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_object_mask, save_object_mask
from spinnerf_ns.scene.workspace import Workspace
from spinnerf_ns.segmentation.corrections import add_points
from spinnerf_ns.segmentation.prompts import Prompt
from spinnerf_ns.segmentation.prompts_file import load_prompts, save_prompts
from tests.scene.test_capture import synthetic_view

VIEWS = {name: synthetic_view(photo=name, width=40, height=30) for name in ("a", "b")}


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    (tmp_path / "scene").mkdir()
    return Workspace.open(tmp_path / "scene", tmp_path / "work")


def test_a_first_click_starts_from_the_mask_that_is_there(workspace) -> None:
    mask = np.zeros((30, 40), bool)
    mask[5:9, 5:9] = True
    save_object_mask(workspace.root / "objects" / "vase" / "a.png", mask)
    save_prompts(workspace.prompts_path, [Prompt("b", box=(1, 1, 9, 9), object="lamp", size=(40, 30))])
    add_points(workspace, VIEWS, "vase", {"a": (20.5, 7.0), "b": (3.0, 4.0)}, 1)
    add_points(workspace, VIEWS, "vase", {"a": (30.0, 7.0)}, 0)
    of = {(one.object, one.view): one for one in load_prompts(workspace.prompts_path)}
    assert set(of) == {("lamp", "b"), ("vase", "a"), ("vase", "b")} and of["lamp", "b"].box == (1, 1, 9, 9)
    assert of["vase", "a"].points == ((20.5, 7.0), (30.0, 7.0)) and of["vase", "a"].labels == (1, 0)
    assert (load_object_mask(of["vase", "a"].mask_path) == mask).all()
    assert of["vase", "b"].points == ((3.0, 4.0),) and of["vase", "b"].mask_path is None


def test_points_are_those_of_the_photos_size_now(workspace) -> None:
    save_prompts(workspace.prompts_path, [Prompt("a", points=((40.0, 20.0),), labels=(1,), size=(80, 60))])
    add_points(workspace, VIEWS, "object", {"a": (1.0, 2.0)}, 1)
    (one,) = load_prompts(workspace.prompts_path)
    assert one.points == ((20.0, 10.0), (1.0, 2.0)) and one.size == (40, 30)


@pytest.mark.parametrize(
    "name, place, label, message",
    [("a/b", (1, 1), 1, "'/' in it"), ("vase", (90, 1), 1, "outside the photo"), ("vase", (1, 1), 0, "background")],
)
def test_what_is_refused_changes_nothing(workspace, name, place, label, message) -> None:
    with pytest.raises(SpinnerfError, match=message):
        add_points(workspace, VIEWS, name, {"a": place}, label)
    assert not workspace.prompts_path.exists()
