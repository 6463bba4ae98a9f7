"""Ready masks: sizes, ids and polarity, decided from all of them together, and said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spinnerf_ns.conventions import BoolMask
from spinnerf_ns.decoding import SMALL_IDS, DecodedMask, as_stored, decode_mask, photo_orientation
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import scaled_mask
from spinnerf_ns.hints import say
from spinnerf_ns.scene.view import View

BACKGROUND_BORDER = 0.6
"""A mask that runs along more of its photo's border than this is the background: an object may be large, but it ends there."""
BEHIND_FRAME = 0.9
"""Where the others are right, a mask that runs along more than this of the border is named."""


def border_share(object_mask: BoolMask) -> float:
    """The part of the photo's outermost pixels that a mask (H, W) covers."""
    edges = (object_mask[0], object_mask[-1], object_mask[1:-1, 0], object_mask[1:-1, -1])
    return float(np.concatenate(edges).mean())


def read_given(
    paths: Mapping[str, Path], views: Mapping[str, View], mask_id: int | None = None, as_they_are: bool = False
) -> dict[str, BoolMask]:
    """Ready masks of photos, whatever they are: see `files.load_object_mask`.

    Args:
        paths: photo -> mask file.
        views: photo -> its view.
        mask_id: which id of id maps is meant.
        as_they_are: whether white is the object, whatever the masks look like.

    Returns:
        Photo -> (H, W) bool, True = object, at the photo's size.

    Raises:
        SpinnerfError: a file is no mask, or of another size than its photo; id maps without an id, or none that has it.
    """
    masks, named, sizes = {}, {}, Counter[Any]()
    for photo, path in paths.items():
        decoded, view = decode_mask(path), views[photo]
        named[photo] = decoded
        found = decoded.object_mask() if mask_id is None else decoded.where(mask_id)
        orientation = photo_orientation(view.path)
        if orientation >= 5 and found.shape == (view.width, view.height) != (view.height, view.width):
            found = as_stored(found, orientation)
            sizes["turned"] += 1
        if found.shape != (view.height, view.width):
            sizes[(found.shape[1], found.shape[0], view.width, view.height)] += 1
        masks[photo] = scaled_mask(found, (view.height, view.width), path)
    _check_ids(paths, named, mask_id)
    for size, count in sizes.items():
        if size == "turned":
            say(f"{count} of {len(masks)} masks are of their photos as a viewer shows them (EXIF orientation): turned back")
        else:
            say(f"{count} of {len(masks)} masks of {size[0]}x{size[1]} are scaled to their photos' {size[2]}x{size[3]}")
    if all(mask.all() for mask in masks.values()):
        raise SpinnerfError(
            f"{next(iter(paths.values()))}: the mask is white everywhere; paint the object white and the rest black"
        )
    return masks if as_they_are or mask_id is not None else _white_is_object(masks)


def _check_ids(paths: Mapping[str, Path], named: Mapping[str, DecodedMask], mask_id: int | None) -> None:
    """Refuses id maps of which none is chosen, and an id that is nowhere."""
    maps = [photo for photo, decoded in named.items() if decoded.is_id_map]
    if mask_id is None:
        # Photos with one thing each look like masks, but the things differ.
        values = {int(decoded.values.max()) for decoded in named.values()} - {0}
        if not maps and len(values) > 1 and max(values) <= SMALL_IDS:
            listed = ", ".join(str(value) for value in sorted(values))
            raise SpinnerfError(
                f"{next(iter(paths.values())).parent}: its masks hold different ids ({listed}), one object's masks were expected; "
                "say which is meant: --mask-id ID"
            )
        if maps:
            raise SpinnerfError(
                f"{paths[maps[0]]}: holds several things, the ids {named[maps[0]].named()}"
                + (f" ({len(maps)} of {len(paths)} masks do)" if len(paths) > 1 else "")
                + ", and one object's mask was expected; say which is meant: --mask-id ID"
            )
    elif not any(decoded.where(mask_id).any() for decoded in named.values()):
        first = next(iter(named.values()))
        there = Counter[str]()
        for decoded in named.values():
            there.update(decoded.name(int(value)) for value in decoded.labels or np.unique(decoded.values))
        listed = ", ".join(name for name, _ in there.most_common(12))
        raise SpinnerfError(f"--mask-id {first.name(mask_id)}: no mask has this id; there are {listed}")


def _white_is_object(masks: dict[str, BoolMask]) -> dict[str, BoolMask]:
    """The masks, inverted if in the photos together the object runs along the border."""
    shares = {photo: border_share(mask) for photo, mask in masks.items() if mask.any() and not mask.all()}
    if not shares:
        return masks
    if np.median(list(shares.values())) > BACKGROUND_BORDER:
        say(
            f"The masks' white runs along {np.median(list(shares.values())):.0%} of the photos' borders, so it is the background "
            "and black is the object; white is the object all the same: --allow-large-mask"
        )
        return {photo: ~mask for photo, mask in masks.items()}
    odd = [photo for photo, share in shares.items() if share > BEHIND_FRAME]
    if odd:
        named = ", ".join(odd[:5]) + (", ..." if len(odd) > 5 else "")
        say(f"{len(odd)} of {len(masks)} masks look inverted beside the others, and are taken as they are: {named}")
    return masks
