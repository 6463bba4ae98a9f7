"""Planes around a region, on a made-up corner of a floor and a wall seen by several cameras."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spinnerf_ns.removal.layers import ViewLayers
from spinnerf_ns.removal.surfaces.continuation import continued
from spinnerf_ns.removal.surfaces.planes import (
    REST,
    fill_by_surface,
    find_planes,
    plane_depths,
    snapped,
    surface_labels,
    surroundings,
)
from spinnerf_ns.scene.cameras import ray_directions, unproject
from spinnerf_ns.scene.view import View
from tests.scene.captures import look_at

HEIGHT, WIDTH = 60, 80
FLOOR, WALL = np.array([0.0, 0.0, 1.0, 0.0]), np.array([0.0, 1.0, 0.0, -4.0])


def corner(x: float):
    """A camera 1.2 above the floor that looks along y; its exact depth, and which of the two each pixel shows."""
    view = View(
        photo=f"at_{x}",
        path=Path("unused.png"),
        width=WIDTH,
        height=HEIGHT,
        fx=70.0,
        fy=70.0,
        cx=WIDTH / 2,
        cy=HEIGHT / 2,
        distortion=np.zeros(6),
        camera_model="OPENCV",
        c2w=look_at((x, 0.0, 1.2), (x, 1.0, 0.95))[:3],
        splits=frozenset({"train"}),
    )
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    xy = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    center = view.c2w[:, 3]
    ray = unproject(view, xy, np.ones(len(xy))) - center
    z = np.stack([-(plane[:3] @ center + plane[3]) / (ray @ plane[:3]) for plane in (FLOOR, WALL)])
    z[z <= 0] = np.inf
    shown = z.argmin(axis=0).reshape(HEIGHT, WIDTH)
    return view, z.min(axis=0).reshape(HEIGHT, WIDTH).astype(np.float32), shown


@pytest.fixture(scope="module")
def corners():
    region = np.zeros((HEIGHT, WIDTH), bool)
    region[22:45, 30:48] = True
    return [(*corner(x), region) for x in (-0.4, 0.0, 0.4)]


def planes_of(corners, noise: float = 0.0):
    generator = np.random.default_rng(1)
    depths = [
        np.where(region, 0, z * (1 + noise * generator.standard_normal(z.shape))).astype(np.float32) for _, z, _, region in corners
    ]
    return find_planes([view for view, *_ in corners], depths, [region for *_, region in corners])


def test_finds_the_floor_and_the_wall_and_nothing_else(corners):
    planes = planes_of(corners, noise=0.003)
    assert len(planes) == 2
    for true in (FLOOR, WALL):
        signed = planes * np.sign(planes[:, :3] @ true[:3])[:, None]
        assert np.abs(signed - true).max(axis=1).min() < 0.03
    assert np.array_equal(planes, planes_of(corners, noise=0.003))  # deterministic


def test_no_plane_where_there_is_nothing_to_fit(corners):
    view, z, _, region = corners[0]
    assert find_planes([view], [np.zeros_like(z)], [region]).shape == (0, 4)
    assert find_planes([view], [z], [np.zeros_like(region)]).shape == (0, 4)
    assert (surface_labels(view, z, region, np.zeros((0, 4))) == REST).all()


def numbers_of(planes) -> np.ndarray:
    """The labels of the floor and of the wall."""
    return np.array([int(np.abs(planes[:, :3] @ true[:3]).argmax()) + 1 for true in (FLOOR, WALL)])


def layers_of(corners, z_in_hole) -> list[ViewLayers]:
    """What is known of each photo; `z_in_hole`: view's number, true depth -> depth in its region."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    return [
        ViewLayers(view, image, region, np.where(region, z_in_hole(i, z), z).astype(np.float32), np.zeros_like(z))
        for i, (view, z, _, region) in enumerate(corners)
    ]


def test_labels_follow_the_true_surfaces_around_the_hole(corners):
    planes = planes_of(corners)
    view, z, shown, region = corners[1]
    labels = surface_labels(view, z, region, planes)
    near = np.zeros_like(region)
    near[surroundings(region)] = True
    assert (labels == numbers_of(planes)[shown])[near & ~region].mean() > 0.97
    assert (labels[~near] == REST).all()


@pytest.mark.parametrize(
    "z_in_hole",
    [lambda i, z: z, lambda i, z: np.zeros_like(z), lambda i, z: 0.6 * z, lambda i, z: z * (1.3 + 0.1 * i)],
    ids=["true", "unknown", "a remnant before it", "a gap behind it"],
)
def test_surfaces_go_on_to_where_they_meet_whatever_the_field_shows(corners, z_in_hole):
    planes = planes_of(corners)
    layers = layers_of(corners, z_in_hole)
    labels = surface_labels(layers[1].view, layers[1].z_visible, layers[1].region, planes)
    found = continued(layers[1], layers[:1] + layers[2:], planes, labels)
    region, shown = corners[1][3], corners[1][2]
    assert (found == numbers_of(planes)[shown])[region].mean() > 0.97
    assert np.array_equal(found[~region], labels[~region])
    moved = snapped(layers[1].view, layers[1].z_visible, region, planes, found)
    assert (np.abs(moved / corners[1][1] - 1)[region] < 0.01).mean() > 0.97


def test_what_the_photos_show_is_believed_against_the_planes(corners):
    """A ball before the wall, in the region: the other photos see it, so it stays."""
    planes = planes_of(corners)

    def with_ball(view, z):
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        ray = ray_directions(view, np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1))
        center, radius = np.array([0.0, 3.0, 0.5]), 0.4
        off = view.c2w[:, 3] - center
        a, b, c = (ray**2).sum(axis=1), ray @ off, off @ off - radius**2
        root = b * b - a * c
        hit = ((-b - np.sqrt(np.maximum(root, 0))) / a).reshape(HEIGHT, WIDTH)
        ball = (root > 0).reshape(HEIGHT, WIDTH)
        return np.where(ball, hit, z).astype(np.float32), ball

    layers, balls = [], []
    for number, layer in enumerate(layers_of(corners, lambda i, z: z)):
        z, ball = with_ball(layer.view, layer.z_visible)
        region = layer.region if number == 1 else np.zeros_like(layer.region)
        layers.append(replace(layer, z_visible=z, region=region))
        balls.append(ball)
    assert (balls[1] & layers[1].region).sum() > 20
    labels = surface_labels(layers[1].view, layers[1].z_visible, layers[1].region, planes)
    labels[balls[1] & ~layers[1].region] = REST
    found = continued(layers[1], layers[:1] + layers[2:], planes, labels)
    assert (found == REST)[balls[1] & layers[1].region].mean() > 0.8
    assert (found == REST)[layers[1].region & ~balls[1]].mean() < 0.1


def test_a_surface_ends_in_the_hole_where_it_ends_beside_it(corners):
    """A box's top before the wall: its plane would reach the wall further up, but beside the region it is seen to end."""
    planes = np.stack([[0.0, 0.0, 1.0, -0.5], WALL])
    view, z, _, _ = corners[1]
    region = np.zeros((HEIGHT, WIDTH), bool)
    region[15:45, 20:60] = True
    rows, columns = (each.ravel() for each in np.mgrid[:HEIGHT, :WIDTH])
    z_top = plane_depths(view, rows, columns, planes)[:, 0]
    points = unproject(view, np.stack([columns + 0.5, rows + 0.5], axis=1), np.maximum(z_top, 0))
    on_top = ((z_top > 0) & (points[:, 1] < 2.5)).reshape(HEIGHT, WIDTH)
    z = np.where(on_top, z_top.reshape(HEIGHT, WIDTH), z).astype(np.float32)
    layer = ViewLayers(view, np.zeros((HEIGHT, WIDTH, 3), np.uint8), region, np.where(region, 0, z), np.zeros_like(z))
    truth = np.where(on_top, 1, 2).astype(np.uint8)
    found = continued(layer, [], planes, np.where(region, REST, truth).astype(np.uint8))
    assert (found == truth)[region].mean() > 0.97


def test_a_rim_without_planes_leaves_the_hole_to_the_rest(corners):
    layers = layers_of(corners, lambda i, z: z)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    assert (continued(layers[1], layers[:1], planes_of(corners), labels) == REST).all()


def test_depth_near_a_plane_is_moved_onto_it_and_other_depth_is_left(corners):
    planes = planes_of(corners)
    view, z, _, region = corners[1]
    wrong = np.where(region, 0.9 * z, 1.01 * z).astype(np.float32)
    labels = surface_labels(view, z, region, planes)
    moved = snapped(view, wrong, region, planes, labels)
    assert np.abs(moved / z - 1)[(labels != REST) & ~region].mean() < 2e-3
    assert np.array_equal(moved[labels == REST], wrong[labels == REST])
    far = snapped(view, 0.5 * z, region, planes, labels)
    assert np.array_equal(far[~region], (0.5 * z)[~region])
    assert np.abs(far / z - 1)[(labels != REST) & region].max() < 0.3  # a label in the region is a decision, not a guess


def test_each_surface_is_filled_from_itself_alone(corners):
    planes = planes_of(corners)
    view, z, shown, region = corners[1]
    image = np.where(shown[..., None] == 0, np.array([200, 40, 40]), np.array([40, 40, 200])).astype(np.uint8)
    seen = []

    def mean_of_donors(image, region, donors):
        seen.append(region)
        filled = image.copy()
        filled[region] = image[donors].mean(axis=0)
        return filled

    labels = numbers_of(planes)[shown].astype(np.uint8)
    near = np.zeros_like(region)
    near[surroundings(region)] = True
    pure = np.where(near[..., None], image, 0)  # what lies beyond the surroundings is another surface's as likely as not
    filled = fill_by_surface(mean_of_donors, pure, region, labels)
    assert np.array_equal(filled[~region], pure[~region])
    assert (np.abs(filled[region].astype(int) - image[region]).max(axis=1) < 3).mean() > 0.97
    assert len(seen) == 2


def test_what_is_taken_for_a_surface_near_its_edge_gives_only_the_surfaces_own_colours(corners):
    _, _, shown, region = corners[1]
    image = np.where(shown[..., None] == 0, np.array([200, 40, 40]), np.array([40, 40, 200])).astype(np.uint8)
    labels = (np.roll(shown, 2, axis=0) + 1).astype(np.uint8)  # the edge two rows too low: floor that is taken for wall
    shown_to = {}

    def fill(image, to_fill, donors):
        shown_to[len(shown_to)] = image[donors]
        return image

    fill_by_surface(fill, image, region, labels)
    floor, wall = shown_to[0], shown_to[1]
    assert len(floor) > 100 and (floor == (200, 40, 40)).all()
    assert len(wall) > 100 and (wall == (40, 40, 200)).all()


def test_masked_pixels_give_nothing_to_a_surface(corners):
    _, _, shown, region = corners[1]
    image = np.full((HEIGHT, WIDTH, 3), 50, np.uint8)
    valid = np.ones_like(region)
    valid[:, 55:] = False
    image[~valid] = 255

    def fill(image, to_fill, donors):
        assert not (image[donors] == 255).any()
        return image

    fill_by_surface(fill, image, region, (shown + 1).astype(np.uint8), valid)


def test_an_empty_hole_gives_the_photo_back(corners):
    view, z, _, region = corners[0]
    image = np.full((HEIGHT, WIDTH, 3), 7, np.uint8)
    nothing = np.zeros_like(region)
    assert fill_by_surface(lambda *_: pytest.fail("not asked"), image, nothing, nothing.astype(np.uint8)).tolist() == image.tolist()
