"""A planted object stands at one place in all photos, what was before it stays before it, and nothing else changes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.truth.planted import PlantConfig, PlantedScene, load_planted, plant
from spinnerf_ns.evaluation.truth.planted_object import Rendering, Solid, render_solid
from spinnerf_ns.evaluation.truth.planted_occlusion import LEAST_FRONT_POINTS, front_by_points
from spinnerf_ns.evaluation.truth.planted_place import LARGEST, SeenPoints, choose_place
from spinnerf_ns.evaluation.truth.scenes import load_scene
from spinnerf_ns.evaluation.truth.twin import TwinConfig, TwinScene, write_twin
from spinnerf_ns.files import load_object_mask, read_image, write_png
from spinnerf_ns.scene.cameras import ray_directions
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.points import read_ply
from spinnerf_ns.scene.view import View
from spinnerf_ns.scene.workspace import Workspace

SIZE = (96, 72)
"""(width, height) of the captures."""
QUICK = dict(supersampling=1)


@pytest.fixture(scope="module")
def twin(tmp_path_factory) -> TwinScene:
    """A capture to plant in. Its photos are exact, so what must not change can be compared."""
    config = TwinConfig(layout="orbit", width=SIZE[0], height=SIZE[1], num_train=10, num_test=4)
    return write_twin(tmp_path_factory.mktemp("twin") / "twin", config)


@pytest.fixture(scope="module")
def planted(twin, tmp_path_factory) -> PlantedScene:
    return plant(twin.root, tmp_path_factory.mktemp("planted") / "scene", PlantConfig())


def _object(scene: PlantedScene) -> tuple[np.ndarray, np.ndarray, float]:
    content = json.loads((scene.root / "planted.json").read_text())["object"]
    return np.array(content["position"]), np.array(content["axes"]), content["height"]


def _solid(scene: PlantedScene) -> Solid:
    return Solid.draw(np.random.default_rng([scene.config.seed, 1]), *_object(scene))


def _view(width: int = 48, height: int = 40, eye: tuple[float, float, float] = (0.0, -3.0, 1.2)) -> View:
    """A camera that looks at (0, 0, 0.45), z being up."""
    back = np.array(eye) - [0, 0, 0.45]
    back /= np.linalg.norm(back)
    right = np.cross([0, 0, 1.0], back)
    right /= np.linalg.norm(right)
    c2w = np.stack([right, np.cross(back, right), back, np.array(eye)], axis=1)
    return View("a", Path("a.png"), width, height, 90.0, 90.0, width / 2, height / 2, np.zeros(6), "OPENCV", c2w, frozenset())


# ------------------------------------------------------------------------------------------------------------- the object
@pytest.fixture(scope="module")
def solid() -> Solid:
    return Solid.draw(np.random.default_rng(3), np.zeros(3), np.eye(3), 1.0)


@pytest.mark.parametrize("eye", [(0.0, -3.0, 1.2), (1.5, 1.5, 2.5), (0.3, -2.0, -0.8)], ids=["front", "above", "below"])
def test_rays_meet_the_solid_where_a_slow_walk_does(solid, eye):
    view = _view(eye=eye)
    y, x = np.mgrid[: view.height, : view.width] + 0.5
    directions = ray_directions(view, np.stack([x.ravel(), y.ravel()], axis=1))
    origin = view.c2w[:, 3]
    found = solid.hits(origin, directions)
    walk = np.arange(0.5, 5.0, 0.002)
    expected = np.full(len(directions), np.inf)
    for index, direction in enumerate(directions):
        inside = solid.contains(origin + walk[:, None] * direction)
        if inside.any():
            expected[index] = walk[inside.argmax()]
    both = np.isfinite(found) & np.isfinite(expected)
    assert both.sum() > 150
    assert (np.isfinite(found) != np.isfinite(expected)).sum() <= 2  # rays that graze
    assert np.percentile(np.abs(found[both] - expected[both]), 99) < 0.003
    assert (solid.to_local(origin + found[both, None] * directions[both])[:, 2] > -1e-6).all()


def test_a_turned_moved_and_larger_solid_looks_the_same_from_the_camera_moved_with_it(solid):
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    shift, size = np.array([1.0, -2.0, 0.5]), 2.5
    view = _view()
    moved_pose = np.concatenate([turn @ view.c2w[:, :3], (shift + size * turn @ view.c2w[:, 3])[:, None]], axis=1)
    moved_view = View(*[moved_pose if name == "c2w" else getattr(view, name) for name in View.__dataclass_fields__])
    here = render_solid(solid, view, 2)
    there = render_solid(solid.moved(shift, turn, size), moved_view, 2)
    assert (here.rows, here.columns) == (there.rows, there.columns)
    assert np.abs(here.coverage - there.coverage).mean() < 1e-3
    assert np.abs(here.light - there.light).mean() < 1e-3
    both = np.isfinite(here.z) & np.isfinite(there.z)
    assert np.allclose(size * here.z[both], there.z[both], rtol=1e-3)


def test_edges_are_smooth_and_the_surface_is_textured_and_shaded(solid):
    shown = render_solid(solid, _view(), 4)
    partly = (shown.coverage > 0) & (shown.coverage < 1)
    assert 20 < partly.sum() < 0.4 * (shown.coverage > 0).sum()
    assert shown.coverage[np.isfinite(shown.z)].min() > 0.2
    whole = shown.light[shown.coverage == 1]
    assert whole.std(axis=0).max() > 0.05 and 0.05 < whole.mean() < 0.7


def test_a_camera_that_looks_away_shows_nothing(solid):
    view = _view()
    away = View(*[view.c2w * [-1, 1, -1, 1] if name == "c2w" else getattr(view, name) for name in View.__dataclass_fields__])
    assert render_solid(solid, away, 1) is None


# --------------------------------------------------------------------------------------------------------------- the scene
def test_files_splits_and_manifest(planted, twin):
    assert load_planted(planted.root) == planted == load_scene(planted.root)
    assert load_scene(twin.root) == twin
    assert len(planted.object_free) >= max(3, 0.15 * len(planted.photos))
    meta = json.loads((planted.root / "transforms.json").read_text())
    assert meta["test_filenames"] == meta["val_filenames"] == planted.object_free
    assert meta["train_filenames"] == planted.train_photos and len(meta["frames"]) == len(planted.photos)
    keys = Workspace.open(planted.root).object_free
    capture = load_capture(planted.root)
    assert [f"images/{key}.png" for key in keys] == planted.object_free
    assert sorted(keys) == [view.photo for view in capture.split("test")]
    source = load_capture(twin.root)
    for view in capture.views:
        original = source.view(view.photo)
        assert np.array_equal(view.c2w, original.c2w)
        assert (view.fx, view.cx, view.width, view.height) == (original.fx, original.cx, original.width, original.height)


def test_test_photos_are_untouched_and_training_photos_change_by_the_object_alone(planted, twin):
    for photo in planted.photos:
        original = read_image(twin.root / photo)
        mask = load_object_mask(planted.truth(photo, "object_masks"))
        assert np.array_equal(read_image(planted.truth(photo, "images")), original)
        full = read_image(planted.truth(photo, "images_with_object"))
        shown = read_image(planted.root / photo)
        assert np.array_equal(shown, original if photo in planted.object_free else full)
        rim = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        assert np.array_equal(full[~rim], original[~rim])
        if mask.any():
            assert np.mean(np.abs(full[mask].astype(int) - original[mask]).max(axis=-1) > 12) > 0.85
        assert planted.truth(photo, "object_masks") == planted.truth(Path(photo).stem, "object_masks")


def test_most_photos_see_it_and_it_has_the_size_that_was_asked_for(planted):
    areas = np.array([load_object_mask(planted.truth(photo, "object_masks")).mean() for photo in planted.photos])
    assert (areas >= 0.02).mean() >= 0.6
    assert 0.03 <= np.median(areas[areas >= 0.02]) <= 0.10
    assert areas.max() <= LARGEST
    assert areas[[photo in planted.object_free for photo in planted.photos]].min() >= 0.01
    assert load_object_mask(planted.truth(planted.prompt_view, "object_masks")).any()
    assert planted.prompt_view in planted.train_photos


def test_it_stands_at_one_place_on_the_ground(planted, twin):
    position, axes, height = _object(planted)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-9) and np.linalg.det(axes) > 0
    # The room's floor, or what stands on it; the sparse points are exact, so the foot touches one of its surfaces.
    points = read_ply(twin.root / "sparse_pc.ply").positions
    local = (points - position) @ axes / height
    foot = points[(np.abs(local[:, 2]) < 0.1) & (np.linalg.norm(local[:, :2], axis=1) < 0.5)]
    assert len(foot) >= 5
    assert axes[:, 2] @ [0, 0, 1] > np.cos(np.deg2rad(20)), "the room's up is z; it stands upright"
    meta = json.loads((planted.root / "transforms.json").read_text())
    whole = 0
    for frame in meta["frames"]:
        # The middle of the body, projected by hand, lies well within the mask.
        pose = np.array(frame["transform_matrix"])
        middle = pose[:3, :3].T @ (position + 0.4 * height * axes[:, 2] - pose[:3, 3])
        x = meta["cx"] + meta["fl_x"] * middle[0] / -middle[2]
        y = meta["cy"] - meta["fl_y"] * middle[1] / -middle[2]
        mask = load_object_mask(planted.truth(frame["file_path"], "object_masks"))
        if 0 <= x < SIZE[0] and 0 <= y < SIZE[1]:
            whole += mask[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].all()
    assert whole >= 0.6 * len(planted.photos)


def test_sparse_points_are_those_of_the_photos_with_the_object(planted, twin):
    original, left = read_ply(twin.root / "sparse_pc.ply").positions, read_ply(planted.root / "sparse_pc.ply").positions
    solid = _solid(planted)
    kept = {tuple(point) for point in left} & {tuple(point) for point in original}
    added = np.array([point for point in left if tuple(point) not in kept])
    assert 0.5 * len(original) < len(kept) < len(original)
    assert not solid.contains(np.array(sorted(kept))).any()
    assert len(added) >= 10
    assert np.abs(solid.outside(solid.to_local(added))).max() < 0.02, "the new points lie on the object"


def test_equal_bytes_for_a_seed_and_another_object_for_another(planted, twin, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        plant(twin.root, tmp_path / name, PlantConfig(seed=seed, width=48, **QUICK))
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 4 * len(planted.photos) + 4
    for file in files:
        first, second = ((tmp_path / name / file).read_bytes() for name in "ab")
        if file.name == "manifest.json":  # it says where its capture was
            first, second = (re.sub(rb'"scene_was": "[^"]*"', b"", content) for content in (first, second))
        assert first == second, file
    first = next(file for file in files if file.parent == Path("truth/images_with_object"))
    assert (tmp_path / "a" / first).read_bytes() != (tmp_path / "c" / first).read_bytes()


def test_written_smaller_it_stands_at_the_same_place_of_the_photo(twin, tmp_path):
    small = plant(twin.root, tmp_path / "small", PlantConfig(width=48, **QUICK))
    capture, source = load_capture(small.root), load_capture(twin.root)
    for view in capture.views:
        original = source.view(view.photo)
        assert (view.width, view.height) == (48, 36) == read_image(view.path).shape[1::-1]
        assert (view.fx, view.cy) == pytest.approx((original.fx / 2, original.cy / 2))
    solid = _solid(small)
    for photo in small.photos[::4]:
        large = np.zeros(SIZE[::-1], bool)
        rendering = render_solid(solid, source.view(photo), 1)
        if rendering is not None:
            large[rendering.rows, rendering.columns] = np.isfinite(rendering.z)
        mask = load_object_mask(small.truth(photo, "object_masks"))
        halved = cv2.resize(large.astype(np.float32), (48, 36), interpolation=cv2.INTER_AREA) > 0.5
        assert (mask & ~halved).sum() <= 0.15 * halved.sum() + 3


def test_a_shadow_darkens_the_ground_around_it_and_nothing_else(planted, twin, tmp_path):
    shaded = plant(twin.root, tmp_path / "shaded", PlantConfig(shadow=True, **QUICK))
    darker = 0
    for photo in shaded.photos:
        before = read_image(shaded.truth(photo, "images")).astype(int)
        after = read_image(shaded.truth(photo, "images_with_object")).astype(int)
        mask = load_object_mask(shaded.truth(photo, "object_masks"))
        assert np.array_equal(mask, load_object_mask(planted.truth(photo, "object_masks")))
        rim = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        assert (after <= before)[~rim].all()
        darker += (after < before - 10)[~rim].any(axis=-1).sum()
    assert darker > 30


# --------------------------------------------------------------------------------------------------------------- occlusion
def test_known_depth_hides_what_lies_behind_it(twin, planted, tmp_path):
    """The left half of every depth map is very near: the object shows in the right halves alone."""
    capture = tmp_path / "with_depth"
    shutil.copytree(twin.root, capture)
    meta = json.loads((capture / "transforms.json").read_text())
    (capture / "depths").mkdir()
    for frame in meta["frames"]:
        z = np.load(twin.truth(frame["file_path"], "depths_with_object"))
        z[:, : SIZE[0] // 2] = 0.01
        frame["depth_file_path"] = f"depths/{Path(frame['file_path']).stem}.npy"
        np.save(capture / frame["depth_file_path"], (z * 1000).astype(np.float32))  # nerfstudio's unit
    (capture / "transforms.json").write_text(json.dumps(meta))
    scene = plant(capture, tmp_path / "scene", PlantConfig(**QUICK))
    views = load_capture(scene.root)
    solid, checked = _solid(scene), 0
    for photo in scene.photos:
        mask = load_object_mask(scene.truth(photo, "object_masks"))
        full, free = (read_image(scene.truth(photo, kind)) for kind in ("images_with_object", "images"))
        assert not mask[:, : SIZE[0] // 2].any()
        assert np.array_equal(full[:, : SIZE[0] // 2], free[:, : SIZE[0] // 2])
        rendering = render_solid(solid, views.view(photo), 1)
        if rendering is None:
            continue
        z = np.load(twin.truth(photo, "depths_with_object"))[rendering.rows, rendering.columns]
        right = np.arange(SIZE[0])[rendering.columns] >= SIZE[0] // 2
        clear = np.isfinite(rendering.z) & (z > rendering.z) & right
        hidden = np.isfinite(rendering.z) & (z < rendering.z - 0.1 * solid.height)
        box = mask[rendering.rows, rendering.columns]
        assert box[clear].all() and not box[hidden].any()
        checked += clear.sum()
    assert checked > 300


def test_depth_files_that_are_absent_are_named(twin, tmp_path):
    capture = tmp_path / "with_depth"
    shutil.copytree(twin.root, capture)
    meta = json.loads((capture / "transforms.json").read_text())
    for frame in meta["frames"]:
        frame["depth_file_path"] = "depths/nothing.npy"
    (capture / "transforms.json").write_text(json.dumps(meta))
    with pytest.raises(SpinnerfError, match="nothing.npy.*depth_file_path"):
        plant(capture, tmp_path / "scene", PlantConfig(**QUICK))
    assert not (tmp_path / "scene").exists() and not list(tmp_path.glob(".tmp*"))


def test_points_before_the_object_hide_it_up_to_the_photos_edge():
    """A dark post before a pale wall; the points on it say that it is near, the photo says how wide it is."""
    photo = np.full((120, 200, 3), 200, np.uint8)
    photo[:, 90:104] = 40
    shape = (100, 120)
    rendering = Rendering(
        slice(10, 110), slice(40, 160), np.ones(shape, np.float32), np.ones((*shape, 3), np.float32), np.full(shape, 5.0)
    )
    post = np.array([(row, column) for row in range(12, 110, 6) for column in (94, 99)])
    wall = np.array([(row, column) for row in range(12, 110, 6) for column in (50, 75, 130)])
    pixels = np.concatenate([post, wall])
    z = np.array([3.0] * len(post) + [6.0] * len(wall))
    front = front_by_points(photo, pixels, z, rendering, 1.0) > 0.5
    expected = np.zeros(shape, bool)
    expected[:, 50:64] = True
    assert (front & expected).sum() / (front | expected).sum() > 0.8
    spread = np.array([(row, column) for row in range(12, 110, 12) for column in range(42, 160, 12)])
    covered = front_by_points(photo, spread, np.full(len(spread), 3.0), rendering, 1.0)
    assert (covered > 0.5).all(), "nothing is seen behind points that are all before it"
    few = np.arange(LEAST_FRONT_POINTS - 1)
    assert not front_by_points(photo, pixels[few], z[few], rendering, 1.0).any(), "two points are mistakes"
    assert not front_by_points(photo, pixels, np.full(len(z), 4.9), rendering, 1.0).any(), "the ground it stands on"


def test_a_place_that_things_stand_before_is_not_taken():
    """A floor with a dense wall of points across its nearer half: the object stands before the wall or beside it."""
    rng = np.random.default_rng(0)
    views = [_view(80, 60, (0.4 * x, -4.0, 1.5)) for x in range(-3, 4)]
    floor = np.stack([rng.uniform(-2, 2, 1500), rng.uniform(-1.5, 2, 1500), np.zeros(1500)], axis=1)
    wall = np.stack([rng.uniform(-2, 0, 800), np.full(800, -0.6), rng.uniform(0, 1.2, 800)], axis=1)
    points = np.concatenate([floor, wall])
    place = choose_place(views, SeenPoints(points, np.ones((len(views), len(points)), bool)), 0.05, rng)
    assert place.figures["occluded"] < 0.05 and place.figures["collision"] < 0.05
    assert place.position[2] == pytest.approx(0, abs=0.05) and place.axes[2, 2] > 0.98
    assert place.position[1] < -0.6 or place.position[0] > 0.3


# ------------------------------------------------------------------------------------------------------------------ errors
@pytest.mark.parametrize(
    "wrong", [dict(size=0.2), dict(size=0.001), dict(test_every=7), dict(width=8), dict(max_photos=3), dict(supersampling=0)]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(SpinnerfError, match=f"{next(iter(wrong))} is .*expected"):
        PlantConfig(**wrong)


def test_captures_that_cannot_be_planted_in_are_answered(twin, tmp_path):
    with pytest.raises(SpinnerfError, match="no such folder"):
        plant(tmp_path / "nothing", tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(SpinnerfError, match="not an empty folder"):
        plant(twin.root, tmp_path / "full")
    bare = tmp_path / "bare"
    shutil.copytree(twin.root, bare)
    meta = json.loads((bare / "transforms.json").read_text())
    del meta["ply_file_path"]
    (bare / "transforms.json").write_text(json.dumps(meta))
    with pytest.raises(SpinnerfError, match="sparse points.*ns-process-data"):
        plant(bare, tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "full"]
    with pytest.raises(SpinnerfError, match="planted.json"):
        load_planted(twin.root)
    with pytest.raises(SpinnerfError, match="ns-spinnerf plant"):
        load_scene(bare / "truth")


def test_photos_without_the_points_colours_show_no_place(twin, tmp_path):
    """Points count as seen where photos have their colour: black photos show none."""
    black = tmp_path / "black"
    shutil.copytree(twin.root, black)
    for path in (black / "images").iterdir():
        write_png(path, np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    with pytest.raises(SpinnerfError, match="sparse points twice"):
        plant(black, tmp_path / "scene")


# ------------------------------------------------------------------------------------------------------------ real captures
def test_in_a_real_llff_folder(statue_folder, tmp_path):
    scene = plant(statue_folder, tmp_path / "statue", PlantConfig(width=64, max_photos=12, **QUICK))
    assert len(scene.photos) == 12 and len(scene.object_free) == 3
    areas = [load_object_mask(scene.truth(photo, "object_masks")).mean() for photo in scene.photos]
    assert np.median(areas) == pytest.approx(0.06, abs=0.03)
    assert scene.figures["seen_by"] >= 0.6 and scene.figures["occluded"] < 0.1
    assert scene.root.parent == tmp_path and [path.name for path in tmp_path.iterdir()] == ["statue"]
