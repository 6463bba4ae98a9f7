"""Prompts: what is read, what is refused, and that prompts.json gives back what was saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.segmentation.prompts import Prompt, load_prompts, parse_box, parse_point, save_prompts


def test_parsing() -> None:
    assert parse_point("512,300") == ((512.0, 300.0), 1)
    assert parse_point(" 1.5, 2,0") == ((1.5, 2.0), 0)
    assert parse_point("1,2,1") == ((1.0, 2.0), 1)
    assert parse_box("1,2,3.5,4") == (1.0, 2.0, 3.5, 4.0)


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "1,2,0.5", "a,b", "1,nan", "1,2,0,4", "1;2"])
def test_points_that_are_none(text) -> None:
    with pytest.raises(SpinnerfError, match="expected X,Y"):
        parse_point(text)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "1,2,3,inf", "x"])
def test_boxes_that_are_none(text) -> None:
    with pytest.raises(SpinnerfError, match="expected X0,Y0,X1,Y1"):
        parse_box(text)


@pytest.mark.parametrize(
    "prompt, message",
    [
        (Prompt("a"), "nothing is pointed at"),
        (Prompt("a", ((100.0, 5.0),), (1,)), "outside the photo"),
        (Prompt("a", ((-0.1, 5.0),), (1,)), "outside the photo"),
        (Prompt("a", ((float("nan"), 5.0),), (1,)), "outside the photo"),
        (Prompt("a", ((5.0, 50.0),), (1,)), "outside the photo"),
        (Prompt("a", ((5.0, 5.0),), (2,)), "label 2"),
        (Prompt("a", ((5.0, 5.0),), ()), "1 points and 0 labels"),
        (Prompt("a", ((5.0, 5.0),), (0,)), "all points are background"),
        (Prompt("a", box=(5, 5, 5, 9)), "no area"),
        (Prompt("a", box=(9, 5, 5, 9)), "no area"),
        (Prompt("a", box=(5, 5, 101, 9)), "outside the photo"),
        (Prompt("a", box=(5, 5, 6, 9)), "smaller than two pixels"),
        (Prompt("a", box=(5, 5, float("nan"), 9)), "not made of numbers"),
        (Prompt("a", ((50.0, 5.0),), (1,), (5, 5, 20, 20)), "outside box"),
        (Prompt("a", ((5.0, 5.0),), (1,), mask_path=Path("m.png")), "ready mask and points"),
    ],
)
def test_bad_prompts(prompt, message) -> None:
    with pytest.raises(SpinnerfError, match=message) as error:
        prompt.check(100, 50)
    assert "\n" not in str(error.value)


def test_good_prompts() -> None:
    Prompt("a", ((0.0, 0.0), (99.9, 49.9)), (1, 0)).check(100, 50)
    Prompt("a", ((50.0, 45.0),), (0,), (0, 0, 100, 50)).check(100, 50)  # background points alone are fine beside a box
    Prompt("a", mask_path=Path("m.png")).check(100, 50)


def test_saved_and_read(tmp_path) -> None:
    prompts = (
        Prompt("cam/é", ((1.5, 2.0), (3.0, 4.0)), (1, 0), (0.0, 1.0, 2.5, 3.0)),
        Prompt("b", mask_path=tmp_path / "elsewhere" / "b.png"),
    )
    path = tmp_path / "scene" / "prompts.json"
    save_prompts(path, prompts)
    assert load_prompts(path) == prompts
    assert json.loads(path.read_text(encoding="utf-8"))["prompts"][1]["mask"] == "../elsewhere/b.png"
    assert [entry.name for entry in path.parent.iterdir()] == ["prompts.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2, "prompts": []}', '{"schema": 1, "prompts": [{"view": 3}]}',
                                  '{"schema": 1, "prompts": [{"view": "a", "points": [1]}]}'])  # fmt: skip
def test_damaged_prompts(tmp_path, text) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(text)
    with pytest.raises(SpinnerfError, match="prompts.json"):
        load_prompts(path)


def test_missing_prompts(tmp_path) -> None:
    with pytest.raises(SpinnerfError, match="prompts.json"):
        load_prompts(tmp_path / "prompts.json")
