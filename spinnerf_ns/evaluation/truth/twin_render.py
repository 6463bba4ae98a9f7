"""A small ray tracer in numpy: a textured room corner with and without one target object.

Everything here is exact where a truth has to be: surfaces are planes, turned boxes and pieces of quadrics of
revolution, met by each ray in closed form, so depth and object masks carry no sampling error. Textures are soft,
low to middle frequency, because the part of a room that no photo shows must be plausible to continue.

World: metres, z up, the corner at the origin, walls in the planes x = 0 and y = 0, floor z = 0, the room on the positive
side of all three. Ray directions are scaled so that their component along the optical axis is 1: the ray parameter
*is* the planar z-depth. Arrays of vectors are (3, N), a component per row, because most steps work on one component.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Texture = Callable[[Array, Array], Array]
"""(points (3, N) in the shape's own frame, normals (3, N) in the same frame) -> linear albedo (3, N)."""

NEAR = 1e-3
"""Hits nearer than this z-depth (metres) are ignored."""
LIGHT = (2.3, 3.1, 3.0)
"""Where the lamp hangs (metres)."""


class Shape(Protocol):
    """A surface that rays meet in closed form."""

    def intersect(self, origin: Array, directions: Array) -> Array:
        """z-depth (N,) of the first hit of each ray, inf where it misses; origin (3, 1), directions (3, N)."""

    def to_local(self, vectors: Array, is_point: bool) -> Array:
        """World points or directions (3, N) in the shape's own frame."""

    def normals(self, local: Array) -> Array:
        """Outward unit normals (3, N), in the shape's own frame, at surface points of that frame."""

    def to_world(self, directions: Array) -> Array:
        """Directions (3, N) of the shape's own frame in the world frame."""

    def footprint_distance(self, x: Array, y: Array) -> Array:
        """Horizontal distance (N,) in metres from (x, y) to the shape's shadow from straight above; 0 inside."""


@dataclass(frozen=True)
class Plane:
    """The plane where coordinate `axis` is 0, seen from its positive side."""

    axis: int

    def intersect(self, origin: Array, directions: Array) -> Array:
        along = directions[self.axis]
        towards = along < -1e-9
        return np.where(towards, -origin[self.axis] / np.where(towards, along, -1), np.inf).astype(along.dtype)

    def to_local(self, vectors: Array, is_point: bool) -> Array:
        return vectors

    def normals(self, local: Array) -> Array:
        normal = np.zeros_like(local)
        normal[self.axis] = 1
        return normal

    def to_world(self, directions: Array) -> Array:
        return directions

    def footprint_distance(self, x: Array, y: Array) -> Array:
        return np.full_like(x, np.inf)


@dataclass(frozen=True)
class Box:
    """A box turned by `yaw` about the vertical through its centre."""

    center: tuple[float, float, float]
    half: tuple[float, float, float]
    yaw: float = 0.0

    def _rotation(self, dtype) -> Array:
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], dtype=dtype)

    def intersect(self, origin: Array, directions: Array) -> Array:
        o, d = self.to_local(origin, True), self.to_local(directions, False)
        enter, leave = np.full(d.shape[1], NEAR, d.dtype), np.full(d.shape[1], np.inf, d.dtype)
        for axis in range(3):
            along = np.where(np.abs(d[axis]) < 1e-12, 1e-12, d[axis])
            first, second = (-self.half[axis] - o[axis]) / along, (self.half[axis] - o[axis]) / along
            enter = np.maximum(enter, np.minimum(first, second))
            leave = np.minimum(leave, np.maximum(first, second))
        return np.where(enter < leave, enter, np.inf).astype(d.dtype)

    def to_local(self, vectors: Array, is_point: bool) -> Array:
        if is_point:
            vectors = vectors - np.array(self.center, vectors.dtype)[:, None]
        return self._rotation(vectors.dtype) @ vectors

    def normals(self, local: Array) -> Array:
        scaled = local / np.array(self.half, local.dtype)[:, None]
        axis = np.abs(scaled).argmax(axis=0)
        normal = np.zeros_like(local)
        columns = np.arange(local.shape[1])
        normal[axis, columns] = np.sign(scaled[axis, columns])
        return normal

    def to_world(self, directions: Array) -> Array:
        return self._rotation(directions.dtype).T @ directions

    def footprint_distance(self, x: Array, y: Array) -> Array:
        local = self.to_local(np.stack([x, y, np.zeros_like(x)]), True)
        return np.hypot(np.maximum(np.abs(local[0]) - self.half[0], 0), np.maximum(np.abs(local[1]) - self.half[1], 0))


@dataclass(frozen=True)
class Revolved:
    """x^2 + y^2 = curvature * z^2 + radius^2 about `center`, between two heights, closed by discs.

    Curvature 0 is a cylinder, negative an ellipsoid (-1 a sphere), positive a waisted neck.
    """

    center: tuple[float, float, float]
    radius: float
    curvature: float
    z_range: tuple[float, float]
    """Lowest and highest local z (metres)."""

    def intersect(self, origin: Array, directions: Array) -> Array:
        o, d = self.to_local(origin, True), directions
        low, high = self.z_range
        a = d[0] ** 2 + d[1] ** 2 - self.curvature * d[2] ** 2
        b = o[0] * d[0] + o[1] * d[1] - self.curvature * o[2] * d[2]
        c = o[0] ** 2 + o[1] ** 2 - self.curvature * o[2] ** 2 - self.radius**2
        discriminant = b * b - a * c
        best = np.full(d.shape[1], np.inf, d.dtype)
        rays = np.flatnonzero(discriminant > 0)  # a small thing is missed by nearly all rays: go on with few
        if not rays.size:
            return best
        a, b, root, d = a[rays], b[rays], np.sqrt(discriminant[rays]), d[:, rays]
        found = np.full(rays.size, np.inf, d.dtype)
        a = np.where(np.abs(a) < 1e-12, 1e-12, a)
        for s in ((-b - root) / a, (-b + root) / a):
            z = o[2] + s * d[2]
            found = np.where((s > NEAR) & (z >= low) & (z <= high) & (s < found), s, found)
        sinking = np.where(np.abs(d[2]) < 1e-12, 1e-12, d[2])
        for z in (low, high):
            s = (z - o[2]) / sinking
            inside = (o[0] + s * d[0]) ** 2 + (o[1] + s * d[1]) ** 2 <= self.curvature * z * z + self.radius**2
            found = np.where((s > NEAR) & inside & (s < found), s, found)
        best[rays] = found
        return best

    def to_local(self, vectors: Array, is_point: bool) -> Array:
        return vectors - np.array(self.center, vectors.dtype)[:, None] if is_point else vectors

    def normals(self, local: Array) -> Array:
        side = np.stack([local[0], local[1], -self.curvature * local[2]])
        side /= np.maximum(np.linalg.norm(side, axis=0), 1e-12)
        off_surface = np.abs(np.hypot(local[0], local[1]) - np.sqrt(self._radius_squared(local[2])))
        low, high = self.z_range
        for z, sign in ((low, -1.0), (high, 1.0)):
            # On a closing disc the point lies at the end of the range and inside the rim.
            disc = (np.abs(local[2] - z) < 1e-4) & (off_surface > 1e-4)
            side[:, disc] = np.array([[0.0], [0.0], [sign]], local.dtype)
        return side

    def _radius_squared(self, z: Array) -> Array:
        return np.maximum(self.curvature * z * z + self.radius**2, 0)

    def to_world(self, directions: Array) -> Array:
        return directions

    def footprint_distance(self, x: Array, y: Array) -> Array:
        foot = np.sqrt(self._radius_squared(np.asarray(self.z_range[0], x.dtype)))
        return np.maximum(np.hypot(x - self.center[0], y - self.center[1]) - foot, 0)


@dataclass(frozen=True)
class Thing:
    """A shape with its texture."""

    shape: Shape
    texture: Texture
    shadow_height: float = 0.0
    """Height (metres) from which it shades the floor softly; 0 for what does not stand on the floor."""


@dataclass(frozen=True)
class Room:
    """What stays in both versions, and what is removed."""

    stays: tuple[Thing, ...]
    """The first three are the walls x = 0 and y = 0 and the floor."""
    target: tuple[Thing, ...]


@dataclass(frozen=True)
class Pinhole:
    """A pinhole camera; OpenGL axes (x right, y up, z backward)."""

    camera_to_world: NDArray[np.float64]
    """(4, 4)."""
    focal: float
    """Pixels, the same along both axes; the principal point is the middle of the photo."""
    width: int
    height: int

    def rays(self, sub_x: float, sub_y: float, dtype) -> tuple[Array, Array]:
        """Origin (3, 1) and directions (3, height * width), row by row, of unit length along the optical axis.

        `sub_x`, `sub_y` say where in its pixel each ray passes: 0.5, 0.5 is the centre.
        """
        x = (np.arange(self.width) + sub_x - self.width / 2) / self.focal
        y = (np.arange(self.height) + sub_y - self.height / 2) / self.focal
        grid_x, grid_y = np.meshgrid(x, y)
        camera = np.stack([grid_x.ravel(), -grid_y.ravel(), np.full(grid_x.size, -1.0)])
        return self.camera_to_world[:3, 3:].astype(dtype), (self.camera_to_world[:3, :3] @ camera).astype(dtype)


def nearest(things: tuple[Thing, ...], origin: Array, directions: Array) -> tuple[Array, NDArray[np.intp]]:
    """z-depth (N,) of the first surface on each ray, inf for none, and which thing it belongs to (N,)."""
    depth = np.full(directions.shape[1], np.inf, directions.dtype)
    owner = np.zeros(directions.shape[1], np.intp)
    for index, thing in enumerate(things):
        z = thing.shape.intersect(origin, directions)
        closer = z < depth
        depth[closer] = z[closer]
        owner[closer] = index
    return depth, owner


def render_depths(room: Room, camera: Pinhole) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Exact planar z-depth (metres) at pixel centres, each (height, width): without, and with the target."""
    origin, directions = camera.rays(0.5, 0.5, np.float64)
    z_free, _ = nearest(room.stays, origin, directions)
    z_target, _ = nearest(room.target, origin, directions)
    shape = (camera.height, camera.width)
    return z_free.reshape(shape), np.minimum(z_free, z_target).reshape(shape)


def render_photos(
    room: Room, camera: Pinhole, supersampling: int, contact_shadow: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """sRGB photos (height, width, 3): without, and with the target.

    `supersampling` squared rays a pixel. Without `contact_shadow` the two agree to the bit wherever no ray of a pixel
    meets the target.
    """
    shape = (camera.height, camera.width)
    free, full = np.zeros((2, 3, camera.height * camera.width), np.float32)
    for row in range(supersampling):
        for column in range(supersampling):
            offset_x, offset_y = (column + 0.5) / supersampling, (row + 0.5) / supersampling
            rays = camera.rays(offset_x, offset_y, np.float32)
            sample_free, sample_full = _shade_rays(room, *rays, contact_shadow)
            free += sample_free
            full += sample_full
    return tuple(_to_srgb8(light / supersampling**2).T.reshape(*shape, 3) for light in (free, full))


def _shade_rays(room: Room, origin: Array, directions: Array, contact_shadow: bool) -> tuple[Array, Array]:
    z_free, owner = nearest(room.stays, origin, directions)
    if not np.isfinite(z_free).all():
        raise ValueError("a camera looks past the room's walls; point it at the corner")
    points = origin + z_free * directions
    free = np.empty_like(points)
    for index, thing in enumerate(room.stays):
        rays = np.flatnonzero(owner == index)
        if rays.size:
            light = _lit(thing, points[:, rays])
            if index < 3:
                light *= _room_occlusion(room, index, points[:, rays])
            free[:, rays] = light

    full = free.copy()
    if contact_shadow:
        rays = np.flatnonzero(owner == 2)
        full[:, rays] *= np.prod([_floor_shadow(thing, points[:, rays]) for thing in room.target], axis=0)
    z_target, owner = nearest(room.target, origin, directions)
    in_front = z_target < z_free
    for index, thing in enumerate(room.target):
        rays = np.flatnonzero(in_front & (owner == index))
        if rays.size:
            full[:, rays] = _lit(thing, origin + z_target[rays] * directions[:, rays])
    return free, full


def _lit(thing: Thing, points: Array) -> Array:
    """Diffuse light (3, N) leaving surface points: a lamp, a sky-like ambient term, and a darker foot."""
    local = thing.shape.to_local(points, True)
    local_normals = thing.shape.normals(local)
    normals = thing.shape.to_world(local_normals)
    to_light = np.array(LIGHT, points.dtype)[:, None] - points
    distance = np.sqrt((to_light**2).sum(axis=0))
    facing = np.maximum((normals * to_light).sum(axis=0) / distance, 0)
    lamp = facing * (14.0 / (6.0 + distance**2))
    ambient = 0.42 + 0.14 * normals[2]
    if thing.shadow_height:
        ambient = ambient * (1 - 0.35 * np.exp(points[2] / -0.08))
    return thing.texture(local, local_normals) * (0.8 * lamp + ambient)


def _room_occlusion(room: Room, plane: int, points: Array) -> Array:
    """How much light (N,) reaches walls and floor beside each other and beside the things that stand there."""
    light = np.ones(points.shape[1], points.dtype)
    for axis in range(3):
        if axis != plane:
            light *= 1 - 0.28 * np.exp(points[axis] / -0.14)
    if plane == 2:
        for thing in room.stays:
            if thing.shadow_height:
                light *= _floor_shadow(thing, points)
    return light


def _floor_shadow(thing: Thing, points: Array) -> Array:
    """How much light (N,) a standing thing leaves on the floor: dark where it touches, softer away from the lamp."""
    if not thing.shadow_height:
        return np.ones(points.shape[1], points.dtype)
    to_lamp = np.array(LIGHT[:2], points.dtype)[:, None] - points[:2]
    to_lamp *= 0.35 * thing.shadow_height / np.sqrt((to_lamp**2).sum(axis=0))
    touching = np.exp(thing.shape.footprint_distance(points[0], points[1]) / -0.05)
    cast = thing.shape.footprint_distance(points[0] + to_lamp[0], points[1] + to_lamp[1])
    return (1 - 0.4 * touching) * (1 - 0.25 * np.exp(-((cast / 0.12) ** 2)))


def _to_srgb8(linear: Array) -> NDArray[np.uint8]:
    linear = np.clip(linear, 0, 1)
    encoded = np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.floor(encoded * 255 + 0.5).astype(np.uint8)
