"""Masks that were made elsewhere: painted by hand, or by a program of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import load_object_mask
from spinnerf_ns.segmentation.prompts import Prompt

MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


@dataclass
class FolderSegmenter:
    """Reads a photo's object mask from a folder."""

    folder: Path
    """Folder of masks, one per photo and called like it (<photo>.png); any value but 0 is object."""

    name = "folder"

    def segment(self, image: Image, prompt: Prompt) -> BoolMask:
        """The mask in the folder; points and box are not looked at.

        Args:
            image: (H, W, 3) uint8 RGB; only its size counts.
            prompt: only its view counts.

        Returns:
            (H, W) bool, True = object.

        Raises:
            SpinnerfError: there is no mask for the photo, or one of another size.
        """
        return load_object_mask(self.find(prompt.view), image.shape[:2])

    def find(self, photo: str) -> Path:
        """The mask's file.

        Raises:
            SpinnerfError: there is none.
        """
        folder = Path(self.folder)
        for suffix in MASK_SUFFIXES:
            for name in (photo + suffix, Path(photo).with_suffix(suffix).as_posix()):
                if (folder / name).is_file():
                    return folder / name
        raise SpinnerfError(f"{folder / photo}.png: this mask is missing; put it there, or use --segmenter grabcut")


def mask_files(folder: Path) -> list[Path]:
    """All mask files below a folder, sorted; hidden ones left out.

    Raises:
        SpinnerfError: no such folder, or no mask in it.
    """
    if not Path(folder).is_dir():
        raise SpinnerfError(f"{folder}: no such folder; --masks wants one with masks called like the photos (<photo>.png)")
    files = [path for path in Path(folder).rglob("*") if path.suffix.lower() in MASK_SUFFIXES and path.is_file()]
    files = sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    if not files:
        raise SpinnerfError(f"{folder}: there is no mask in it; --masks wants masks called like the photos (<photo>.png)")
    return files
