"""Gaussian splats: what they are here, their .ply file, and a small rasteriser for a CPU.

The file is 3D Gaussian splatting's (Kerbl et al. 2023), as its viewers and gsplat take it: positions, unused normals, colour as
the constant of spherical harmonics, opacity before the sigmoid, scales before the exponential, quaternions w x y z.

The rasteriser is EWA splatting (Zwicker et al. 2001) as in 3DGS and gsplat's classic mode: a Gaussian's covariance is projected
by the Jacobian at its mean, widened by 0.3 square pixels, and blended front to back in the order of the means' depths. It
returns the blending weights of Gaussians in pixels, in which a picture is linear: colours are fitted with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from spinnerf_ns.files import write_ply_table
from spinnerf_ns.scene.view import View

Array = npt.NDArray[np.float32]

SH_CONSTANT = 0.28209479177387814
"""Of the first spherical harmonic: colour = 0.5 + SH_CONSTANT * f_dc."""

WIDENING = 0.3
"""Square pixels added to a projected covariance; 3DGS's and gsplat's."""

LEAST_ALPHA = 1 / 255
MOST_ALPHA = 0.99
LEAST_WEIGHT = 1e-4
"""3DGS's own limits; a weight below the last is left out."""

PAIRS = 1 << 22
"""Pairs of a Gaussian and a pixel at a time."""

MOST_RADIUS = 256
"""Pixels: a Gaussian that is larger in a photo, right before the camera, is cut off there."""


@dataclass(frozen=True)
class Splats:
    """Gaussians, source frame or another that is said."""

    means: Array
    """(N, 3)."""
    scales: Array
    """(N, 3) standard deviations along the Gaussian's own axes."""
    quaternions: Array
    """(N, 4) w, x, y, z, unit: from its own axes to the world's."""
    opacities: Array
    """(N,) in (0, 1)."""
    colors: Array
    """(N, 3) in [0, 1], the same from all sides."""

    def __len__(self) -> int:
        return len(self.means)


def write_splats(path: Path, splats: Splats, sh_degree: int = 0) -> None:
    """Writes splats as 3DGS's .ply, atomically.

    Args:
        path: the file.
        splats: the Gaussians; their colours are the same from all sides.
        sh_degree: of the spherical harmonics that the file has room for. Most viewers take a file of degree 0; 3DGS's own reader
            and viewer want degree 3, whose 45 columns are zeros then.
    """
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    names += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    columns = [
        splats.means,
        np.zeros_like(splats.means),
        (splats.colors - 0.5) / SH_CONSTANT,
        np.log(splats.opacities / (1 - splats.opacities))[:, None],
        np.log(splats.scales),
        splats.quaternions,
    ]
    rest = 3 * ((sh_degree + 1) ** 2 - 1)
    names[9:9] = [f"f_rest_{index}" for index in range(rest)]
    columns.insert(3, np.zeros((len(splats), rest), np.float32))
    table = np.concatenate(columns, axis=1).astype("<f4")
    write_ply_table(path, np.ascontiguousarray(table).view([(name, "<f4") for name in names])[:, 0])


def moved(splats: Splats, scale: float, rotation: npt.NDArray[np.float64], shift: npt.NDArray[np.float64]) -> Splats:
    """Splats in another frame: point -> scale * rotation @ point + shift."""
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_matrix(rotation) * Rotation.from_quat(splats.quaternions[:, [1, 2, 3, 0]])
    return Splats(
        (scale * splats.means @ rotation.T + shift).astype(np.float32),
        (scale * splats.scales).astype(np.float32),
        turn.as_quat()[:, [3, 0, 1, 2]].astype(np.float32),
        splats.opacities,
        splats.colors,
    )


def covariance_roots(splats: Splats) -> Array:
    """(N, 3, 3) R S, whose product with its transpose is a Gaussian's covariance."""
    w, x, y, z = splats.quaternions.T
    rotation = np.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ],
        axis=1,
    ).reshape(-1, 3, 3)
    return (rotation * splats.scales[:, None, :]).astype(np.float32)


# -------------------------------------------------------------------------------------------------------------- rasteriser
def blending_weights(splats: Splats, view: View) -> sparse.csr_matrix:
    """How much each Gaussian adds to each pixel.

    Args:
        splats: in the frame of `view.c2w`.
        view: a camera without distortion.

    Returns:
        (H * W, N) sparse, float32: a picture's pixels are this times the Gaussians' colours, over black.
    """
    projected = _Projected.of(splats, view)
    pixels, which, alphas = (np.concatenate(parts) for parts in zip(*projected.pairs(), strict=True))
    # Front to back within each pixel: `projected` is sorted by depth.
    order = np.argsort(pixels * len(projected.depth_order) + which, kind="stable")
    pixels, which, alphas = pixels[order], which[order], alphas[order]
    passed = np.cumsum(np.log1p(-alphas.astype(np.float64)))
    before = passed - np.log1p(-alphas.astype(np.float64))
    first = np.searchsorted(pixels, np.arange(view.width * view.height + 1))
    start = np.repeat(np.append(before, 0.0)[first[:-1]], np.diff(first))
    weights = (alphas * np.exp(before - start)).astype(np.float32)
    kept = weights > LEAST_WEIGHT
    pointers = np.concatenate([[0], np.cumsum(kept)])[first]
    columns = projected.depth_order[which[kept]].astype(np.int32)
    return sparse.csr_matrix((weights[kept], columns, pointers), shape=(view.width * view.height, len(splats)))


def render_splats(splats: Splats, view: View) -> Array:
    """(H, W, 3) what a camera without distortion sees of the splats, over black."""
    return (blending_weights(splats, view) @ splats.colors).reshape(view.height, view.width, 3)


@dataclass
class _Projected:
    """The Gaussians that a photo may show, front to back."""

    view: View
    depth_order: npt.NDArray[np.int64]
    """(M,) their numbers."""
    xy: Array
    """(M, 2) pixels."""
    conic: Array
    """(M, 3) the inverse covariance: xx, xy, yy."""
    opacity: Array
    radius: npt.NDArray[np.int64]
    """(M,) pixels beyond which nothing is left."""

    @classmethod
    def of(cls, splats: Splats, view: View) -> _Projected:
        world_to_camera = (view.c2w[:, :3] * [1.0, -1.0, -1.0]).T.astype(np.float32)
        x, y, z = ((splats.means - view.c2w[:, 3].astype(np.float32)) @ world_to_camera.T).T
        before = np.flatnonzero(z > 1e-6 * max(1e-6, float(np.abs(z).max(initial=0))))
        before = before[np.argsort(z[before], kind="stable")]
        x, y, z = x[before], y[before], z[before]
        # The Jacobian is taken within 1.3 times the field of view, as 3DGS does: far outside it means nothing.
        limit_x, limit_y = 1.3 * 0.5 * view.width / view.fx, 1.3 * 0.5 * view.height / view.fy
        u, v = np.clip(x / z, -limit_x, limit_x), np.clip(y / z, -limit_y, limit_y)
        roots = np.matmul(world_to_camera, covariance_roots(splats)[before])
        fx, fy = np.float32(view.fx), np.float32(view.fy)
        rows = [fx * (roots[:, 0] - u[:, None] * roots[:, 2]), fy * (roots[:, 1] - v[:, None] * roots[:, 2])]
        row_x, row_y = rows[0] / z[:, None], rows[1] / z[:, None]
        xx, yy = (row_x**2).sum(axis=1) + WIDENING, (row_y**2).sum(axis=1) + WIDENING
        xy = (row_x * row_y).sum(axis=1)
        determinant = xx * yy - xy * xy
        middle = 0.5 * (xx + yy)
        largest = middle + np.sqrt(np.maximum(middle * middle - determinant, 0))
        opacity = splats.opacities[before]
        reach = np.sqrt(2 * np.log(np.maximum(opacity / LEAST_ALPHA, 1)) * largest)
        radius = np.minimum(np.ceil(np.minimum(reach, MOST_RADIUS)), MOST_RADIUS).astype(np.int64)
        place = np.stack([fx * x / z + view.cx, fy * y / z + view.cy], axis=1).astype(np.float32)
        shown = (determinant > 0) & (place > -radius[:, None]).all(axis=1)
        shown &= (place[:, 0] < view.width + radius) & (place[:, 1] < view.height + radius) & (opacity > LEAST_ALPHA)
        conic = np.stack([yy, -xy, xx], axis=1)[shown] / determinant[shown, None]
        return cls(view, before[shown], place[shown], conic, opacity[shown], radius[shown])

    def pairs(self) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array]]:
        """Pixels, Gaussians (in this order) and opacities there, in parts."""
        yield np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
        for radius in np.unique(self.radius):
            members = np.flatnonzero(self.radius == radius)
            down, right = np.mgrid[-radius : radius + 1, -radius : radius + 1]
            offsets = np.stack([right, down], axis=-1).reshape(-1, 2)
            step = max(1, PAIRS // len(offsets))
            for begin in range(0, len(members), step):
                yield self._part(members[begin : begin + step], offsets)

    def _part(self, members: npt.NDArray, offsets: npt.NDArray) -> tuple[npt.NDArray, npt.NDArray, Array]:
        columns, rows = (np.floor(self.xy[members])[:, None, :] + offsets).astype(np.int64).transpose(2, 0, 1)
        dx = (columns + 0.5).astype(np.float32) - self.xy[members, 0:1]
        dy = (rows + 0.5).astype(np.float32) - self.xy[members, 1:2]
        a, b, c = self.conic[members].T[:, :, None]
        alpha = self.opacity[members, None] * np.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
        kept = (alpha >= LEAST_ALPHA) & (columns >= 0) & (rows >= 0) & (columns < self.view.width) & (rows < self.view.height)
        which = np.broadcast_to(members[:, None], kept.shape)[kept]
        pixels = rows[kept] * self.view.width + columns[kept]
        return pixels, which, np.minimum(alpha[kept], MOST_ALPHA).astype(np.float32)
