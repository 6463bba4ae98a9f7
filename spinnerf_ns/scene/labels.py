"""True object masks of a capture's photos, where somebody knows them: for figures, never for training."""

from __future__ import annotations

from pathlib import Path

LABEL_FOLDERS = ("labels", "truth/object_masks")
"""Folders below a scene that hold them as <photo>.png: what convert-llff writes, and twins and planted scenes."""


def label_path(scene: Path, photo: str, folder: Path | None = None) -> Path | None:
    """The true object mask of a photo; in an object-free photo, of where the object would be.

    Args:
        scene: the capture's folder.
        photo: the photo's key.
        folder: where to look instead of below the scene (SPIn-NeRF's images_4/test_label, say).

    Returns:
        The file, non-zero = object, of any size; None if there is none.
    """
    folders = [folder] if folder is not None else [scene / name for name in LABEL_FOLDERS]
    names = dict.fromkeys((photo, Path(photo).with_suffix("").as_posix(), Path(photo).stem))
    return next((path for f in folders for name in names if (path := f / f"{name}.png").is_file()), None)
