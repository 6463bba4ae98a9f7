"""Several photos and objects in one command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spinnerf_ns.cli.groups import GATHERED, gather_groups
from spinnerf_ns.cli.segment import Segment
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.segmentation.prompts import Prompt, Stroke


def groups(*words: str) -> tuple[list[str], list[dict]]:
    gathered = gather_groups(words)
    at = gathered.index(GATHERED)
    return gathered[:at], [json.loads(word) for word in gathered[at + 1 :]]


@pytest.mark.parametrize(
    "words", [[], ["--data", "x"], ["--data", "x", "--points", "1,2", "3,4,0", "--view", "a"], ["--help"], ["--view", "a"]]
)
def test_one_photo_is_left_alone(words) -> None:
    assert gather_groups(words) == words


def test_what_follows_a_photo_is_about_it() -> None:
    rest, found = groups("--data", "x", "--view", "A", "--points", "1,2", "-3,4,0", "--overwrite", "--view=B", "--box=1,2,3,4")
    assert rest == ["--data", "x", "--overwrite"]
    assert found == [{"view": "A", "points": ["1,2", "-3,4,0"]}, {"view": "B", "box": "1,2,3,4"}]


def test_objects_by_name() -> None:
    vase = "--object vase --view A --box 1,2,3,4 --view B --points 1,2"
    rest, found = groups(*vase.split(), *"--object lamp --view A --points 5,6 --data x --brush 2,1,3,4".split())
    assert rest == ["--data", "x"]
    assert found == [
        {"object": "vase", "view": "A", "box": "1,2,3,4"},
        {"object": "vase", "view": "B", "points": ["1,2"]},
        {"object": "lamp", "view": "A", "points": ["5,6"], "brush": ["2,1,3,4"]},
    ]


def test_one_named_object_in_any_order() -> None:
    assert groups("--points", "1,2", "--object", "the vase", "--view", "A")[1] == [
        {"points": ["1,2"], "object": "the vase", "view": "A"}
    ]


@pytest.mark.parametrize(
    "words, message",
    [
        ("--points 1,2 --view A --view B", "--view PHOTO --points"),
        ("--view A --points 1,2 --points 3,4 --view B", "given twice for photo 'A'"),
        ("--object vase", "but no photo"),
        ("--object vase --points 1,2", "before the photo"),
        ("--object vase --view A --object lamp --points 1,2", "no photo is named for 'vase'"),
        ("--view A B --view C", "wants one value"),
    ],
)
def test_groups_that_are_none(words, message) -> None:
    with pytest.raises(SpinnerfError, match=message) as error:
        gather_groups(words.split())
    assert "\n" not in str(error.value)


def test_to_prompts(tmp_path) -> None:
    import tyro

    words = "--object vase --view A --points 1,2 3,4,0 --view B --mask m.png --object lamp --view B --brush 2,1,3,4 --data".split()
    parsed = tyro.cli(Segment, args=Segment.prepare_arguments([*words, str(tmp_path)]))
    assert parsed.request() == [
        Prompt("A", ((1.0, 2.0), (3.0, 4.0)), (1, 0), object="vase"),
        Prompt("B", mask_path=Path("m.png"), object="vase"),
        Prompt("B", brush=(Stroke(((3.0, 4.0),), 2.0, 1),), object="lamp"),
    ]
