"""A hole filled part by part, where a network cannot see all of it at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from spinnerf_ns.conventions import BoolMask

Floats = npt.NDArray[np.float32]


def fill_in_tiles(picture: Floats, hole: BoolMask, most_pixels: int, fill: Callable[[Floats, BoolMask], Floats]) -> Floats:
    """Fills a hole in parts. The part that most is known around comes first, and what it shows is known to the next ones.

    Args:
        picture: (H, W, C) float32.
        hole: (H, W) bool, True = to be filled.
        most_pixels: pixels of a tile at most.
        fill: (h, w, C) and (h, w) bool -> (h, w, C); only the hole's pixels are taken from it.

    Returns:
        (H, W, C) float32, outside the hole identical to `picture`.
    """
    cell = max(1, int(np.sqrt(most_pixels)) // 2)  # a tile is a cell and half a cell around it
    answer, left = picture.copy(), hole.copy()
    rows, columns = (range(0, side, cell) for side in hole.shape)
    cells = [(slice(y, y + cell), slice(x, x + cell)) for y in rows for x in columns]
    waiting = [each for each in cells if hole[each].any()]
    while waiting:
        known = [1 - left[_tile(each, cell)].mean() for each in waiting]
        chosen = waiting.pop(int(np.argmax(known)))
        tile = _tile(chosen, cell)
        tile = _tile(chosen, cell)
        wanted = np.zeros_like(left[tile])
        inner = tuple(slice(each.start - whole.start, each.stop - whole.start) for each, whole in zip(chosen, tile, strict=True))
        wanted[inner] = left[chosen]
        answer[tile][wanted] = fill(answer[tile], left[tile])[wanted]
        left[chosen] = False
    return answer


def _tile(cell: tuple[slice, slice], side: int) -> tuple[slice, slice]:
    around = side // 2
    rows, columns = (slice(max(0, span.start - around), span.start + side + around) for span in cell)
    return rows, columns
