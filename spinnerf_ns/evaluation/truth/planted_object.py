"""The object that is planted: a bumpy, patterned solid that stands on a plane, ray-traced in numpy.

The solid's own frame: the origin where it stands, z along the surface's normal, lengths in parts of its nominal height.
Ray directions have length 1 along the optical axis (`scene.cameras.ray_directions`), so that the ray parameter is z-depth.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spinnerf_ns.conventions import Image
from spinnerf_ns.scene.cameras import project, ray_directions
from spinnerf_ns.scene.view import View

Floats = NDArray[np.float64]

CENTER = np.array([0.0, 0.0, 0.33])
SEMI_AXES = np.array([0.38, 0.38, 0.60])
"""Of the ellipsoid under the bumps. It reaches below the ground, where it is cut off, so that it stands on a broad foot."""
FOOT_RADIUS = 0.32
"""Of the disc on which it stands, bumps left out."""
BUMP_HEIGHT = 0.30
"""Largest part by which bumps lift or press in the ellipsoid's surface."""
MARCH_STEPS = 40
BISECTIONS = 9
SHADOW_REACH = 0.16
"""Distance from the foot at which the contact shadow has fallen to 1/e."""
SHADOW_DEPTH = 0.5
"""Part of the light that the contact shadow takes at the foot."""


@dataclass(frozen=True)
class Waves:
    """A smooth random function of space: a sum of sine waves in [-1, 1]."""

    vectors: Floats
    """(K, 3) radians per unit length."""
    phases: Floats
    """(K,)."""
    amplitudes: Floats
    """(K,) with sum 1."""

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int, low: float, high: float) -> Waves:
        """Waves of random directions, with wave numbers between `low` and `high`; the longer are the stronger."""
        directions = rng.normal(size=(count, 3))
        numbers = rng.uniform(low, high, count)
        vectors = directions / np.linalg.norm(directions, axis=1, keepdims=True) * numbers[:, None]
        return cls(vectors, rng.uniform(0, 2 * np.pi, count), (1 / numbers) / (1 / numbers).sum())

    def __call__(self, points: Floats) -> Floats:
        """(N, 3) -> (N,)."""
        return np.sin(points @ self.vectors.T + self.phases) @ self.amplitudes


@dataclass(frozen=True)
class Solid:
    """The object, standing in a scene."""

    position: Floats
    """(3,) where its foot stands, in the world."""
    axes: Floats
    """(3, 3) columns: its x, y and z (up) in the world; a rotation."""
    height: float
    """Nominal height, world units."""
    bumps: Waves
    pattern: Waves
    grain: Waves
    palette: Floats
    """(3, 3) rows: linear albedos."""
    light: Floats
    """(3,) unit vector to the lamp, in the solid's frame."""

    @classmethod
    def draw(cls, rng: np.random.Generator, position: Floats, axes: Floats, height: float) -> Solid:
        """A solid of random bumps, pattern and colours; the lamp is up and before it (its -y faces the cameras)."""
        hue = rng.random()
        hues = [(hue + shift) % 1.0 for shift in (0.0, 0.09, 0.5)]
        saturations, values = (0.70, 0.55, 0.40), (0.55, 0.85, 0.85)
        colors = [colorsys.hsv_to_rgb(*each) for each in zip(hues, saturations, values, strict=True)]
        azimuth = rng.uniform(-0.9, 0.9)
        light = np.array([np.sin(azimuth), -np.cos(azimuth), 1.3])
        return cls(
            position, axes, height,
            bumps=Waves.draw(rng, 7, 3.0, 7.0),
            pattern=Waves.draw(rng, 8, 8.0, 20.0),
            grain=Waves.draw(rng, 24, 30.0, 80.0),
            palette=np.array(colors) ** 2.2,
            light=light / np.linalg.norm(light),
        )  # fmt: skip

    def moved(self, position: Floats, axes: Floats, height: float) -> Solid:
        """The same solid elsewhere."""
        return replace(self, position=position, axes=axes, height=height)

    def to_local(self, points: Floats) -> Floats:
        """World points (N, 3) in the solid's frame."""
        return (points - self.position) @ self.axes / self.height

    def to_world(self, local: Floats) -> Floats:
        """The inverse of `to_local`."""
        return self.position + self.height * local @ self.axes.T

    def outside(self, local: Floats) -> Floats:
        """(N,) negative inside the solid, positive outside; the ground is not looked at."""
        scaled = (local - CENTER) / SEMI_AXES
        radius = np.linalg.norm(scaled, axis=1)
        directions = scaled / np.maximum(radius, 1e-9)[:, None]
        return radius - 1 - BUMP_HEIGHT * self.bumps(directions)

    def contains(self, points: Floats) -> NDArray[np.bool_]:
        """(N,) whether world points (N, 3) lie in the solid."""
        local = self.to_local(points)
        return (local[:, 2] > 0) & (self.outside(local) < 0)

    def hits(self, origin: Floats, directions: Floats) -> Floats:
        """First z-depth (N,) at which rays from `origin` (3,) along `directions` (N, 3) meet the solid; inf for none."""
        start = self.to_local(origin[None])[0]
        along = directions @ self.axes / self.height
        near, far = self._interval(start, along)
        found = np.full(len(along), np.inf)
        rays = np.flatnonzero(near < far)
        if not rays.size:
            return found
        near, far, along = near[rays], far[rays], along[rays]
        step = (far - near) / MARCH_STEPS
        before = near.copy()
        after = near.copy()
        open_ = self.outside(start + near[:, None] * along) > 0  # false: the ray comes in through the foot
        met = ~open_
        for index in range(1, MARCH_STEPS + 1):
            going = np.flatnonzero(open_)
            if not going.size:
                break
            t = near[going] + index * step[going]
            inside = self.outside(start + t[:, None] * along[going]) < 0
            after[going] = t
            before[going[~inside]] = t[~inside]
            open_[going[inside]] = False
            met[going[inside]] = True
        for _ in range(BISECTIONS):
            middle = (before + after) / 2
            inside = self.outside(start + middle[:, None] * along) < 0
            after, before = np.where(inside, middle, after), np.where(inside, before, middle)
        found[rays[met]] = after[met]
        return found

    def _interval(self, start: Floats, along: Floats) -> tuple[Floats, Floats]:
        """Between which depths (N,) each ray is above the ground and within reach of the bumps; near > far: never."""
        o, d = (start - CENTER) / SEMI_AXES, along / SEMI_AXES
        a, b, c = (d * d).sum(axis=1), d @ o, o @ o - (1 + BUMP_HEIGHT) ** 2
        root = np.sqrt(np.maximum(b * b - a * c, 0))
        near, far = (-b - root) / a, np.where(b * b > a * c, (-b + root) / a, -np.inf)
        sinking = along[:, 2]
        ground = -start[2] / np.where(np.abs(sinking) < 1e-12, 1e-12, sinking)
        if start[2] > 0:  # from above the ground: until it is reached
            far = np.where(sinking < 0, np.minimum(far, ground), far)
        else:
            near = np.where(sinking > 0, np.maximum(near, ground), np.inf)
        return np.maximum(near, 1e-6), far

    def shade(self, points: Floats) -> Floats:
        """Linear light (N, 3) that leaves the solid's surface at world points (N, 3), a white wall in full light being 1."""
        local = self.to_local(points)
        eps = 2e-3
        offsets = np.eye(3) * eps
        normals = np.stack([self.outside(local + o) - self.outside(local - o) for o in offsets], axis=1)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        # Soft shading: half of the light comes from all sides, and less of it reaches the foot and the hollows.
        lamp = np.clip(0.1 + 0.9 * (normals @ self.light), 0, None)
        around = (0.75 + 0.25 * normals[:, 2]) * (1 - 0.6 * np.exp(-local[:, 2] / 0.08))
        hollows = 1 + 0.5 * self.bumps(_unit((local - CENTER) / SEMI_AXES))
        stripes = 0.5 + 0.5 * np.sin(2 * np.pi * (4.0 * local[:, 2] + 0.8 * self.pattern(local)))
        first = _smoothstep(stripes, 0.42, 0.58)[:, None]
        patches = _smoothstep(self.pattern(local[:, ::-1] + 3.0), 0.12, 0.22)[:, None]
        albedo = self.palette[0] * (1 - first) + self.palette[1] * first
        albedo = albedo * (1 - patches) + self.palette[2] * patches
        albedo = albedo * np.clip(1 + 0.6 * self.grain(local), 0.3, 1.7)[:, None]
        return albedo * ((0.75 * lamp + 0.35 * around) * hollows)[:, None]


@dataclass(frozen=True)
class Rendering:
    """A solid as one view shows it, nothing being before it. Arrays cover the box of pixels it lies in."""

    rows: slice
    columns: slice
    coverage: NDArray[np.float32]
    """(h, w) the part of each pixel that shows it."""
    light: NDArray[np.float32]
    """(h, w, 3) linear light of that part, multiplied by coverage."""
    z: NDArray[np.float64]
    """(h, w) planar depth at the pixels' centres; inf where the centre misses it."""


def render_solid(solid: Solid, view: View, supersampling: int) -> Rendering | None:
    """Ray-traces the solid with `supersampling` squared rays a pixel; None where the view does not show it."""
    box = _pixel_box(solid, view)
    if box is None:
        return None
    left, top, right, bottom = box
    x, y = np.meshgrid(np.arange(left, right), np.arange(top, bottom))
    corner = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)
    shape = y.shape
    origin = view.c2w[:, 3]
    coverage, light, centers = np.zeros(len(corner)), np.zeros((len(corner), 3)), np.zeros(len(corner))
    for index in range(supersampling**2):
        offset = (np.array(divmod(index, supersampling)) + 0.5) / supersampling
        directions = ray_directions(view, corner + offset)
        z = solid.hits(origin, directions)
        centers = z if index == supersampling**2 // 2 else centers
        met = np.flatnonzero(np.isfinite(z))
        coverage[met] += 1
        light[met] += solid.shade(origin + z[met, None] * directions[met])
    if supersampling % 2 == 0:  # an odd number has the centre among its rays
        centers = solid.hits(origin, ray_directions(view, corner + 0.5))
    if not coverage.any():
        return None
    scale = 1 / supersampling**2
    return Rendering(
        slice(top, bottom), slice(left, right),
        (coverage * scale).reshape(shape).astype(np.float32),
        (light * scale).reshape(*shape, 3).astype(np.float32),
        centers.reshape(shape),
    )  # fmt: skip


def shadow_light(solid: Solid, view: View) -> NDArray[np.float32]:
    """(H, W) how much light the contact shadow leaves on the plane that the solid stands on; 1 away from it."""
    y, x = np.mgrid[: view.height, : view.width] + 0.5
    directions = ray_directions(view, np.stack([x.ravel(), y.ravel()], axis=1))
    start, along = solid.to_local(view.c2w[:, 3][None])[0], directions @ solid.axes / solid.height
    with np.errstate(divide="ignore", invalid="ignore"):
        t = -start[2] / along[:, 2]
        on_plane = start[:2] + t[:, None] * along[:, :2]
    # The lamp's side is lighter: the shadow's centre lies a little away from it.
    away = on_plane + 0.25 * FOOT_RADIUS * solid.light[:2]
    distance = np.maximum(np.linalg.norm(away, axis=1) - FOOT_RADIUS, 0)
    dark = SHADOW_DEPTH * np.exp(-((distance / SHADOW_REACH) ** 2))
    dark = np.where((t > 0) & (dark > 0.004), dark, 0)  # below half a grey level nothing is changed
    return (1 - dark).reshape(view.height, view.width).astype(np.float32)


def composed(
    photo: Image,
    rendering: Rendering,
    front: NDArray[np.float32],
    brightness: float,
    shadow: NDArray[np.float32] | None,
) -> Image:
    """The photo with the object; its bytes stay where neither the object nor its shadow reaches.

    Args:
        photo: (H, W, 3) sRGB.
        rendering: the object as the photo's camera shows it.
        front: (h, w) in [0, 1] how much something else lies before it, in the rendering's box.
        brightness: linear light of a white wall there.
        shadow: (H, W) the part of the light that the object leaves, or None.
    """
    light = linear(photo)
    changed = np.zeros(photo.shape[:2], dtype=bool)
    open_ = 1 - front
    if shadow is not None:
        shadow = shadow.copy()
        box = shadow[rendering.rows, rendering.columns]
        box[...] = 1 - (1 - box) * open_  # what stands before the object is not shaded by it
        light *= shadow[..., None]
        changed |= shadow < 1
    coverage = rendering.coverage * open_
    there = light[rendering.rows, rendering.columns]
    there[...] = there * (1 - coverage[..., None]) + rendering.light * (open_ * brightness)[..., None]
    changed[rendering.rows, rendering.columns] |= coverage > 0
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.clip(light, 1e-9, 1) ** (1 / 2.4) - 0.055)
    return np.where(changed[..., None], np.floor(encoded * 255 + 0.5).astype(np.uint8), photo)


def linear(srgb: NDArray) -> NDArray[np.float32]:
    """sRGB in [0, 255] -> linear light in [0, 1], any shape."""
    encoded = np.asarray(srgb, np.float32) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4).astype(np.float32)


def hull_points(position: Floats, axes: Floats, height: float) -> Floats:
    """(N, 3) world points whose convex hull is a solid's there, bumps left out."""
    points = [np.array([0, 0, CENTER[2] + SEMI_AXES[2]])]
    for z in (0.0, 0.2, 0.4, 0.6, 0.8):
        radius = SEMI_AXES[0] * np.sqrt(1 - ((z - CENTER[2]) / SEMI_AXES[2]) ** 2)
        points += [np.array([radius * np.cos(a), radius * np.sin(a), z]) for a in np.arange(12) * (2 * np.pi / 12)]
    return position + height * np.array(points) @ axes.T


def _pixel_box(solid: Solid, view: View) -> tuple[int, int, int, int] | None:
    reach = (1 + BUMP_HEIGHT) * SEMI_AXES
    low, high = CENTER - reach, CENTER + reach
    low[2] = 0
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
    xy, z = project(view, solid.to_world(corners))
    if not (z > 0).any():
        return None
    if not np.isfinite(xy).all():  # partly behind the camera, or beyond where the lens model folds
        return 0, 0, view.width, view.height
    left, top = np.maximum(np.floor(xy.min(axis=0)).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(xy.max(axis=0)).astype(int) + 1, [view.width, view.height])
    return (int(left), int(top), int(right), int(bottom)) if left < right and top < bottom else None


def _unit(vectors: Floats) -> Floats:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _smoothstep(x: Floats, low: float, high: float) -> Floats:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
