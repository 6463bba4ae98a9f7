"""Masks carried by depth, on a ball and a post upon a floor whose depth is exact."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from spinnerf_ns.scene.cameras import ray_directions
from spinnerf_ns.scene.view import View
from spinnerf_ns.segmentation import segment
from spinnerf_ns.segmentation.prompts import Prompt
from spinnerf_ns.segmentation.trackers.agreed import agreed
from spinnerf_ns.segmentation.trackers.carried import ColourModel, Hull, Known, surface_points, votes
from spinnerf_ns.segmentation.trackers.geometry import GeometryTracker
from spinnerf_ns.stereo.maps import Stereo
from tests.scene.captures import look_at
from tests.segmentation.conftest import iou

WIDTH, HEIGHT, RADIUS = 120, 90, 0.5
BALL, POST = np.array([0.0, 0.0, RADIUS]), np.array([1.2, 0.3, 0.4])


def view_from(number: int, pose: np.ndarray) -> View:
    lens = (100.0, 100.0, WIDTH / 2, HEIGHT / 2)
    return View(f"p{number:02d}", f"p{number:02d}.png", WIDTH, HEIGHT, *lens, np.zeros(6), "OPENCV", pose[:3], frozenset({"train"}))


def hit_ball(origin: np.ndarray, rays: np.ndarray, center: np.ndarray, radius: float) -> np.ndarray:
    """(N,) distance in units of the rays; infinite where they miss."""
    offset = origin - center
    a, b, c = (rays**2).sum(axis=1), rays @ offset, offset @ offset - radius**2
    root = b**2 - a * c
    return np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)


def shoot(view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photo, planar depth (0: sky) and the ball's mask."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    rays = ray_directions(view, np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1))
    origin = view.c2w[:, 3]
    floor = np.where(rays[:, 2] < 0, -origin[2] / np.minimum(rays[:, 2], -1e-9), np.inf)
    things = np.stack([hit_ball(origin, rays, BALL, RADIUS), hit_ball(origin, rays, POST, 0.3), floor])
    nearest, z = things.argmin(axis=0), things.min(axis=0)
    points = origin + rays * np.where(np.isfinite(z), z, 0)[:, None]
    grain = np.sin(points @ [[9, 4, -3], [5, -8, 2], [7, 3, 9]]).mean(axis=1)
    colours = np.array([[150, 70, 60], [70, 90, 150], [110, 120, 100]])[nearest] + 30 * grain[:, None]
    colours[~np.isfinite(z)] = (190, 205, 230)
    photo = np.clip(colours, 0, 255).astype(np.uint8).reshape(HEIGHT, WIDTH, 3)
    z = np.where(np.isfinite(z), z, 0).astype(np.float32)
    return photo, z.reshape(HEIGHT, WIDTH), ((nearest == 0) & (z > 0)).reshape(HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def ring():
    """Twelve photos all around, the sixth of which looks away."""
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    poses = [look_at((3 * np.cos(a), 3 * np.sin(a), 1.2), target=BALL) for a in angles]
    poses[5] = look_at((-2.6, 1.5, 1.2), target=(-5, 3, 0.5))
    views = [view_from(number, pose) for number, pose in enumerate(poses)]
    return views, [shoot(view) for view in views]


def tracker_for(views, shots, spoil=lambda number, z: z, checked=False) -> GeometryTracker:
    tracker = GeometryTracker(checked=checked)
    depths = {v.photo: spoil(i, shot[1]) for i, (v, shot) in enumerate(zip(views, shots))}
    tracker.place(views, lambda photo: Stereo(depths[photo], np.where(depths[photo] > 0, 1.0, 0.0).astype(np.float32)))
    return tracker


def test_a_mask_goes_all_around_and_past_a_photo_that_looks_away(ring):
    views, shots = ring
    seen: list[int] = []
    masks = tracker_for(views, shots).track([lambda s=s: s[0] for s in shots], {0: shots[0][2]}, seen.append)
    assert masks[5] is None and masks[0] is shots[0][2]
    others = [iou(masks[i], shots[i][2]) for i in range(12) if i not in (0, 5)]
    assert min(others) > 0.95 and np.mean(others) > 0.98
    looks = len(seen) // 12  # the photos are gone through more than once; each time all of them
    assert looks >= 1 and sorted(seen) == sorted(looks * list(range(12)))


@pytest.fixture(scope="module")
def fine_ring():
    """Twenty-four photos all around."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    views = [view_from(n, look_at((3 * np.cos(a), 3 * np.sin(a), 1.2), target=BALL)) for n, a in enumerate(angles)]
    return views, [shoot(view) for view in views]


def test_a_mask_does_not_wear_away_in_many_small_steps(fine_ring):
    views, shots = fine_ring
    masks = tracker_for(views, shots).track([lambda s=s: s[0] for s in shots], {0: shots[0][2]})
    found = [0 if mask is None else iou(mask, shot[2]) for mask, shot in zip(masks, shots)]
    assert min(found) > 0.95, "opposite the source nothing shows that the source shows"


def test_photos_whose_depth_is_wrong_or_unknown_do_not_spoil_the_others(ring):
    views, shots = ring

    def spoil(number: int, z: np.ndarray) -> np.ndarray:
        if number == 2:
            return np.zeros_like(z)
        noise = np.random.default_rng(number).random(z.shape)
        z = np.where(noise < 0.3, 0, z * (1 + 0.01 * (noise - 0.5)))
        return (1.5 * z if number == 9 else z).astype(np.float32)

    masks = tracker_for(views, shots, spoil).track([lambda s=s: s[0] for s in shots], {0: shots[0][2]})
    good = [iou(masks[i], shots[i][2]) for i in range(1, 12) if i not in (2, 5, 9)]
    assert min(good) > 0.8 and np.mean(good) > 0.9


def test_without_depth_optical_flow_does_the_work(ring, capsys):
    _, shots = ring
    read = [lambda s=s: s[0] for s in shots[:2]]
    masks = GeometryTracker().track(read, {0: shots[0][2]})
    assert len(masks) == 2 and "optical flow" in capsys.readouterr().out
    blind = tracker_for(ring[0], shots, lambda _, z: np.zeros_like(z))
    assert blind.track([lambda s=s: s[0] for s in shots], {0: shots[0][2]})[0] is shots[0][2]
    assert "no depth in the photo pointed at" in capsys.readouterr().out


def test_votes_tell_the_object_the_background_and_what_nobody_can_say(ring):
    views, shots = ring
    ones = np.ones((HEIGHT, WIDTH), np.float32)
    known = [Known(views[0], shots[0][2], shots[0][1], ones)]
    everywhere = np.ones((HEIGHT, WIDTH), bool)
    votes_for, votes_against = votes(views[1], shots[1][1], ones, known, everywhere)
    truth, inner = shots[1][2], cv2.erode(shots[1][2].astype(np.uint8), np.ones((5, 5))) > 0
    assert (votes_for[~truth] > votes_against[~truth]).mean() < 0.01
    assert (votes_for[inner] > 0).mean() > 0.6 and (votes_for[inner] == 0).any(), "what turns into sight has no vote"
    assert (votes_against[~truth & (shots[1][1] > 0)] > 0).mean() > 0.4


def test_the_hull_is_where_all_masks_are(ring):
    views, shots = ring
    ones = np.ones((HEIGHT, WIDTH), np.float32)
    hull = Hull(surface_points([Known(views[0], shots[0][2], shots[0][1], ones)]))
    for index in (0, 2, 4, 7, 9):
        hull.carve(Known(views[index], shots[index][2], shots[index][1], ones))
    drawn, in_frame = hull.silhouette(views[3], (HEIGHT, WIDTH))
    assert (drawn | ~shots[3][2]).all() and iou(drawn, shots[3][2]) > 0.6 and in_frame > 0.99
    assert hull.silhouette(views[5], (HEIGHT, WIDTH))[1] < 0.02


def test_colours_of_the_object_are_told_from_those_around_it(ring):
    photo, _, object_mask = ring[1][0]
    colours = ColourModel()
    assert not colours.log_ratio(photo).any()
    lab = cv2.cvtColor(photo, cv2.COLOR_RGB2LAB)
    colours.learn(lab, object_mask)
    ratio = colours.log_ratio(lab)
    assert (ratio[object_mask] > 0).mean() > 0.9 and ratio[~object_mask].mean() < 0


def test_auto_measures_depth_and_carries_masks_by_it(twin, tmp_path, monkeypatch, capsys):
    from spinnerf_ns.scene.capture import load_capture
    from spinnerf_ns.scene.workspace import Workspace
    from spinnerf_ns.segmentation.segmenters.sam import SamSegmenter
    from spinnerf_ns.segmentation.trackers.sam2 import Sam2Tracker

    def not_here(self):
        raise segment.SpinnerfError("no weights")

    monkeypatch.setattr(Sam2Tracker, "ensure", not_here)
    monkeypatch.setattr(SamSegmenter, "ensure", not_here)
    placed = []
    monkeypatch.setattr(segment, "stereo_if_possible", lambda *_, **__: True)
    monkeypatch.setattr(segment, "stereo_of", lambda _, workspace, *__: bool(workspace.stereo.mkdir(exist_ok=True) or True))
    monkeypatch.setattr(GeometryTracker, "place", lambda self, views, depth: placed.append(len(views)))
    monkeypatch.setattr(GeometryTracker, "track", lambda self, images, masks, progress: [*masks.values()] * len(images))
    capture, workspace = load_capture(twin.root), Workspace.open(twin.root, tmp_path / "ws")
    workspace.root.mkdir(exist_ok=True)
    segment.segment_capture(capture, workspace, Prompt(twin.prompt_view, box=tuple(twin.prompt_box)), "auto", "auto")
    assert placed == [len(segment.views_with_object(capture, workspace))]
    assert workspace.read_manifest()["stages"]["segment"]["parameters"]["tracker"]["name"] == "geometry"
    assert "tracker auto: geometry" in capsys.readouterr().out


def test_of_two_trackers_masks_those_that_describe_one_body_are_taken(fine_ring):
    views, truth = fine_ring[0], [shot[2] for shot in fine_ring[1]]

    def worn(mask: np.ndarray, number: int) -> np.ndarray:
        """Another part of it is missing in each photo."""
        shown = mask.copy()
        columns = np.flatnonzero(mask.any(axis=0))
        third = len(columns) // 3
        shown[:, columns[number % 3 * third : (number % 3 + 1) * third]] = False
        return shown

    bad = [truth[0], *(worn(mask, number) for number, mask in enumerate(truth[1:]))]
    taken, swapped = agreed(views, bad, truth, [0])
    assert all(a is b for a, b in zip(taken, truth)) and swapped == [False, *[True] * (len(views) - 1)]
    taken, swapped = agreed(views, truth, bad, [0])
    assert all(a is b for a, b in zip(taken, truth)) and not any(swapped)
    one_bad, another_bad = ([np.roll(m, 14, axis=1) if n == bad else m for n, m in enumerate(truth)] for bad in (7, 15))
    taken, _ = agreed(views, one_bad, another_bad, [0])
    assert taken[7] is truth[7] and taken[15] is truth[15], "photo by photo"
    taken, swapped = agreed(views, truth, [None] * len(views))
    assert not any(swapped) and all(a is b for a, b in zip(taken, truth))


def test_of_masks_that_lack_the_same_part_everywhere_the_given_one_tells(fine_ring):
    views, truth = fine_ring[0][:9], [shot[2] for shot in fine_ring[1]][:9]

    def without_foot(mask: np.ndarray) -> np.ndarray:
        rows = np.flatnonzero(mask.any(axis=1))
        shown = mask.copy()
        shown[rows[-len(rows) // 5] :] = False
        return shown

    worn = [mask if number == 4 else without_foot(mask) for number, mask in enumerate(truth)]
    taken, swapped = agreed(views, worn, truth, [4])
    assert sum(swapped) >= 5 and all(taken[number] is truth[number] for number in np.flatnonzero(swapped))
    assert not sum(agreed(views, truth, worn, [4])[1]) > 2, "photos at the arc's ends, of which the others know little"
