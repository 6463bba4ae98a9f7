"""Prompts: what is read, what is refused, and that prompts.json gives back what was saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.segmentation.prompts import Prompt, Stroke, parse_box, parse_point, parse_stroke
from spinnerf_ns.segmentation.prompts_file import load_prompts, save_prompts


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
        (Prompt("a", box=(5, 5, 20, 20), mask_path=Path("m.png")), "ready mask and a box"),
        (Prompt("a", brush=(Stroke(((5.0, 5.0),), 3.0, 0),)), "all strokes erase"),
        (Prompt("a", brush=(Stroke(((5.0, 5.0),), 0.0),)), "radius 0"),
        (Prompt("a", brush=(Stroke(((5.0, float("nan")),), 3.0),)), "not made of numbers"),
        (Prompt("a", brush=(Stroke((), 3.0),)), "no points"),
        (Prompt("a", brush=(Stroke(((5.0, 5.0),), 3.0, 2),)), "label 2"),
        (Prompt("a", ((5.0, 5.0),), (1,), object="a/b"), "'/' in it"),
        (Prompt("a", ((5.0, 5.0),), (1,), object=".."), "is no name"),
        (Prompt("a", ((5.0, 5.0),), (1,), object=""), "is no name"),
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
    Prompt("a", ((5.0, 5.0),), (0,), mask_path=Path("m.png")).check(100, 50)  # a point takes something from the mask
    Prompt("a", brush=(Stroke(((-5.0, 5.0), (5.0, 5.0)), 3.0),), object="Vase 2").check(100, 50)  # a stroke may leave the photo


def test_strokes_on_the_command_line() -> None:
    assert parse_stroke("4,0,1,2,3.5,4") == Stroke(((1.0, 2.0), (3.5, 4.0)), 4.0, 0)
    for text in ("", "4,1", "4,1,2", "0,1,2,3", "4,2,1,1", "4,1,1,2,3", "a,1,2,3"):
        with pytest.raises(SpinnerfError, match="expected RADIUS,LABEL,X,Y"):
            parse_stroke(text)


def test_scaled_to_another_size() -> None:
    prompt = Prompt("a", ((10.0, 20.0),), (1,), (0.0, 4.0, 8.0, 12.0), brush=(Stroke(((4.0, 4.0),), 2.0),), size=(100, 80))
    half = prompt.scaled(50, 40)
    assert (half.points, half.box, half.size) == (((5.0, 10.0),), (0.0, 2.0, 4.0, 6.0), (50, 40))
    assert half.brush == (Stroke(((2.0, 2.0),), 1.0),)
    assert half.scaled(100, 80) == prompt and prompt.scaled(100, 80) is prompt
    assert Prompt("a", ((1.0, 2.0),), (1,)).scaled(50, 40).points == ((1.0, 2.0),)  # nobody said of which size


def test_saved_and_read(tmp_path) -> None:
    stroke = Stroke(((1.0, 2.0), (3.0, 4.5)), 2.5, 0)
    prompts = (
        Prompt("cam/é", ((1.5, 2.0), (3.0, 4.0)), (1, 0), (0.0, 1.0, 2.5, 3.0), object="vase", brush=(stroke,), size=(40, 30)),
        Prompt("b", mask_path=tmp_path / "elsewhere" / "b.png", object="vase"),
        Prompt("b", box=(0.0, 1.0, 2.5, 3.0), object="the lamp", text="lamp"),
    )
    path = tmp_path / "scene" / "prompts.json"
    save_prompts(path, prompts)
    assert load_prompts(path) == prompts
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["schema"] == 2 and list(content["objects"]) == ["vase", "the lamp"]
    assert content["objects"]["vase"]["b"] == {"mask": "../elsewhere/b.png"}
    assert content["objects"]["vase"]["cam/é"]["brush"] == [{"radius": 2.5, "label": 0, "points": [[1.0, 2.0], [3.0, 4.5]]}]
    assert [entry.name for entry in path.parent.iterdir()] == ["prompts.json"]


def test_the_schema_before_is_read(tmp_path) -> None:
    path = tmp_path / "prompts.json"
    entries = [{"view": "a", "points": [[1, 2]], "labels": [1]}, {"view": "a", "box": [1, 2, 5, 6], "object": 2}]
    path.write_text(json.dumps({"schema": 1, "prompts": entries}))
    assert load_prompts(path) == (Prompt("a", ((1.0, 2.0),), (1,)), Prompt("a", box=(1, 2, 5, 6), object="object 2"))


DAMAGED = (
    "", "[]", "{}", '{"schema": 3, "prompts": []}', '{"schema": 2, "objects": []}', '{"schema": 1, "prompts": [{"view": 3}]}',
    '{"schema": 2, "objects": {"a": {"b": {"box": [1]}}}}', '{"schema": 1, "prompts": [{"view": "a", "points": [1]}]}',
)  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_prompts(tmp_path, text) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(text)
    with pytest.raises(SpinnerfError, match="prompts.json"):
        load_prompts(path)


def test_missing_prompts(tmp_path) -> None:
    with pytest.raises(SpinnerfError, match="prompts.json"):
        load_prompts(tmp_path / "prompts.json")
