"""Splats of exact pictures and depth: the file as others read it, and pictures by a slow rasteriser of the tests' own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spinnerf_ns.evaluation.truth.twin import TwinConfig, write_twin
from spinnerf_ns.files import read_image
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.splat_fusion import Shot, fitted, fused
from spinnerf_ns.scene.splats import Splats, covariance_roots, moved, render_splats, write_splats
from spinnerf_ns.scene.view import View


def slow_render(splats: dict[str, np.ndarray], view: View) -> np.ndarray:
    """(H, W, 3): EWA splatting as 3DGS defines it, Gaussian after Gaussian, from the numbers of its file."""
    scales, opacities = np.exp(splats["scales"].astype(float)), 1 / (1 + np.exp(-splats["opacities"].astype(float)))
    colors = 0.5 + 0.28209479177387814 * splats["f_dc"]
    rotation = Rotation.from_quat(splats["rotations"][:, [1, 2, 3, 0]]).as_matrix()
    world_to_camera = (view.c2w[:, :3] @ np.diag([1, -1, -1])).T
    camera = (splats["means"] - view.c2w[:, 3]) @ world_to_camera.T
    image, through = np.zeros((view.height, view.width, 3)), np.ones((view.height, view.width))
    for i in np.argsort(camera[:, 2], kind="stable"):
        x, y, z = camera[i]
        if z <= 0:
            continue
        half = 1.3 * 0.5 * np.array([view.width / view.fx, view.height / view.fy])
        u, v = np.clip([x / z, y / z], -half, half)
        jacobian = np.array([[view.fx / z, 0, -view.fx * u / z], [0, view.fy / z, -view.fy * v / z]])
        root = jacobian @ world_to_camera @ rotation[i] @ np.diag(scales[i])
        covariance = root @ root.T + 0.3 * np.eye(2)
        reach = 3.5 * np.sqrt(np.linalg.eigvalsh(covariance)[-1])
        center = np.array([view.fx * x / z + view.cx, view.fy * y / z + view.cy])
        low = np.maximum(np.floor(center - reach).astype(int), 0)
        high = np.minimum(np.ceil(center + reach).astype(int) + 1, [view.width, view.height])
        if (low >= high).any():
            continue
        rows, columns = np.mgrid[low[1] : high[1], low[0] : high[0]]
        off = np.stack([columns + 0.5 - center[0], rows + 0.5 - center[1]], axis=-1)
        alpha = opacities[i] * np.exp(-0.5 * np.einsum("...i,ij,...j", off, np.linalg.inv(covariance), off))
        alpha = np.where(alpha < 1 / 255, 0, np.minimum(alpha, 0.99))
        part = slice(low[1], high[1]), slice(low[0], high[0])
        image[part] += (through[part] * alpha)[..., None] * colors[i]
        through[part] *= 1 - alpha
    return image


def of_file(path) -> dict[str, np.ndarray]:
    """A .ply's numbers as plyfile reads them, under 3DGS's names."""
    plyfile = pytest.importorskip("plyfile")
    vertex = plyfile.PlyData.read(str(path))["vertex"]
    column = lambda *names: np.stack([np.asarray(vertex[name]) for name in names], axis=1)  # noqa: E731
    return {
        "means": column("x", "y", "z"),
        "f_dc": column("f_dc_0", "f_dc_1", "f_dc_2"),
        "opacities": np.asarray(vertex["opacity"]),
        "scales": column("scale_0", "scale_1", "scale_2"),
        "rotations": column("rot_0", "rot_1", "rot_2", "rot_3"),
    }


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((np.clip(found, 0, 1) - expected) ** 2)))


@pytest.fixture(scope="module")
def twin(tmp_path_factory) -> tuple[list[Shot], list[Shot]]:
    """Pictures and depth of a twin without its object: from training cameras, and from others."""
    scene = write_twin(tmp_path_factory.mktemp("twin") / "twin", TwinConfig(width=80, height=60, num_train=8, num_test=2))
    capture, truth = load_capture(scene.root), scene.root / "truth"

    def shot(view: View) -> Shot:
        image = read_image(truth / f"images/{view.photo}.png").astype(np.float32) / 255
        return Shot(replace(view, camera_model="PINHOLE"), image, np.load(truth / f"depths/{view.photo}.npy"))

    return [shot(view) for view in capture.split("train")], [shot(view) for view in capture.split("test")]


@pytest.fixture(scope="module")
def splats(twin) -> Splats:
    return fitted(fused(twin[0]), twin[0])


def test_splats_show_what_the_pictures_show(twin, splats, tmp_path):
    """From a camera that no picture was taken from, by the slow rasteriser, out of the file."""
    training, others = twin
    write_splats(tmp_path / "splat.ply", splats)
    found = of_file(tmp_path / "splat.ply")
    assert len(found["means"]) == len(splats) < 0.8 * sum(shot.z.size for shot in training)
    slow = slow_render(found, others[0].view)
    assert psnr(slow, others[0].image) > 28
    np.testing.assert_allclose(render_splats(splats, others[0].view), slow, atol=0.02)
    assert psnr(render_splats(splats, others[0].view), slow) > 55
    assert np.mean([psnr(render_splats(splats, shot.view), shot.image) for shot in others]) > 28


def test_colours_are_fitted(twin, splats):
    training, others = twin
    before = fused(training)
    gains = [psnr(render_splats(splats, s.view), s.image) - psnr(render_splats(before, s.view), s.image) for s in others]
    assert min(gains) > 2


def test_gaussians_lie_flat_on_the_surface(splats):
    """The room's floor is z = 0, its walls are x = 0 and y = 0."""
    normals = covariance_roots(splats)[:, :, 2]
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    for axis in range(3):
        on = np.abs(splats.means[:, axis]) < 1e-3
        assert on.sum() > 100 and np.median(np.abs(normals[on, axis])) > 0.99


def test_points_that_hang_in_the_air_are_left_out(twin):
    """A field's depth at an edge lies between its two sides: here a picture's patch is far too near."""
    training, _ = twin
    z = training[3].z.copy()
    z[20:30, 30:40] *= 0.8
    wrong = [*training[:3], replace(training[3], z=z), *training[4:]]
    good, found = fused(training), fused(wrong)
    low, high = good.means.min(axis=0) - 0.05, good.means.max(axis=0) + 0.05
    assert abs(len(found) - len(good)) < 60 and ((found.means > low) & (found.means < high)).all()


def test_room_for_harmonics_as_3dgs_own_reader_wants_it(splats, tmp_path):
    """Its load_ply asserts 45 columns; viewers that know of degree 0 find the same Gaussians in both."""
    plyfile = pytest.importorskip("plyfile")
    for degree, count in ((0, 0), (3, 45)):
        write_splats(tmp_path / f"{degree}.ply", splats, degree)
        vertex = plyfile.PlyData.read(str(tmp_path / f"{degree}.ply"))["vertex"]
        names = [each.name for each in vertex.properties]
        rest = [name for name in names if name.startswith("f_rest_")]
        assert rest == [f"f_rest_{index}" for index in range(count)] and not any(vertex[name].any() for name in rest)
        order = ["f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity"]
        assert names[6 : 6 + len(order)] == order
    found, expected = of_file(tmp_path / "3.ply"), of_file(tmp_path / "0.ply")
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_other_readers_take_the_file(splats, tmp_path):
    gsply = pytest.importorskip("gsply")
    write_splats(tmp_path / "splat.ply", splats)
    data = gsply.plyread(str(tmp_path / "splat.ply"))
    np.testing.assert_allclose(data.means, splats.means, atol=1e-6)
    np.testing.assert_allclose(np.exp(data.scales), splats.scales, rtol=1e-4)
    np.testing.assert_allclose(data.quats, splats.quaternions, atol=1e-5)


def test_splats_in_another_frame_look_the_same(splats, twin):
    view = twin[1][0].view
    rotation, shift = Rotation.from_euler("xyz", [0.3, -1.0, 2.0]).as_matrix(), np.array([1.0, -2.0, 0.5])
    pose = np.concatenate([rotation @ view.c2w[:, :3], (3 * rotation @ view.c2w[:, 3] + shift)[:, None]], axis=1)
    found = render_splats(moved(splats, 3.0, rotation, shift), replace(view, c2w=pose))
    np.testing.assert_allclose(found, render_splats(splats, view), atol=0.02)
    assert psnr(found, render_splats(splats, view)) > 50


def test_nothing_before_the_camera_is_black(splats, twin):
    view = twin[0][0].view
    away = np.concatenate([view.c2w[:, :3] @ np.diag([-1.0, 1.0, -1.0]), view.c2w[:, 3:] + 100], axis=1)
    assert not render_splats(splats, replace(view, c2w=away)).any()
