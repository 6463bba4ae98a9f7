"""Which photos a person names as taken without the object, and what is refused before anything is noted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spinnerf_ns.cli.segment import Segment
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import save_object_mask
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.workspace import Workspace
from spinnerf_ns.segmentation.clean_photos import find_clean_photos, name_clean_photos
from spinnerf_ns.segmentation.prompts import Prompt
from spinnerf_ns.segmentation.prompts_file import save_prompts
from spinnerf_ns.segmentation.segment import views_with_object
from tests.scene.captures import make_capture


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """Six photos, two of them in a folder `later`."""
    names = [
        "images/now/a.png",
        "images/now/b.png",
        "images/now/c.png",
        "images/now/d.png",
        "images/later/x1.png",
        "images/later/x2.png",
    ]
    return load_capture(make_capture(tmp_path_factory.mktemp("capture") / "scene", names))


@pytest.fixture
def workspace(capture, tmp_path):
    return Workspace.open(capture.data, tmp_path / "workspace")


@pytest.mark.parametrize(
    "names, expected",
    [
        (["later/x2.png"], ["later/x2"]),
        (["x1"], ["later/x1"]),
        (["later"], ["later/x1", "later/x2"]),
        (["images/later/"], ["later/x1", "later/x2"]),
        (["later/*"], ["later/x1", "later/x2"]),
        (["x?.png"], ["later/x1", "later/x2"]),
        (["x2", "now/a", "x2"], ["later/x2", "now/a"]),
    ],
)
def test_names_patterns_and_folders(capture, names, expected):
    assert find_clean_photos(capture, names) == tuple(expected)
    absolute = [str(Path(capture.data) / name) for name in ("images/later",)]
    assert find_clean_photos(capture, absolute) == ("later/x1", "later/x2")


def test_a_list_in_a_file(capture, tmp_path):
    path = tmp_path / "clean.txt"
    path.write_text("# taken on Sunday\nx1.png\n\nlater/x2  # the second\n", encoding="utf-8")
    assert find_clean_photos(capture, [str(path)]) == ("later/x1", "later/x2")
    path.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(SpinnerfError, match="names no photo"):
        find_clean_photos(capture, [str(path)])
    with pytest.raises(SpinnerfError, match="absent.txt: No such file"):
        find_clean_photos(capture, [str(tmp_path / "absent.txt")])


@pytest.mark.parametrize(
    "name, said", [("y1.png", "no photo is called 'y1.png'; near names"), ("z*", "no photo of .* is called so")]
)
def test_what_is_no_photo_is_refused(capture, workspace, name, said):
    with pytest.raises(SpinnerfError, match=said):
        name_clean_photos(capture, workspace, ["x1", name])
    assert workspace.clean_photos == () and not workspace.manifest_path.exists()


def test_they_are_noted_and_nobody_looks_for_the_object_in_them(capture, workspace):
    workspace.set_object_free(["now/d"])
    name_clean_photos(capture, workspace, ["later"])
    assert workspace.clean_photos == ("later/x1", "later/x2") and workspace.truth_photos == ("now/d",)
    assert workspace.object_free == ("now/d", "later/x1", "later/x2")
    assert {view.photo for view in views_with_object(capture, workspace)} == {"now/a", "now/b", "now/c"}
    name_clean_photos(capture, workspace, ())
    assert workspace.clean_photos == ("later/x1", "later/x2"), "what is not said stays"
    name_clean_photos(capture, workspace, ["none"])
    assert workspace.clean_photos == () and workspace.object_free == ("now/d",)


def test_a_photo_that_shows_the_object_is_refused(capture, workspace, tmp_path):
    object_mask = np.zeros((capture.views[0].height, capture.views[0].width), bool)
    with pytest.raises(SpinnerfError, match="pointed at in photo 'later/x1'"):
        name_clean_photos(capture, workspace, ["later"], pointed=["x1.png"])
    save_prompts(workspace.prompts_path, [Prompt("later/x2", box=(1, 1, 9, 9))])
    with pytest.raises(SpinnerfError, match="pointed at in photo 'later/x2'"):
        name_clean_photos(capture, workspace, ["later"])
    workspace.prompts_path.unlink()
    save_object_mask(workspace.mask_path("masks_2d", "later/x1"), object_mask)
    name_clean_photos(capture, workspace, ["later"])  # the tracker did not find it there
    workspace.set_clean_photos(())
    object_mask[:5, :7] = True
    save_object_mask(workspace.mask_path("masks_2d", "later/x1"), object_mask)
    with pytest.raises(
        SpinnerfError, match=r"35 of its pixels are masked; .*ns-spinnerf segment .*--clean-photos later --overwrite"
    ):
        name_clean_photos(capture, workspace, ["later"])
    name_clean_photos(capture, workspace, ["later"], anew=True)  # about to be tracked again
    workspace.set_clean_photos(())
    save_object_mask(tmp_path / "masks" / "x2_mask.png", object_mask)
    with pytest.raises(SpinnerfError, match="x2_mask.png: photo 'later/x2' is named by --clean-photos"):
        name_clean_photos(capture, workspace, ["later"], masks=[tmp_path / "masks"], anew=True)
    assert workspace.clean_photos == ()


def test_all_photos_are_refused(capture, workspace):
    with pytest.raises(SpinnerfError, match="6 photos are named, and no training photo .* is left"):
        name_clean_photos(capture, workspace, ["images"])


def test_the_command_names_them_before_it_looks_for_the_object_and_only_if_it_finds_it(twin, tmp_path):
    root, view = tmp_path / "workspace", Path(twin.prompt_view).stem
    named = [Path(photo).stem for photo in twin.object_free]
    box = ",".join(str(value) for value in twin.prompt_box)

    def segment(view: str, **settings) -> None:
        Segment(twin.root, view=view, box=box, workspace=root, tracker="flow", **settings).main()

    with pytest.raises(SpinnerfError, match=f"pointed at in photo '{named[0]}'"):
        segment(named[0], clean_photos=("frame_0011", "frame_0012"))
    assert Workspace.open(twin.root, root).clean_photos == ()
    segment(view, clean_photos=("images/frame_001[12].png",))
    workspace = Workspace.open(twin.root, root)
    assert list(workspace.clean_photos) == named
    assert {path.stem for path in workspace.masks_2d.iterdir()} == {Path(photo).stem for photo in twin.train_photos}
    with pytest.raises(SpinnerfError, match="--overwrite"):
        segment(view, clean_photos=("frame_0012",))
    assert list(Workspace.open(twin.root, root).clean_photos) == named, "what is refused changes nothing"
