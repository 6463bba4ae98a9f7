"""Photos inpainted elsewhere: in an editor, by another program, by another network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from spinnerf_ns.conventions import BoolMask, Image
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.files import read_image
from spinnerf_ns.removal.inpainters.base import PhotoInpainter

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


@dataclass
class FolderInpainter(PhotoInpainter):
    """Takes the gap's pixels from `<folder>/<photo>.<any image suffix>`; disparity is continued from the rim."""

    name: ClassVar[str] = "folder"

    folder: Path | None = None
    """Folder of the mended photos, named and sized like the originals, in the same sub-folders. Must be given."""

    def __post_init__(self) -> None:
        if self.folder is None:
            raise SpinnerfError("inpainter 'folder' needs the folder of the mended photos; give its option folder=<path>")
        self.folder = Path(self.folder)
        if not self.folder.is_dir():
            raise SpinnerfError(f"{self.folder}: this folder of mended photos is missing; make it or correct the path")

    def path_of(self, photo: str) -> Path:
        """The mended photo's file.

        Raises:
            SpinnerfError: there is none, or more than one.
        """
        wanted = self.folder / photo
        beside = sorted(wanted.parent.iterdir()) if wanted.parent.is_dir() else []
        images = [file for file in beside if file.suffix.lower() in SUFFIXES]
        found = [file for file in images if file.name[: -len(file.suffix)] == wanted.name]
        if not found and wanted.suffix.lower() in SUFFIXES and wanted.is_file():
            found = [wanted]  # a key with its suffix: two photos of the capture differ in nothing else
        if len(found) == 1:
            return found[0]
        if not found:
            others = ", ".join(SUFFIXES[1:])
            raise SpinnerfError(f"{wanted}.png: this mended photo is missing (also with {others}); put it there")
        raise SpinnerfError(
            f"{wanted}: {len(found)} files could be this photo ({', '.join(file.name for file in found)}); leave one"
        )

    def fill(self, image: Image, to_fill: BoolMask, photo: str) -> Image:
        path = self.path_of(photo)
        mended = read_image(path)
        if mended.shape != image.shape:
            raise SpinnerfError(
                f"{path}: the mended photo is {mended.shape[1]}x{mended.shape[0]}, the original at the resolution used is "
                f"{image.shape[1]}x{image.shape[0]}; save it at that size"
            )
        return mended
