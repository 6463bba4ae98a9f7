"""A run as one HTML file: pictures side by side, a before/after slider, figures and timings.

The file holds all it shows and asks the network for nothing (its own content-security policy forbids it), so it can be
sent by mail, kept beside a run or opened years later. Without JavaScript everything but the slider is still there.
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.report_page import PAGE
from spinnerf_ns.files import atomic_path

JPEG_ABOVE = 256 * 256
"""Colour pictures with more pixels than this are stored as JPEG, the others and all masks as PNG."""

JPEG_QUALITY = 92

BEFORE = ("before", "photo")
AFTER = ("after", "render", "clean", "removed")
"""A picture whose label begins with one of these is the slider's left or right side at first, the earlier word first."""

_LOWER_IS_BETTER = ("lpips", "fid", "mse", "seconds", "error")
_HIGHER_IS_BETTER = ("psnr", "ssim", "iou", "accuracy")

Figure = float | int | str | bool | None


@dataclass
class ReportRow:
    """One view of the report."""

    name: str
    """The view's name: its photo's key."""
    pictures: dict[str, npt.NDArray] = field(default_factory=dict)
    """By label, in the order shown: (H, W, 3) uint8 or float in [0, 1]; (H, W) bool, a mask, True = white; (H, W) uint8,
    grey; (H, W) float, a map such as depth, coloured from its smallest to its largest value, 0 and not finite = black."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """By name with variant ("psnr_mask"); None or not finite: shown as missing."""


def write_report(
    path: Path,
    title: str,
    rows: Sequence[ReportRow],
    summary: Mapping[str, Figure | Mapping[str, Figure]],
    timings: Mapping[str, float],
) -> None:
    """Writes the report, atomically.

    Args:
        path: the .html file; its folder is made.
        title: the page's heading.
        rows: the views, in the order shown.
        summary: figures of the whole run. A plain value becomes a tile; a dictionary becomes a row of a table (one
            method each, say), in which the best figure of each column is set in bold.
        timings: seconds per stage. A key that ends in "total" is the sum and gets no bar.

    Raises:
        SpinnerfError: a picture of a shape that cannot be shown.
    """
    tiles = {key: value for key, value in summary.items() if not isinstance(value, Mapping)}
    methods = {key: value for key, value in summary.items() if isinstance(value, Mapping)}
    sections = [
        _tiles(tiles),
        _section(_heading(methods), _table("", methods, mark_best=True)) if methods else "",
        _section("Before and after", _slider(rows)) if any(len(row.pictures) > 1 for row in rows) else "",
        _section("Views", "".join(_view(index, row) for index, row in enumerate(rows))) if rows else "",
        _figures(rows),
        _section("Time", _timings(timings)) if timings else "",
    ]
    parts = {"title": html.escape(title), "body": "\n".join(filter(None, sections))}
    page = re.sub(r"\{\{(title|body)\}\}", lambda place: parts[place[1]], PAGE)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def outlined(photo: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """The photo with the mask tinted red."""
    tinted = photo.astype(np.float32)
    tinted[mask] = 0.45 * tinted[mask] + 0.55 * np.array([255, 40, 40], np.float32)
    return tinted.astype(np.uint8)


# -------------------------------------------------------------------------------------------------------------- sections
def _heading(lines: Mapping[str, Mapping[str, Figure]]) -> str:
    """Lines of methods, whose columns have a better and a worse, are compared; lines of figures are not."""
    return "Compared" if any(direction(key) for figures in lines.values() for key in figures) else "Over which pixels"


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{html.escape(heading)}</h2>\n{content}</section>"


def _tiles(figures: Mapping[str, Figure]) -> str:
    if not figures:
        return ""
    tiles = []
    for key, value in figures.items():
        words = " class=words" if isinstance(value, str) else ""
        tiles.append(f"<div class=tile><dt>{html.escape(key)}</dt><dd{words}>{_text(value, key)}</dd></div>")
    return f"<dl class=tiles>{''.join(tiles)}</dl>"


def _slider(rows: Sequence[ReportRow]) -> str:
    """The comparison's controls and frame; the script fills in the pictures that stand in the views below."""
    labels = list(dict.fromkeys(label for row in rows for label in row.pictures))
    offered = [index for index, row in enumerate(rows) if len(row.pictures) > 1]
    after = _preferred(labels[1:], AFTER)
    first = next((index for index in offered if after in rows[index].pictures), offered[0])
    before = _preferred([label for label in rows[first].pictures if label != after], BEFORE)

    def option(value: object, text: str, chosen: bool) -> str:
        return f'<option value="{html.escape(str(value))}"{" selected" if chosen else ""}>{html.escape(text)}</option>'

    def options(chosen: str) -> str:
        return "".join(option(label, label, label == chosen) for label in labels)

    views = "".join(option(index, rows[index].name, index == first) for index in offered)
    return f"""<div class=compare id=compare hidden>
<div class=controls>
<label>View <select id=view>{views}</select></label>
<label>Left <select id=left data-prefer="{" ".join(BEFORE)}">{options(before)}</select></label>
<label>Right <select id=right data-prefer="{" ".join(AFTER)}">{options(after)}</select></label>
</div>
<div class=frame id=frame>
<img id=under alt=""><img id=over alt="">
<span class="tag tag-left" id=tag-left></span><span class="tag tag-right" id=tag-right></span>
<span class=bar aria-hidden=true></span>
<input type=range id=split min=0 max=100 step=0.5 value=50 aria-label="Share of the left picture shown, in per cent">
</div>
</div>
<noscript><p>The slider needs JavaScript; the pictures are below.</p></noscript>"""


def _preferred(labels: Sequence[str], words: Sequence[str]) -> str:
    """The label that begins with the earliest of the words, else the first label."""
    return next((label for word in words for label in labels if label.lower().startswith(word)), labels[0])


def _view(index: int, row: ReportRow) -> str:
    pictures = []
    for label, picture in row.pictures.items():
        source, width, height = _data_url(picture, f"{row.name}, {label}")
        name = html.escape(label, quote=True)
        pictures.append(
            f'<figure><img src="{source}" width={width} height={height} alt="{html.escape(row.name, quote=True)}: {name}" '
            f'data-view={index} data-label="{name}"><figcaption>{name}</figcaption></figure>'
        )
    return f"<article><h3>{html.escape(row.name)}</h3><div class=pictures>{''.join(pictures)}</div></article>\n"


def _figures(rows: Sequence[ReportRow]) -> str:
    table = {row.name: row.figures for row in rows if row.figures}
    return _section("Figures", _table("view", table, mark_best=False)) if table else ""


def _table(corner: str, lines: Mapping[str, Mapping[str, Figure]], mark_best: bool) -> str:
    keys = list(dict.fromkeys(key for figures in lines.values() for key in figures))
    head = "".join(f"<th scope=col>{html.escape(key)}{_arrow(key)}</th>" for key in keys)
    best = {key: _best(key, [figures.get(key) for figures in lines.values()]) for key in keys} if mark_best else {}
    body = []
    for name, figures in lines.items():
        cells = []
        for key in keys:
            value = figures.get(key)
            strong = best.get(key) is not None and value == best[key]
            text = _text(value, f"{name} {key}")  # a line may be a method or a figure
            cells.append(f"<td{' class=best' if strong else ''}>{text}</td>")
        body.append(f"<tr><th scope=row>{html.escape(name)}</th>{''.join(cells)}</tr>")
    return (
        f"<div class=scroll tabindex=0><table><thead><tr><th scope=col>{html.escape(corner)}</th>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _timings(timings: Mapping[str, float]) -> str:
    longest = max((seconds for key, seconds in timings.items() if not _is_total(key)), default=0) or 1
    lines = []
    for key, seconds in timings.items():
        share = 0 if _is_total(key) else 100 * seconds / longest
        row = " class=total" if _is_total(key) else ""
        lines.append(
            f"<tr{row}><th scope=row>{html.escape(key)}</th><td>{_duration(seconds)}</td>"
            f'<td class=bars><span style="width:{share:.1f}%"></span></td></tr>'
        )
    return f"<table class=timings><tbody>{''.join(lines)}</tbody></table>"


def _is_total(key: str) -> bool:
    return key.endswith("total")


# --------------------------------------------------------------------------------------------------------------- figures
def _text(value: Figure, key: str = "") -> str:
    """A figure as HTML: `format_figure`'s text, an en dash for what is missing."""
    if value is None or (isinstance(value, (float, np.floating)) and not math.isfinite(value)):
        return "<span class=missing title=missing>–</span>"
    return html.escape(format_figure(value, key))


def format_figure(value: float | int | str | bool, key: str = "") -> str:
    """A figure as text, with digits by its kind: `key` is its name."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, (float, np.floating)):
        if "seconds" in key:
            return _duration(float(value))
        if "psnr" in key:
            return f"{value:.2f}"
        return f"{value:.3f}" if 0.1 <= abs(value) < 10 else f"{value:.4g}" if abs(value) >= 10 else f"{value:.3g}"
    return str(value)


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "–"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def direction(key: str) -> int:
    """1 if more is better, -1 if less is, 0 if neither is known."""
    if any(word in key.lower() for word in _HIGHER_IS_BETTER):
        return 1
    return -1 if any(word in key.lower() for word in _LOWER_IS_BETTER) else 0


def _arrow(key: str) -> str:
    mark, meaning = {1: ("↑", "higher"), -1: ("↓", "lower"), 0: ("", "")}[direction(key)]
    return f" <span title='{meaning} is better'>{mark}</span>" if mark else ""


def _best(key: str, values: Sequence[Any]) -> float | None:
    numbers = [v for v in values if isinstance(v, (int, float, np.number)) and math.isfinite(v)]
    if len(numbers) < 2 or not direction(key):
        return None
    return max(numbers) if direction(key) > 0 else min(numbers)


# -------------------------------------------------------------------------------------------------------------- pictures
def _data_url(picture: npt.NDArray, what: str) -> tuple[str, int, int]:
    """A picture as a data URL, with its width and height."""
    array = _displayed(np.asarray(picture), what)
    height, width = array.shape[:2]
    is_photo = array.ndim == 3 and height * width > JPEG_ABOVE
    data = cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if array.ndim == 3 else array
    suffix, options = (".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]) if is_photo else (".png", [])
    encoded = cv2.imencode(suffix, data, options)[1]
    kind = "jpeg" if is_photo else "png"
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode('ascii')}", width, height


def _displayed(array: npt.NDArray, what: str) -> npt.NDArray[np.uint8]:
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise SpinnerfError(f"{what}: a picture (height, width, 3) or (height, width) was expected, found {array.shape}")
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.ndim == 3:
        return (np.nan_to_num(array.astype(np.float64)).clip(0, 1) * 255).round().astype(np.uint8)
    known = np.isfinite(array) & (array != 0)
    if not known.any():
        return np.zeros((*array.shape, 3), dtype=np.uint8)
    values = array[known].astype(np.float64)
    span = values.max() - values.min()
    grey = np.zeros(array.shape, dtype=np.uint8)
    grey[known] = ((values - values.min()) / span * 255).round() if span > 0 else 128
    coloured = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    coloured[~known] = 0
    return coloured
