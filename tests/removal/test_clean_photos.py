"""Photos without the object as sources: taken later, brighter, of a made-up room whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spinnerf_ns.conventions import BoolMask
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.truth.twin import TwinConfig, write_twin
from spinnerf_ns.files import load_object_mask, read_image, save_depth, write_png
from spinnerf_ns.removal.clean_photos import fit_match
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.removal.export import export_removed, render_stage
from spinnerf_ns.removal.plan import background_path, clean_path
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.workspace import Workspace
from spinnerf_ns.segmentation.clean_photos import name_clean_photos

GAIN = 1.2
"""How much brighter the photos taken later are."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A room whose two last photos were taken later, without the object and brighter: twin, capture, a function that exports."""
    twin = write_twin(
        tmp_path_factory.mktemp("twin") / "scene", TwinConfig(width=96, height=72, num_train=6, num_test=3, supersampling=1)
    )
    for photo in twin.object_free[:2]:
        path = twin.root / photo
        write_png(path, np.clip(np.round(read_image(path) * GAIN), 0, 255).astype(np.uint8))
    capture = load_capture(twin.root)

    def truth(view):
        mask = load_object_mask(twin.truth(view.photo, "object_masks"))
        return mask, np.load(twin.truth(view.photo, "depths_with_object")).astype(np.float32)

    def export(root: Path, clean=(), **settings) -> Workspace:
        workspace = Workspace.open(twin.root, root)
        workspace.set_object_free([Path(photo).stem for photo in twin.object_free])
        name_clean_photos(capture, workspace, clean)
        for view in capture.views:
            save_depth(background_path(workspace, view.photo), np.load(twin.truth(view.photo, "depths")).astype(np.float32))
        config = ExportConfig(**{"inpainter": "opencv", "overwrite": True, **settings})
        render_stage(capture, workspace, truth, config, [], {})
        export_removed(capture, workspace, config)
        return workspace

    return twin, capture, export


@pytest.fixture(scope="module")
def without_and_with(scene, tmp_path_factory):
    """The workspaces of two exports: without clean photos and with the two."""
    twin, _, export = scene
    root = tmp_path_factory.mktemp("exports")
    clean = [Path(photo).stem for photo in twin.object_free[:2]]
    return export(root / "without"), export(root / "with", clean)


def mask_of(workspace: Workspace, kind: str, photo: str) -> BoolMask:
    return load_object_mask(workspace.removed / kind / f"{photo}.png")


def with_object(twin) -> list[str]:
    return [Path(photo).stem for photo in twin.train_photos]


def colour_error(twin, workspace: Workspace) -> float:
    """Mean absolute difference to the truth in the regions, 8-bit levels."""
    errors = []
    for photo in with_object(twin):
        region = mask_of(workspace, "object_masks", photo)
        clean, truth = (read_image(path) for path in (workspace.removed / "images" / f"{photo}.png", twin.truth(photo, "images")))
        errors.append(np.abs(clean[region].astype(float) - truth[region]).ravel())
    return float(np.concatenate(errors).mean())


def test_what_they_show_is_taken_before_anything_is_invented(scene, without_and_with):
    twin, _, _ = scene
    unseen, errors = [], []
    for workspace in without_and_with:
        records = workspace.records("export")
        unseen.append(sum(each["unseen"] for each in records.values()) / sum(each["region"] for each in records.values()))
        errors.append(colour_error(twin, workspace))
    print(f"unseen {unseen[0]:.1%} -> {unseen[1]:.1%}, colour error {errors[0]:.2f} -> {errors[1]:.2f}")
    assert unseen[0] > 0.25 and unseen[1] < 0.03
    assert errors[1] < 0.7 * errors[0]


def test_their_exposure_is_matched(scene, without_and_with):
    """Once for each photo, and no step is left at the regions' rims."""
    twin, capture, _ = scene
    workspace = without_and_with[1]
    for photo, record in workspace.records("clean").items():
        assert np.allclose(record["gain"], 1 / GAIN, atol=0.02) and np.allclose(record["offset"], 0, atol=3)
        matched, truth = read_image(clean_path(workspace, photo)), read_image(twin.truth(photo, "images"))
        lit = (capture.view(photo).read_image() < 255).all(axis=2)
        assert np.abs(matched[lit].astype(float) - truth[lit]).mean() < 3
    steps = []
    for photo in with_object(twin):
        region = mask_of(workspace, "object_masks", photo) & ~mask_of(workspace, "unseen_masks", photo)
        image = read_image(workspace.removed / "images" / f"{photo}.png").astype(float)
        steps.append((image - read_image(twin.truth(photo, "images")))[region].mean())
    assert abs(np.mean(steps)) < 2, "mean difference of what was filled, 8-bit levels"


def test_they_are_trained_on_as_they_were_matched_and_are_no_truth(scene, without_and_with):
    twin, _, _ = scene
    workspace = without_and_with[1]
    removed = load_capture(workspace.removed)
    clean, left = [Path(photo).stem for photo in twin.object_free[:2]], Path(twin.object_free[2]).stem
    assert workspace.clean_photos == tuple(clean) and workspace.truth_photos == (left,)
    assert {view.photo for view in removed.split("train")} == {*with_object(twin), *clean}
    assert [view.photo for view in removed.split("test")] == [left]
    for photo in clean:
        assert np.array_equal(removed.view(photo).read_image(), read_image(clean_path(workspace, photo)))
        assert not mask_of(workspace, "object_masks", photo).any()
        assert not load_object_mask(workspace.mask_path("masks_3d", photo)).any()
    assert np.array_equal(removed.view(left).read_image(), read_image(twin.truth(left, "images")))


def test_an_export_without_them_knows_nothing_of_them(scene, without_and_with):
    """Its stages have the keys that they had before there was the option."""
    manifest = without_and_with[0].read_manifest()
    assert "clean_photos" not in str(manifest) and "clean" not in manifest["stages"]


def test_depth_that_has_the_object_in_it_is_refused(scene, tmp_path):
    twin, capture, export = scene
    workspace = Workspace.open(twin.root, tmp_path / "workspace")
    name_clean_photos(capture, workspace, [Path(twin.object_free[0]).stem])
    config = ExportConfig(inpainter="opencv", background_steps=0)
    render_stage(capture, workspace, lambda view: (np.ones((72, 96), bool), np.ones((72, 96), np.float32)), config, [], {})
    with pytest.raises(SpinnerfError, match="--background-steps 0"):
        export_removed(capture, workspace, config)


@pytest.mark.parametrize("gain, offset", [((1 / 1.2,) * 3, (0, 0, 0)), ((0.7, 0.75, 0.8), (20, 18, 16))])
def test_a_match_is_found_among_wrong_pairs(gain, offset):
    generator = np.random.default_rng(0)
    colours = generator.uniform(20, 230, (2000, 3))
    wanted = np.clip(colours * gain + offset + generator.normal(0, 3, colours.shape), 0, 255)
    wanted[:400] = generator.uniform(0, 255, (400, 3))  # what changed between the photos
    match = fit_match(colours.round(), wanted.round())
    np.testing.assert_allclose(match.gain, gain, atol=0.06)
    np.testing.assert_allclose(match.offset, offset, atol=8)
    assert match.after < 6 < match.before


def test_too_few_pairs_match_nothing():
    match = fit_match(np.full((10, 3), 100), np.full((10, 3), 50))
    assert (match.gain == 1).all() and (match.offset == 0).all() and match.pairs == 10
