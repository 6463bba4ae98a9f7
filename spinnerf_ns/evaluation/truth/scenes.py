"""Scenes whose truth is known: what the synthetic twin and planted objects in real captures have in common.

<root>/transforms.json            a nerfstudio dataset; test photos do not show the object
<root>/truth/<kind>/<photo>       what was or would be there, for every photo
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.hints import command


@dataclass(frozen=True, kw_only=True)
class TruthScene:
    """A capture with an object to remove, and the truth behind it. Photos are named by their path relative to `root`, as in
    transforms.json."""

    root: Path
    photos: list[str]
    """All photos, in the order of their names."""
    object_free: list[str]
    """The test photos: truth that was never shown the object."""
    prompt_view: str
    """The training photo that a person would click on."""
    prompt_box: tuple[float, float, float, float]
    """A loose box (x0, y0, x1, y1) around the object in that photo, in pixels; (0, 0) is the photo's outer corner."""
    prompt_points: list[tuple[float, float, int]] = field(default_factory=list)
    """(x, y, label) at pixel centres, label 1 = object, 0 = background: two on the object, one beside it."""

    @property
    def train_photos(self) -> list[str]:
        """The photos that are trained on."""
        return [photo for photo in self.photos if photo not in set(self.object_free)]

    def truth(self, photo: str, kind: str) -> Path:
        """The truth file of a photo (its name here, or its key in a `Capture`).

        `kind` is a folder under truth/: images (without the object), images_with_object, object_masks (255 = the pixel's
        centre shows the object; in a test photo: would show), and where depth is known depths and depths_with_object.
        """
        suffix = ".npy" if kind.startswith("depths") else ".png"
        name = photo.removeprefix("images/").removesuffix(".png")
        return self.root / "truth" / kind / f"{name}{suffix}"


Scene = TypeVar("Scene", bound=TruthScene)


def load_scene(root: Path) -> TruthScene:
    """Reads a twin or a planted scene, whichever it is.

    Raises:
        SpinnerfError: it is neither, or damaged.
    """
    from spinnerf_ns.evaluation.truth.planted import PLANTED_FILE, load_planted
    from spinnerf_ns.evaluation.truth.twin import TWIN_FILE, load_twin

    root = Path(root)
    for name, load in ((TWIN_FILE, load_twin), (PLANTED_FILE, load_planted)):
        if (root / name).is_file():
            return load(root)
    raise SpinnerfError(
        f"{root}: no {TWIN_FILE} or {PLANTED_FILE}, expected a scene with known truth; make one: "
        f"{command('ns-spinnerf', 'plant', data='CAPTURE', output=root)}"
    )


def read_scene(
    path: Path, version: int, what: str, again: str, build: Callable[..., Scene], own: Callable[[dict], dict[str, Any]]
) -> Scene:
    """Reads a scene's description.

    Args:
        path: the description, a .json file in the scene's folder.
        version: the version that is read.
        what: what the scene is called in messages, with its article.
        again: how a new one is made, for messages.
        build: the scene's class.
        own: the description -> what the class has beyond `TruthScene`.

    Raises:
        SpinnerfError: it is missing, of another version or broken, or photos are missing.
    """
    if not path.is_file():
        raise SpinnerfError(f"{path}: missing, expected {what}'s description; {again}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != version:
            raise SpinnerfError(f"{path}: version {content['version']}, expected {version}; {again}")
        scene = build(
            root=path.parent,
            photos=list(content["photos"]),
            object_free=list(content["object_free"]),
            prompt_view=content["prompt"]["view"],
            prompt_box=tuple(content["prompt"]["box"]),
            prompt_points=[(x, y, label) for x, y, label in content["prompt"]["points"]],
            **own(content),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise SpinnerfError(f"{path}: not {what}'s description ({type(error).__name__}: {error}); {again}") from error
    for photo in scene.photos:
        if not (path.parent / photo).is_file():
            raise SpinnerfError(f"{path.parent / photo}: this photo of {what.replace('a ', 'the ', 1)} is missing; {again}")
    return scene


@contextmanager
def new_folder(root: Path) -> Iterator[Path]:
    """A folder to write into, which takes `root`'s place when the block is done; nothing is left behind on any error.

    Raises:
        SpinnerfError: `root` exists and is not an empty folder.
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise SpinnerfError(f"{root}: not an empty folder, expected a new one; delete it or name another")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".tmp-{root.name}-", dir=root.parent) as temporary:
        written = Path(temporary) / root.name  # made by mkdir, so that it has ordinary permissions
        written.mkdir()
        yield written
        if root.exists():
            root.rmdir()
        written.rename(root)
