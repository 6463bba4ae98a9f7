"""Disparity behind a removed object, continued from the gap's rim, in floats all the way. Pure functions.

Disparity (1 / planar depth) of a plane is affine in pixels, so planes are what a fill must continue exactly. The fill of a
gap is the sum of
  1. one plane, or the nearest or farthest of two or three planes (a floor meeting a wall), found on the rim by RANSAC;
  2. a thin plate under tension through what the planes leave over on the rim, with robust weights that are harder on what
     lies in front: where the mask was a little too small, the rim shows the object, and the background lies behind;
  3. a membrane that closes the last gap, so that the fill meets the rim without a step.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse

from spinnerf_ns.conventions import BoolMask, scale_pixels
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.removal.disparity.membrane import span_membrane

RIM_PER_1000 = 25.0
"""Width of the rim that is fitted, in pixels of a 1000-pixel-wide photo: wide beside a careless mask's error."""
MIN_RIM = 6
"""Least width of the rim in pixels."""
MAX_RIM_PIXELS = 6000
"""More rim pixels than that say nothing new; a fixed draw of them is fitted."""
NOISE_FLOOR = 0.002
"""Least standard deviation of disparity, as a fraction of the rim's median: rendered depth is no better than that."""
MAX_GRID = 40
"""Largest side of the plate's grid, in nodes."""
ROUNDS = 7
"""Rounds of robust weights."""
PLANE_COST = 0.04
"""What one more plane must explain to be taken, as a fraction of the rim."""
MIN_PLANE = 0.1
"""Smallest part of the rim that makes a plane."""

Points = npt.NDArray[np.float64]


def complete_disparity(
    disparity: npt.NDArray[np.floating], to_fill: BoolMask, trusted: BoolMask | None = None
) -> npt.NDArray[np.float32]:
    """Fills a gap in a disparity map with the background's surface. Deterministic.

    Args:
        disparity: (H, W), 1 / planar depth, any unit; 0 or not finite = unknown.
        to_fill: (H, W) bool, True = to be filled. What stands there does not matter.
        trusted: (H, W) bool, or None for everything: the pixels outside the gap that may be continued into it.

    Returns:
        (H, W) float32, positive inside the gap, identical to `disparity` outside it (unknown pixels stay unknown).

    Raises:
        SpinnerfError: the shapes differ, or there is a gap and not one known and trusted pixel around it.
    """
    for name, other in (("to_fill", to_fill), ("trusted", trusted)):
        if other is not None and (other.shape != disparity.shape or other.dtype != bool):
            raise SpinnerfError(
                f"complete_disparity: {name} is {other.dtype} {other.shape}, expected bool {disparity.shape}; "
                "make both at the photo's size"
            )
    completed = np.array(disparity, dtype=np.float32)
    if not to_fill.any():
        return completed
    known = ~to_fill & np.isfinite(disparity) & (disparity > 0)
    if trusted is not None:
        known &= trusted
    if not known.any():
        raise SpinnerfError(
            "complete_disparity: the gap leaves no pixel of known disparity to continue from; "
            "mend the object mask (it should be far smaller than the photo) or the depth"
        )
    rim_width = max(MIN_RIM, scale_pixels(RIM_PER_1000, to_fill.shape[1]))
    for window, piece, rim in _pieces(to_fill, known, rim_width):
        completed[window][piece] = _continue(disparity[window].astype(np.float64), piece, rim)
    return completed


def _pieces(to_fill: BoolMask, known: BoolMask, rim_width: int) -> Iterator[tuple[tuple[slice, slice], BoolMask, BoolMask]]:
    """The gap in parts that share no rim: window, the part's pixels in it, and the known pixels near the part."""
    square = np.ones((2 * rim_width + 1,) * 2, np.uint8)
    count, labels = cv2.connectedComponents(cv2.dilate(to_fill.astype(np.uint8), square))
    for label in range(1, count):
        piece = to_fill & (labels == label)
        rows, columns = np.flatnonzero(piece.any(axis=1)), np.flatnonzero(piece.any(axis=0))
        reach = rim_width
        while True:
            window = (
                slice(max(0, rows[0] - reach), min(to_fill.shape[0], rows[-1] + 1 + reach)),
                slice(max(0, columns[0] - reach), min(to_fill.shape[1], columns[-1] + 1 + reach)),
            )
            rim = known[window] & (cv2.distanceTransform((~piece[window]).astype(np.uint8), cv2.DIST_L2, 5) <= reach)
            if rim.sum() >= 4 * MIN_RIM or reach > sum(to_fill.shape):
                break
            reach *= 2  # the depth around the gap is unknown: look farther away
        yield window, piece[window], rim


def _continue(disparity: Points, piece: BoolMask, rim: BoolMask) -> npt.NDArray[np.float32]:
    """Values for the pixels of `piece`, in the order of its True pixels."""
    scale = float(np.median(disparity[rim]))
    disparity = np.where(rim, disparity, scale) / scale
    distance = cv2.distanceTransform((~piece).astype(np.uint8), cv2.DIST_L2, 5)
    unit = max(piece.shape)
    grid_y, grid_x = np.mgrid[: piece.shape[0], : piece.shape[1]] / unit
    design = np.stack([grid_x, grid_y, np.ones_like(grid_x)], axis=-1)

    chosen = np.flatnonzero(rim)
    if chosen.size > MAX_RIM_PIXELS:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, MAX_RIM_PIXELS, replace=False))
    target = disparity.ravel()[chosen]
    tolerance = 3 * max(NOISE_FLOOR, _noise(disparity, rim))
    base = _planes(design.reshape(-1, 3)[chosen], target, design[piece], tolerance)
    residual = disparity - base(design)

    # A careless mask leaves the object on the pixels next to the gap: these start with a say of their own, but a small one.
    nearness = (0.1 + 0.9 * np.minimum(distance / distance[rim].max(), 1)).ravel()[chosen]
    plate = _tension_plate(residual, chosen, nearness, tolerance / 3, float(distance[rim].max()))
    last = residual - plate
    believed = rim & (last < tolerance)
    values = base(design) + plate + _close_gap(last, believed & (distance < 2.5), believed)
    low, high = np.percentile(disparity[rim], [1, 99])
    return (np.clip(values[piece], 0.3 * low, 2.0 * high) * scale).astype(np.float32)


def _noise(disparity: Points, rim: BoolMask) -> float:
    """Standard deviation of the disparity's noise from pixel to pixel, from second differences inside the rim."""
    inner = cv2.erode(rim.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) > 0
    if inner.sum() < 16:
        return 0.0
    second = cv2.Laplacian(disparity, cv2.CV_64F)[inner]  # variance of the 4-neighbour Laplacian of white noise: 20
    # The lower quartile, because half of a narrow rim may lie on edges; that of |N(0, 1)| is 0.3186.
    return min(float(np.quantile(np.abs(second), 0.25) / 0.3186 / np.sqrt(20)), 25 * NOISE_FLOOR)


# ---------------------------------------------------------------------------------------------------------------- planes
def _planes(design: Points, target: Points, inside: Points, tolerance: float):
    """The plane, or the nearest or farthest of several planes, that explains most of the rim.

    Args:
        design: (N, 3) rows (x, y, 1) of the rim pixels; target: (N,) their disparities; inside: (M, 3) rows of the gap.

    Returns:
        function (..., 3) -> (...): the surface's disparity.
    """
    planes: list[Points] = []
    left = np.ones(target.size, bool)
    generator = np.random.default_rng(0)
    while len(planes) < 3 and left.sum() >= max(3, MIN_PLANE * target.size):
        plane, inliers = _best_plane(design[left], target[left], tolerance, generator)
        if planes and inliers.sum() < MIN_PLANE * target.size:
            break
        planes.append(plane)
        left[np.flatnonzero(left)[inliers]] = False
    if not planes:  # fewer than three pixels are known
        planes = [np.array([0.0, 0.0, np.median(target)])]

    low, high = 0.5 * target.min(), 1.5 * target.max()
    best = _Surface(planes[:1], np.max)
    best_cost = np.minimum(np.abs(target - best(design)) / tolerance, 1).mean()
    for count in range(2, len(planes) + 1):
        for combine in (np.max, np.min):  # a room's corner shows the nearest plane, a box's edge the farthest
            surface = _Surface(planes[:count], combine)
            across = surface(inside)
            cost = np.minimum(np.abs(target - surface(design)) / tolerance, 1).mean() + PLANE_COST * (count - 1)
            if cost < best_cost and across.min() > low and across.max() < high:
                best, best_cost = surface, cost
    return best


class _Surface:
    def __init__(self, planes: list[Points], combine) -> None:
        self.planes, self.combine = np.stack(planes), combine

    def __call__(self, design: Points) -> Points:
        return self.combine(design @ self.planes.T, axis=-1)


def _best_plane(design: Points, target: Points, tolerance: float, generator: np.random.Generator) -> tuple[Points, BoolMask]:
    """RANSAC, then least squares on the inliers. Returns the three coefficients and the (N,) inliers."""
    draws, size = 160, target.size
    some = generator.integers(0, size, min(size, 1500))
    triples = generator.integers(0, size, (draws, 3))
    # Half of the triples are neighbours: two planes that meet are seldom both hit by points from all around the gap.
    seeds, candidates = triples[::2, 0], generator.integers(0, size, (draws // 2, 24))
    apart = ((design[candidates] - design[seeds][:, None]) ** 2).sum(axis=-1)
    triples[::2, 1:] = np.take_along_axis(candidates, np.argsort(apart, axis=1)[:, [2, 5]], axis=1)
    corners = design[triples]
    flat = np.abs(np.linalg.det(corners)) > 1e-6
    if flat.any():
        models = np.linalg.solve(corners[flat], target[triples[flat]][..., None])[..., 0]
        models = np.concatenate([models, [[0.0, 0.0, np.median(target)]]])
    else:
        models = np.array([[0.0, 0.0, np.median(target)]])
    cost = np.minimum(np.abs(target[some] - models @ design[some].T) / tolerance, 1).mean(axis=1)
    plane = models[np.argmin(cost)]
    for _ in range(3):
        inliers = np.abs(target - design @ plane) < tolerance
        if inliers.sum() < 3 or np.linalg.matrix_rank(design[inliers], tol=1e-6) < 3:
            break
        plane = np.linalg.lstsq(design[inliers], target[inliers], rcond=None)[0]
    return plane, np.abs(target - design @ plane) < tolerance


# ----------------------------------------------------------------------------------------------------------------- plate
def _tension_plate(residual: Points, chosen: npt.NDArray, nearness: Points, noise: float, rim_width: float) -> Points:
    """A robust thin plate under tension through the residuals on the rim.

    Minimises  sum w (f - r)^2 + L^4 (int |D2 f|^2 + |D f|^2 / T^2)  on a coarse grid of nodes, where w are robust weights,
    L is the length along the rim that the plate follows, and beyond T it is rather a membrane, which cannot overshoot.

    Args:
        residual: (H, W); chosen: (N,) flat indices of the rim pixels to fit; nearness: (N,) first weights.

    Returns:
        (H, W) the plate at every pixel.
    """
    height, width = residual.shape
    target = residual.ravel()[chosen]
    if chosen.size < 3 or np.abs(target).max() < 1e-7:
        return np.zeros_like(residual)
    follow, tension = max(rim_width / 3, 2.0), 4 * rim_width
    step = max(follow / 2, max(height, width) / (MAX_GRID - 1))
    rows, columns = int(np.ceil((height - 1) / step)) + 2, int(np.ceil((width - 1) / step)) + 2
    rows_first = rows < columns  # the short side runs fastest: the band of the system is then narrow
    sample = _bilinear((chosen // width) / step, (chosen % width) / step, rows, columns, rows_first)

    stiffness = follow**4 / step**2 * _bending(rows, columns, rows_first)
    stiffness = stiffness + follow**4 / tension**2 * _stretching(rows, columns, rows_first)
    stiffness = stiffness + 1e-9 * sparse.eye(rows * columns)
    weights, spread = nearness, float(np.abs(target).max())
    for _ in range(ROUNDS):
        system = sample.T @ sparse.diags(weights) @ sample + stiffness
        nodes = _solve(system, sample.T @ (weights * target), min(rows, columns))
        apart = target - sample @ nodes
        # Graduated: all but the worst are believed at first, in the end only what the noise explains.
        spread = max(3 * noise, min(spread / 2, 3 * 1.4826 * float(np.median(np.abs(apart)))))
        front, behind = np.maximum(apart, 0) / spread, np.maximum(-apart, 0) / spread
        weights = 1 / (1 + front**2) ** 2 / np.maximum(behind, 1)
    sheet = nodes.reshape((columns, rows) if rows_first else (rows, columns))
    sheet = sheet.T if rows_first else sheet
    map_x, map_y = np.meshgrid(np.arange(width) / step, np.arange(height) / step)
    return _interpolate(sheet, map_y, map_x)


def _index(row: npt.NDArray, column: npt.NDArray, rows: int, columns: int, rows_first: bool) -> npt.NDArray:
    return column * rows + row if rows_first else row * columns + column


def _bilinear(y: Points, x: Points, rows: int, columns: int, rows_first: bool) -> sparse.csr_matrix:
    """(N, nodes) matrix that reads the sheet at (y, x) by bilinear interpolation, exact for what is affine."""
    row, column = np.floor(y).astype(int), np.floor(x).astype(int)
    part_y, part_x = y - row, x - column
    where, what = [], []
    for down, weight_y in ((0, 1 - part_y), (1, part_y)):
        for right, weight_x in ((0, 1 - part_x), (1, part_x)):
            where.append(_index(row + down, column + right, rows, columns, rows_first))
            what.append(weight_y * weight_x)
    lines = np.tile(np.arange(y.size), 4)
    return sparse.csr_matrix((np.concatenate(what), (lines, np.concatenate(where))), shape=(y.size, rows * columns))


def _interpolate(sheet: Points, y: Points, x: Points) -> Points:
    row, column = np.floor(y).astype(int), np.floor(x).astype(int)
    part_y, part_x = y - row, x - column
    top = sheet[row, column] * (1 - part_x) + sheet[row, column + 1] * part_x
    bottom = sheet[row + 1, column] * (1 - part_x) + sheet[row + 1, column + 1] * part_x
    return top * (1 - part_y) + bottom * part_y


def _differences(size: int, order: int) -> sparse.csr_matrix:
    stencil = {1: [-1.0, 1.0], 2: [1.0, -2.0, 1.0]}[order]
    count = max(size - order, 0)
    return sparse.diags(stencil, range(order + 1), shape=(count, size), format="csr")


def _bending(rows: int, columns: int, rows_first: bool) -> sparse.csr_matrix:
    """Sum of f_xx^2 + 2 f_xy^2 + f_yy^2 in steps of the grid, as a matrix; what is affine costs nothing, border or not."""
    slow, fast = (columns, rows) if rows_first else (rows, columns)
    terms = (
        sparse.kron(_differences(slow, 2), sparse.eye(fast)),
        np.sqrt(2) * sparse.kron(_differences(slow, 1), _differences(fast, 1)),
        sparse.kron(sparse.eye(slow), _differences(fast, 2)),
    )
    return sum(term.T @ term for term in terms)


def _stretching(rows: int, columns: int, rows_first: bool) -> sparse.csr_matrix:
    """Sum of f_x^2 + f_y^2 in steps of the grid, as a matrix."""
    slow, fast = (columns, rows) if rows_first else (rows, columns)
    terms = (sparse.kron(_differences(slow, 1), sparse.eye(fast)), sparse.kron(sparse.eye(slow), _differences(fast, 1)))
    return sum(term.T @ term for term in terms)


def _solve(matrix: sparse.spmatrix, right: Points, narrow: int) -> Points:
    """Banded Cholesky: the system is symmetric, positive, and its band is two lines of the grid wide."""
    matrix = matrix.tocoo()
    upper = matrix.col >= matrix.row
    band = np.zeros((2 * narrow + 3, right.size))
    np.add.at(band, (2 * narrow + 2 + matrix.row[upper] - matrix.col[upper], matrix.col[upper]), matrix.data[upper])
    return linalg.solveh_banded(band, right, overwrite_ab=True, check_finite=False)


def _close_gap(last: Points, ring: BoolMask, believed: BoolMask) -> Points:
    """A membrane over what is left on the gap's edge, smoothed along the rim so that one pixel's noise makes no streak."""
    if not ring.any():
        return np.zeros_like(last)
    weight = cv2.GaussianBlur(believed.astype(np.float64), (0, 0), 1.0)
    smooth = cv2.GaussianBlur(np.where(believed, last, 0), (0, 0), 1.0) / np.maximum(weight, 1e-6)
    return span_membrane(smooth, ring)
