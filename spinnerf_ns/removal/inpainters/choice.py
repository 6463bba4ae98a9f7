"""The inpainter that a user asked for, ready to work, or what can be had where the choice is left to us."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.removal.inpainters import INPAINTERS, Inpainter
from spinnerf_ns.weights.consent import asking_first

AUTO = "auto"
"""Leaves the choice to us."""


def choose_inpainter(name: str = AUTO, inpainted: Path | None = None, options: Sequence[str] = ()) -> tuple[str, Inpainter]:
    """Makes an inpainter and gets it ready.

    Args:
        name: its name, or "auto": `folder` where `inpainted` is given, else `lama` where its file is or the user lets
            it be fetched, else `patchmatch`; one printed line says which.
        inpainted: folder of photos inpainted elsewhere.
        options: its options as "field=value".

    Returns:
        Its name and an instance.

    Raises:
        SpinnerfError: no such name, options that it does not have, or what it needs (package, weights, folder) is missing.
    """
    if name == AUTO:
        if options:
            raise SpinnerfError(f"--inpainter-options {' '.join(options)}: whose? name the inpainter, too: --inpainter lama")
        return ("folder", _make("folder", inpainted, ())) if inpainted is not None else _lama_or_less()
    return name, _make(name, inpainted, options)


def _make(name: str, inpainted: Path | None, options: Sequence[str]) -> Any:
    given: dict[str, Any] = {}
    if name == "folder":
        if inpainted is None:
            raise SpinnerfError("--inpainter folder needs the folder of inpainted photos: --inpainted FOLDER")
        given["folder"] = inpainted
    inpainter = INPAINTERS.create(name, **INPAINTERS.parse_options(name, options), **given)
    if hasattr(inpainter, "prepare"):
        inpainter.prepare()
    return inpainter


def _lama_or_less() -> tuple[str, Inpainter]:
    from nerfstudio.utils.rich_utils import CONSOLE

    try:
        with asking_first():
            name, inpainter, why = "lama", _make("lama", None, ()), ""
    except SpinnerfError as error:
        name = "patchmatch"
        inpainter, why = _make(name, None, ()), f" instead of 'lama', which fills large gaps better: {error}"
    CONSOLE.print(f"Inpainter: taking '{name}'{why}", markup=False, highlight=False, soft_wrap=True)
    return name, inpainter
