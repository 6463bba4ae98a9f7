"""Filling from other views on a wall with an object before it, rendered here ray by ray."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.removal.layers import ViewLayers
from spinnerf_ns.removal.views.fill import fill_from_views
from spinnerf_ns.scene.view import View

HEIGHT, WIDTH, FOCAL = 60, 80, 70.0
WALL, OBJECT = 4.0, 2.5  # distances along the world's -z


def texture(x, y):
    waves = [128 + 60 * np.sin(3 * x + p) * np.cos(2.5 * y - p) + 30 * np.sin(x - 2 * y + p) for p in (0, 1, 2)]
    return np.stack(waves, axis=-1)


def render(camera_x, half=0.45, yaw=0.0):
    """A photo from (camera_x, 0, 0) of a wall and a red square before it: layers, and the photo without it."""
    c2w = np.array([[np.cos(yaw), 0, np.sin(yaw), camera_x], [0, 1, 0, 0], [-np.sin(yaw), 0, np.cos(yaw), 0]])
    view = View(
        photo=f"photo_{camera_x:+.2f}",
        path=Path("unused.png"),
        width=WIDTH,
        height=HEIGHT,
        fx=FOCAL,
        fy=FOCAL,
        cx=WIDTH / 2,
        cy=HEIGHT / 2,
        distortion=np.zeros(6),
        camera_model="OPENCV",
        c2w=c2w,
        splits=frozenset({"train"}),
    )
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    directions = np.stack([(x - WIDTH / 2) / FOCAL, -(y - HEIGHT / 2) / FOCAL, -np.ones_like(x)], axis=-1) @ c2w[:, :3].T

    def hit(distance):
        z = distance / -directions[..., 2]  # the ray's parameter is planar depth: its z in the camera is -1
        return z, camera_x + z * directions[..., 0], z * directions[..., 1]

    z_wall, wall_x, wall_y = hit(WALL)
    z_object, object_x, object_y = hit(OBJECT)
    object_mask = (np.abs(object_x) < half) & (np.abs(object_y) < half)
    truth = np.clip(texture(wall_x, wall_y), 0, 255).round().astype(np.uint8)
    image = np.where(object_mask[..., None], np.array([255, 0, 0], np.uint8), truth)
    z_visible = np.where(object_mask, z_object, z_wall).astype(np.float32)
    return ViewLayers(view, image, object_mask, z_visible, z_wall.astype(np.float32)), truth


def scene(places=(-1.5, -0.7, 0.0, 0.7, 1.5), **options):
    return [list(column) for column in zip(*(render(place, yaw=0.2 * place, **options) for place in places))]


def filled_psnr(layers, truths, filled):
    errors = [
        (answer.image.astype(float) - truth)[layer.region & ~answer.unseen_mask]
        for layer, truth, answer in zip(layers, truths, filled)
    ]
    return 10 * np.log10(255**2 / np.mean(np.concatenate(errors) ** 2))


def check_contract(layers, filled):
    for layer, answer in zip(layers, filled):
        assert answer.image.dtype == np.uint8 and answer.unseen_mask.dtype == bool and answer.z.dtype == np.float32
        np.testing.assert_array_equal(answer.image[~layer.region], layer.image[~layer.region])
        np.testing.assert_array_equal(answer.image[answer.unseen_mask], layer.image[answer.unseen_mask])
        np.testing.assert_array_equal(answer.z[~layer.region], layer.z_visible[~layer.region])
        assert not (answer.unseen_mask & ~layer.region).any()
        assert (answer.z[answer.unseen_mask] == 0).all()
        assert (answer.z[layer.region & ~answer.unseen_mask] > 0).all()


def test_everything_that_is_seen_is_filled_with_the_truth():
    layers, truths = scene()
    filled = fill_from_views(layers)
    check_contract(layers, filled)
    assert np.mean([answer.unseen_mask.sum() for answer in filled]) < 0.02 * np.mean([layer.region.sum() for layer in layers])
    assert filled_psnr(layers, truths, filled) > 33
    for layer, answer in zip(layers, filled):
        done = layer.region & ~answer.unseen_mask
        np.testing.assert_allclose(answer.z[done], layer.z_background[done], rtol=0.01)


def test_what_no_photo_shows_stays_unseen():
    places = (-0.05, 0.0, 0.05)  # hardly any parallax: the wall behind the object's middle is never seen
    layers, truths = scene(places)
    filled = fill_from_views(layers)
    check_contract(layers, filled)
    for layer, answer in zip(layers, filled):
        # Reference, written out: a wall point is seen from a place if its line of sight misses the square.
        rows, columns = np.nonzero(layer.region)
        y, x = rows + 0.5, columns + 0.5
        directions = np.stack([(x - WIDTH / 2) / FOCAL, -(y - HEIGHT / 2) / FOCAL, -np.ones_like(x)], axis=-1)
        directions = directions @ layer.view.c2w[:, :3].T
        z = WALL / -directions[:, 2]
        wall = np.stack([layer.view.c2w[0, 3] + z * directions[:, 0], z * directions[:, 1]], axis=-1)
        seen = np.zeros(rows.size, bool)
        margin = 0.08  # two pixels on the square: near its silhouette sampling decides
        for place in places:
            crossing = np.stack([place + (wall[:, 0] - place) * OBJECT / WALL, wall[:, 1] * OBJECT / WALL], axis=-1)
            seen |= (np.abs(crossing) > 0.45 - margin).any(axis=1)
        assert answer.unseen_mask[rows, columns][~seen].all()
        assert (~seen).sum() > 50


def test_garbage_and_unknown_depth():
    layers, truths = scene()
    generator = np.random.default_rng(0)
    garbage = [
        dataclasses.replace(layer, z_background=generator.uniform(2.6, 3.6, layer.region.shape).astype(np.float32))
        for layer in layers
    ]
    filled = fill_from_views(garbage)  # all in the air between the object and the wall
    check_contract(garbage, filled)
    assert sum(answer.unseen_mask.sum() for answer in filled) > 0.97 * sum(layer.region.sum() for layer in layers)

    unknown = [dataclasses.replace(layer, z_background=np.zeros_like(layer.z_background)) for layer in layers]
    unknown[0].z_background[:] = np.nan
    filled = fill_from_views(unknown)  # continued from the rim
    check_contract(unknown, filled)
    assert sum(answer.unseen_mask.sum() for answer in filled) < 0.1 * sum(layer.region.sum() for layer in layers)
    assert filled_psnr(layers, truths, filled) > 30


def test_noise_leaves_no_specks():
    layers, truths = scene()
    generator = np.random.default_rng(1)

    def noisy(z):
        return (z * (1 + 0.01 * generator.standard_normal(z.shape))).astype(np.float32)

    layers = [
        dataclasses.replace(layer, z_visible=noisy(layer.z_visible), z_background=noisy(layer.z_background)) for layer in layers
    ]
    filled = fill_from_views(layers)
    check_contract(layers, filled)
    assert sum(answer.unseen_mask.sum() for answer in filled) < 0.03 * sum(layer.region.sum() for layer in layers)
    assert filled_psnr(layers, truths, filled) > 27


def test_exposure_is_matched():
    layers, truths = scene()
    for number in (0, 2, 4):
        layers[number].image[:] = np.clip(layers[number].image * 0.85, 0, 255).astype(np.uint8)
        truths[number] = truths[number] * 0.85
    matched = filled_psnr(layers, truths, fill_from_views(layers))
    as_is = filled_psnr(layers, truths, fill_from_views(layers, match_exposure=False))
    assert matched > 32 and matched > as_is + 6


def test_the_object_is_never_copied():
    layers, _ = scene()
    for answer, layer in zip(fill_from_views(layers), layers):
        done = layer.region & ~answer.unseen_mask
        red = (answer.image[..., 0].astype(int) - answer.image[..., 1] > 200) & (answer.image[..., 2] < 20)
        assert not (red & done).any()


def test_order_progress_and_sources():
    layers, _ = scene()
    calls = []
    filled = fill_from_views(layers, progress=calls.append)
    assert calls == list(range(len(layers)))
    for answer, again in zip(filled, fill_from_views(layers[::-1])[::-1]):
        np.testing.assert_array_equal(answer.unseen_mask, again.unseen_mask)
    few = fill_from_views(layers, max_sources=1)
    assert sum(a.unseen_mask.sum() for a in few) > sum(a.unseen_mask.sum() for a in filled)


def test_one_photo_no_hole_and_bad_shapes():
    (layer,), _ = scene((0.0,))
    (alone,) = fill_from_views([layer])
    np.testing.assert_array_equal(alone.unseen_mask, layer.region)
    assert fill_from_views([]) == []
    layers, _ = scene()
    layers[1] = dataclasses.replace(layers[1], region=np.zeros_like(layers[1].region))
    assert not fill_from_views(layers)[1].unseen_mask.any()
    layers[2] = dataclasses.replace(layers[2], z_visible=layers[2].z_visible[1:])
    with pytest.raises(SpinnerfError, match=r"photo_\+0.00: z_visible is 80x59, .* 80x60"):
        fill_from_views(layers)
