"""From places in the photo that a person looks at to places in the photo that is used.

People read coordinates off the original, as their viewer shows it: turned as its EXIF tag says, and at full size. What is used
may be a downscaled copy (`images_4/`), and is never turned: neither COLMAP nor nerfstudio looks at the tag, so that the
camera is the stored picture's.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spinnerf_ns.segmentation.prompts import Prompt

if TYPE_CHECKING:
    from spinnerf_ns.scene.view import View

ORIENTATION_TAG = 0x0112
"""EXIF's tag of how a photo is to be turned: 1 to 8; 1 is as it is stored."""
TURNED = (5, 6, 7, 8)
"""Orientations in which width and height change places."""
SMALLER_FOLDER = re.compile(r"(.+)_\d+")
"""A folder of downscaled photos: images_4 beside images."""


@dataclass(frozen=True)
class Original:
    """The photo as a person opens it."""

    path: Path
    """Its file."""
    width: int
    """Stored pixels, before it is turned."""
    height: int
    """Stored pixels, before it is turned."""
    orientation: int = 1
    """EXIF's."""

    @property
    def shown_size(self) -> tuple[int, int]:
        """(width, height) in a viewer."""
        return (self.height, self.width) if self.orientation in TURNED else (self.width, self.height)

    def stored(self, x: float, y: float) -> tuple[float, float]:
        """A place as a viewer shows it -> in the stored picture; pixels, (0, 0) is the outer corner of the top-left one."""
        width, height = self.width, self.height
        return {
            1: (x, y),
            2: (width - x, y),
            3: (width - x, height - y),
            4: (x, height - y),
            5: (y, x),
            6: (y, height - x),
            7: (width - y, height - x),
            8: (width - y, x),
        }[self.orientation]


def original_of(path: Path) -> Original:
    """The photo that a person opens for the one that is used.

    Args:
        path: the photo that is used; for one in images_N, that of the same name in images is looked for.

    Returns:
        The original, or the photo itself where there is no other.
    """
    from PIL import Image

    chosen = path
    for depth, folder in enumerate(path.parents[:-1]):
        match = SMALLER_FOLDER.fullmatch(folder.name)
        if match is None:
            continue
        below = path.relative_to(folder)
        full = folder.with_name(match[1])
        names = [full / below, *sorted((full / below).parent.glob(f"{below.stem}.*"))]
        chosen = next((name for name in names if name.is_file()), path)
        if chosen != path or depth > 3:
            break
    try:
        with Image.open(chosen) as image:
            orientation = int(image.getexif().get(ORIENTATION_TAG, 1))
            width, height = image.size
            return Original(chosen, width, height, orientation if 1 <= orientation <= 8 else 1)
    except (OSError, ValueError, SyntaxError):  # no picture: whoever decodes it says so
        return Original(path, 0, 0)


def to_used(prompt: Prompt, view: View) -> tuple[Prompt, str]:
    """A prompt in pixels of the original, as a viewer shows it, in pixels of the photo that is used.

    Args:
        prompt: its `view` may be any name of the photo; `size` None.
        view: the photo.

    Returns:
        The prompt, and a line that says what its coordinates were taken for.

    Raises:
        SpinnerfError: nothing is pointed at, or something that is no part of the photo.
    """
    original = original_of(view.path)
    said = f"photo '{view.photo}': {view.width}x{view.height}"
    prompt = dataclasses.replace(prompt, view=view.photo)
    if not original.width:
        return dataclasses.replace(prompt, size=(view.width, view.height)), said
    prompt.check(*original.shown_size)  # before anything is scaled: an error speaks of the numbers that were given
    if original.orientation != 1:
        prompt = prompt.moved(original.stored, 1.0)
    prompt = dataclasses.replace(prompt, size=(original.width, original.height))
    prompt = prompt.scaled(view.width, view.height)
    width, height = original.shown_size
    told = bool(prompt.points or prompt.box or prompt.brush)
    if (original.width, original.height) != (view.width, view.height):
        said = (
            f"photo '{view.photo}': {original.path} is {width}x{height}, {view.path.parent.name}/ with "
            f"{view.width}x{view.height} is used"
        )
        said += "; your coordinates are taken for the original's and scaled to it" if told else ""
    if original.orientation != 1:
        said += f"; EXIF orientation {original.orientation}: a viewer shows it {width}x{height}"
        said += ", and your coordinates are taken as shown there" if told else ""
    return prompt, said
