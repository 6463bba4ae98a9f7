"""The room that `twin` photographs: its things, and their soft procedural textures.

Colours are linear albedos, written down as the sRGB values a reader can picture. Structure finer than about a
centimetre is left out on purpose: it would be noise at the photos' resolution, not texture.
"""

from __future__ import annotations

import numpy as np

from spinnerf_ns.evaluation.truth.twin_render import Array, Box, Plane, Revolved, Room, Texture, Thing

TARGET_CENTER = (1.0, 1.0, 0.36)
"""Roughly the middle of the target (metres)."""


class ValueNoise:
    """Smooth periodic noise in two dimensions, in [-1, 1]: random values on a lattice, blended by smoothsteps."""

    def __init__(self, rng: np.random.Generator, size: int = 64):
        self._lattice = (2 * rng.random((size, size)) - 1).astype(np.float32)
        self._last = size - 1  # the size is a power of two, so that & wraps around

    def __call__(self, u: Array, v: Array) -> Array:
        """Noise (N,) at (u, v), both (N,), in units of lattice cells."""
        column, row = np.floor(u), np.floor(v)
        fraction_u, fraction_v = u - column, v - row
        fraction_u = fraction_u * fraction_u * (3 - 2 * fraction_u)
        fraction_v = fraction_v * fraction_v * (3 - 2 * fraction_v)
        left, top = column.astype(np.int32) & self._last, row.astype(np.int32) & self._last
        right, bottom = (left + 1) & self._last, (top + 1) & self._last
        upper = self._lattice[top, left] * (1 - fraction_u) + self._lattice[top, right] * fraction_u
        lower = self._lattice[bottom, left] * (1 - fraction_u) + self._lattice[bottom, right] * fraction_u
        return upper * (1 - fraction_v) + lower * fraction_v

    def octaves(self, u: Array, v: Array, count: int = 3) -> Array:
        """Sum of `count` octaves, each twice as fine and half as strong."""
        return sum(self(u * 2.0**k + 7.3 * k, v * 2.0**k - 3.1 * k) * 0.5**k for k in range(count))


def _srgb(red: int, green: int, blue: int) -> Array:
    """sRGB bytes as a linear colour (3, 1)."""
    encoded = np.array([[red], [green], [blue]], np.float32) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _step(x: Array, edge: float, softness: float) -> Array:
    """0 below, 1 above `edge`, smooth over +-softness."""
    t = np.clip((x - edge) / (2 * softness) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _line(x: Array, period: float, width: float) -> Array:
    """1 on soft lines at multiples of `period`, falling to 0 over `width`."""
    return np.exp(-(((x / period - np.round(x / period)) * period / width) ** 2))


def _mix(first: Array, second: Array, weight: Array) -> Array:
    return first * (1 - weight) + second * weight


def _with_skirting(paper: Array, height: Array) -> Array:
    """A wall's albedo with a pale board along the floor."""
    board = _srgb(222, 216, 204) * (1 - 0.3 * _line(height - 0.075, 10.0, 0.012))
    return _mix(board, paper, _step(height, 0.1, 0.006))


def _plaster(noise: ValueNoise) -> Texture:
    def texture(p: Array, n: Array) -> Array:
        tone = 1 + 0.16 * noise.octaves(p[1] * 2.1, p[2] * 2.4) + 0.04 * noise(p[1] * 17, p[2] * 17)
        warm = 0.5 + 0.5 * noise(p[1] * 1.3 + 20, p[2] * 1.1 + 9)
        return _with_skirting(_mix(_srgb(214, 196, 168), _srgb(206, 180, 152), warm) * tone, p[2])

    return texture


def _wallpaper(noise: ValueNoise) -> Texture:
    def texture(p: Array, n: Array) -> Array:
        wave = 0.5 + 0.5 * np.sin(p[0] * (2 * np.pi / 0.22))
        paper = _mix(_srgb(158, 172, 152), _srgb(186, 192, 168), _step(wave, 0.5, 0.35))
        column, row = p[0] / 0.22 + 0.25, p[2] / 0.2
        blossom = np.exp(-(((column - np.round(column)) * 0.22 / 0.035) ** 2 + ((row - np.round(row)) * 0.2 / 0.045) ** 2))
        paper = _mix(paper, _srgb(112, 134, 138), 0.6 * blossom)
        return _with_skirting(paper * (1 + 0.1 * noise.octaves(p[0] * 1.7, p[2] * 1.9, 2)), p[2])

    return texture


def _boards(noise: ValueNoise, width: float = 0.15, length: float = 1.15) -> Texture:
    def texture(p: Array, n: Array) -> Array:
        # Boards run along x; each row of boards starts elsewhere and every board has its own tone.
        row = np.floor(p[1] / width)
        along = p[0] + 0.61 * length * (row % 7)
        board = np.floor(along / length)
        tone = noise(row * 5.0 + 0.5, board * 3.0 + 0.5)
        grain = noise.octaves(p[0] * 1.8 + 11 * row, p[1] * 24 + 5 * board, 2)
        wood = _mix(_srgb(164, 116, 74), _srgb(134, 88, 54), np.clip(0.5 + 0.55 * tone + 0.2 * grain, 0, 1))
        seam = np.maximum(_line(p[1], width, 0.008), _line(along, length, 0.008))
        return wood * (1 - 0.5 * seam)

    return texture


def _wood(noise: ValueNoise, dark: Array, pale: Array, drawer: float) -> Texture:
    """Furniture: grain along x, and the gaps of drawers in its front."""

    def texture(p: Array, n: Array) -> Array:
        across = np.where(np.abs(n[2]) > 0.5, p[1], p[2])
        grain = noise.octaves(p[0] * 3 + p[1] * np.abs(n[0]) * 3, across * 22, 2)
        wood = _mix(dark, pale, np.clip(0.5 + 0.4 * grain, 0, 1))
        front = np.abs(n[1])
        gap = np.maximum(_line(p[2], drawer, 0.008), _line(p[0] - 0.22, 0.44, 0.008)) * front
        knob = np.exp(-(((np.abs(p[0]) - 0.21) / 0.022) ** 2 + ((np.abs(p[2]) - drawer / 2) / 0.022) ** 2)) * front
        return _mix(wood * (1 - 0.55 * gap), _srgb(206, 180, 120), 0.9 * knob)

    return texture


def _cardboard(noise: ValueNoise) -> Texture:
    def texture(p: Array, n: Array) -> Array:
        paper = _srgb(186, 148, 104) * (1 + 0.1 * noise.octaves((p[0] + p[1]) * 9, p[2] * 9, 2))
        tape = _step(-np.abs(p[0]), -0.03, 0.004) * (np.abs(n[0]) < 0.5)
        label = _step(-np.abs(p[1] + 0.03), -0.05, 0.004) * _step(-np.abs(p[2] - 0.03), -0.035, 0.004) * (n[0] > 0.5)
        return _mix(_mix(paper, _srgb(214, 190, 150), 0.7 * tape), _srgb(228, 224, 212), label)

    return texture


def _ball(noise: ValueNoise) -> Texture:
    def texture(p: Array, n: Array) -> Array:
        sector = np.sin(3 * np.arctan2(n[1], n[0] + 0.3 * n[2]))
        skin = _mix(_srgb(188, 72, 52), _srgb(226, 206, 164), _step(sector, 0.0, 0.12))
        return skin * (1 + 0.08 * noise(4 * n[0] + 3, 4 * n[2]))

    return texture


def _ribbed(noise: ValueNoise, dark: Array, pale: Array, ribs: int) -> Texture:
    """A pot or a basket: soft vertical ribs, a pale rim."""

    def texture(p: Array, n: Array) -> Array:
        angle = np.arctan2(p[1], p[0])
        weave = 0.5 + 0.5 * np.sin(ribs * angle) * np.cos(p[2] * (2 * np.pi / 0.11))
        tone = 1 + 0.12 * noise.octaves(3 * angle, p[2] * 8, 2)
        return _mix(dark, pale, _step(weave, 0.5, 0.4)) * tone * np.where(n[2] > 0.9, 0.45, 1)

    return texture


def _books(noise: ValueNoise) -> Texture:
    covers = np.concatenate(
        [_srgb(62, 92, 128), _srgb(150, 58, 44), _srgb(206, 186, 140), _srgb(74, 104, 84), _srgb(184, 128, 60)], axis=1
    )

    def texture(p: Array, n: Array) -> Array:
        book = np.floor(p[0] / 0.036 + 40).astype(np.int32)
        cover = covers[:, (book * 3 + book // 4) % covers.shape[1]]
        band = np.exp(-(((p[2] - 0.05) / 0.012) ** 2)) * np.abs(n[1])
        pages = _srgb(222, 212, 188) * (n[2] > 0.5)
        return np.where(n[2] > 0.5, pages, _mix(cover * (1 - 0.4 * _line(p[0], 0.036, 0.004)), _srgb(214, 190, 120), band))

    return texture


def _picture(noise: ValueNoise, half_y: float, half_z: float) -> Texture:
    """A painted landscape in a wooden frame with a pale mount."""

    def texture(p: Array, n: Array) -> Array:
        inset = np.minimum(half_y - np.abs(p[1]), half_z - np.abs(p[2]))
        hills = 0.03 * np.sin(p[1] * 17) + 0.02 * noise(p[1] * 14, p[1] * 0)
        sky = _mix(_srgb(196, 206, 206), _srgb(98, 136, 168), np.clip((p[2] + 0.02) / 0.14, 0, 1))
        land = _mix(_srgb(96, 112, 66), _srgb(168, 132, 70), 0.5 + 0.5 * noise(p[1] * 22, p[2] * 34))
        painting = _mix(land, sky, _step(p[2] - hills, -0.02, 0.012))
        mounted = _mix(_srgb(226, 220, 206), painting, _step(inset, 0.065, 0.004))
        return _mix(_srgb(104, 68, 42), mounted, _step(inset, 0.03, 0.004))

    return texture


def _glaze(noise: ValueNoise, base: float) -> Texture:
    """The target's: blue pottery on a bare clay foot, with ochre and cream bands, a wave and leaves.

    Cream is the wall's colour, clay nearly the floor's, blue the painted sky's: colour alone does not tell it apart.
    `base` is the height of the piece's origin.
    """

    def texture(p: Array, n: Array) -> Array:
        angle, height = np.arctan2(p[1], p[0]), p[2] + base
        tone = 1 + 0.14 * noise.octaves(angle * 5 + 40, height * 11 + 5, 2)
        glaze = _mix(_srgb(40, 72, 118), _srgb(66, 110, 150), 0.5 + 0.5 * noise(angle * 3, height * 6)) * tone
        leaf = np.sin(9 * angle + 22 * height) * np.sin(9 * angle - 22 * height)
        glaze = _mix(glaze, _srgb(204, 196, 170), 0.85 * _step(leaf, 0.35, 0.2) * _step(-np.abs(height - 0.36), -0.1, 0.01))
        wave = height + 0.022 * np.sin(9 * angle)
        glaze = _mix(glaze, _srgb(196, 138, 62), _step(-np.abs(wave - 0.17), -0.026, 0.008))
        glaze = _mix(glaze, _srgb(214, 196, 168), _step(-np.abs(height - 0.5), -0.018, 0.006))
        glaze = _mix(glaze, _srgb(150, 62, 44), _step(-np.abs(height - 0.555), -0.016, 0.006))
        clay = _srgb(158, 106, 70) * (1 + 0.1 * noise.octaves(angle * 6, height * 30, 2))
        glaze = _mix(clay, glaze, _step(height - 0.012 * noise(angle * 4 + 9, angle * 0), 0.09, 0.012))
        return glaze * np.where(n[2] > 0.999, 0.15, 1)  # the dark mouth

    return texture


def build_room(rng: np.random.Generator) -> Room:
    """The room corner; `rng` draws its textures, not its geometry, so that every seed has the same difficulty."""
    noise = ValueNoise(rng)
    half_y, half_z = 0.34, 0.25
    stays = (
        Thing(Plane(0), _plaster(noise)),
        Thing(Plane(1), _wallpaper(noise)),
        Thing(Plane(2), _boards(noise)),
        Thing(Box((0.015, 1.02, 0.98), (0.015, half_y, half_z)), _picture(noise, half_y, half_z)),
        Thing(Box((1.06, 0.19, 0.26), (0.44, 0.19, 0.26)), _wood(noise, _srgb(98, 62, 40), _srgb(132, 88, 58), 0.26), 0.52),
        Thing(Box((0.86, 0.16, 0.63), (0.126, 0.08, 0.11)), _books(noise)),
        Thing(
            Revolved((1.25, 0.19, 0.64), 0.1, -0.25, (-0.12, 0.16)),
            _ribbed(noise, _srgb(52, 92, 96), _srgb(120, 156, 148), 7),
        ),
        Thing(
            Revolved((1.8, 0.26, 0.23), 0.15, 0.05, (-0.23, 0.23)),
            _ribbed(noise, _srgb(140, 102, 60), _srgb(198, 164, 112), 12),
            0.46,
        ),
        Thing(Revolved((0.38, 1.5, 0.16), 0.16, -1.0, (-0.16, 0.16)), _ball(noise), 0.2),
        Thing(Box((0.22, 1.02, 0.13), (0.13, 0.17, 0.13), 0.15), _cardboard(noise), 0.26),
    )
    x, y, _ = TARGET_CENTER
    body, neck = 0.28, 0.62
    target = (
        # The ellipsoid (semi-axes 0.22 and 0.33) and the waisted neck meet at 0.55 with equal radii, up to a lip.
        Thing(Revolved((x, y, body), 0.22, -(0.22**2) / 0.33**2, (-body, 0.27)), _glaze(noise, body), 0.6),
        Thing(Revolved((x, y, neck), 0.0904, 1.6, (-0.07, 0.075)), _glaze(noise, neck)),
    )
    return Room(stays, target)
