"""Of two trackers' masks of the same photos, those that agree with the masks of the other photos. Pure.

Trackers fail differently: one that follows photo after photo loses an object or a corner of it, one that carries masks by depth
is as good as the depth. Whose masks describe one and the same body is asked of the masks themselves (`scene.consensus`), each
tracker's of its own, so that neither is measured by the other's habits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from spinnerf_ns.conventions import BoolMask
from spinnerf_ns.scene.consensus import LEAST_SUPPORT, Consensus
from spinnerf_ns.scene.view import View

Masks = Sequence["BoolMask | None"]

MARGIN = 0.03
"""By how much more the second tracker's masks must agree, with one another (over the photos that both have) and with the masks that
were given, both taken together, to be taken for all. Depth and flow on six captures: 0.052 where flow's are better by 0.032 of IoU
(twin-orbit: depth wears away the foot in all photos alike, which the given mask knows), at most 0.024 where depth's are."""
ONE_BETTER = 0.05
"""By how much more in a single photo, for the other tracker's mask there."""
LEAST_PHOTOS = 3
"""Fewer photos in common say nothing."""


def agreed(
    views: Sequence[View], first: Masks, second: Masks, known: Iterable[int] = ()
) -> tuple[list[BoolMask | None], list[bool]]:
    """The better one of two masks, photo by photo.

    Args:
        views: the photos.
        first: per photo (H, W) bool, or None where it was not found; taken where nothing speaks for the other one.
        second: another tracker's.
        known: photos whose masks were given, and are the same in both.

    Returns:
        The masks, and per photo whether it is the second's.
    """
    known = set(known)
    supports, trusted = [], []
    for masks in (first, second):
        found = [index for index, mask in enumerate(masks) if mask is not None]
        others = Consensus([views[index] for index in found], [masks[index] for index in found])
        said = [float("nan") if mask is None else others.support(view, mask) for view, mask in zip(views, masks, strict=True)]
        supports.append(np.array(said))
        trusted.append(others.trusted)
    better = supports[1] - supports[0]
    both = np.isfinite(better) & ~np.isin(np.arange(len(views)), sorted(known))
    given = [better[index] for index in sorted(known) if np.isfinite(better[index])]
    of_second = trusted[1] and not trusted[0]
    if both.sum() >= LEAST_PHOTOS:
        among = float(better[both].mean())
        of_second |= among + (float(np.mean(given)) if given else among) > MARGIN
    base, other = (second, first) if of_second else (first, second)
    ahead, own = (-better, supports[0]) if of_second else (better, supports[1])
    taken: list[BoolMask | None] = []
    swapped = []
    for index in range(len(views)):
        # Where only the other tracker found the object, its mask must be one that its other photos know.
        alone = base[index] is None and other[index] is not None and not own[index] < LEAST_SUPPORT
        swap = index not in known and (alone or (both[index] and ahead[index] > ONE_BETTER))
        taken.append(other[index] if swap else base[index])
        swapped.append(bool(swap != of_second) and index not in known and taken[-1] is not None)
    return taken, swapped
