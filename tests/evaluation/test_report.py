"""The report: all it shows is in the file, and text from outside stays text."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.report import ReportRow, write_report

_VOID = {"meta", "img", "input", "br", "link"}
_OPTIONAL_END = {"p", "option", "html", "body"}


class _Page(HTMLParser):
    """Tags with attributes, and the text of each kind of cell; fails on tags that do not nest."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(source)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data):
        if data.strip() and self.open:
            self.texts.append((self.open[-1], data.strip()))

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]

    def cells(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def _write(path: Path, **changes) -> _Page:
    photo = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    first = {"photo": photo, "object mask": photo[..., 0] > 9, "render": photo / 255}
    rows = [
        ReportRow("cam0/a", first, {"psnr_mask": 25.125}),
        ReportRow("cam0/b", {"photo": photo, "depth z": photo[..., 0] / 9}, {"psnr_mask": None, "ssim_mask": 0.5}),
    ]
    given = dict(title="A run", rows=rows, summary={"iou_heldout": 0.97}, timings={"segment": 1.5, "total": 61.5}) | changes
    write_report(path, **given)
    return _Page(path.read_text(encoding="utf-8"))


def test_pictures_are_inside_and_come_back_equal(tmp_path: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    object_mask = picture[..., 0] > 99
    page = _write(tmp_path / "new" / "report.html", rows=[ReportRow("a", {"photo": picture, "object mask": object_mask})])
    shown = [image for image in page.all("img") if "data-view" in image]
    decoded = [
        cv2.imdecode(np.frombuffer(base64.b64decode(image["src"].split(",", 1)[1]), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        for image in shown
    ]
    assert np.array_equal(decoded[0], picture)
    assert np.array_equal(decoded[1], np.repeat(object_mask[..., None] * np.uint8(255), 3, axis=-1))
    assert (shown[0]["width"], shown[0]["height"]) == ("30", "20") and shown[1]["alt"] == "a: object mask"


def test_large_photos_are_jpeg_and_close(tmp_path: Path) -> None:
    y, x = np.mgrid[:300, :400]
    picture = np.stack([x / 400 * 255, y / 300 * 255, 128 + 0 * x], axis=-1).astype(np.uint8)
    page = _write(tmp_path / "r.html", rows=[ReportRow("a", {"photo": picture})])
    source = next(image["src"] for image in page.all("img") if "data-view" in image)
    assert source.startswith("data:image/jpeg;base64,")
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(source.split(",", 1)[1]), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decoded.astype(int) - picture).mean() < 2


def test_asks_the_network_for_nothing(tmp_path: Path) -> None:
    page = _write(tmp_path / "r.html")
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed")
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
    style = re.sub(r"data:image[^\"]*", "", (tmp_path / "r.html").read_text())
    assert "http://" not in style and "https://" not in style and "@import" not in style and "url(" not in style
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_the_slider_can_be_reached_and_named(tmp_path: Path) -> None:
    page = _write(tmp_path / "r.html")
    (slider,) = page.all("input")
    assert slider["type"] == "range" and slider["aria-label"] and (slider["min"], slider["max"]) == ("0", "100")
    selected = [attributes for tag, attributes in page.tags if tag == "option" and "selected" in attributes]
    assert len(selected) == 3
    choices = page.cells("option")
    assert choices == ["cam0/a", "cam0/b"] + ["photo", "object mask", "render", "depth z"] * 2
    one_picture = _write(tmp_path / "one.html", rows=[ReportRow("a", {"photo": np.zeros((4, 4, 3), np.uint8)})])
    assert one_picture.all("input") == []


def test_the_render_stands_on_the_right_at_first(tmp_path: Path) -> None:
    _write(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert re.search(r'id=left [^>]*><option value="photo" selected>', text)
    assert re.search(r'id=right [^>]*>[^\n]*<option value="render" selected>', text)
    small = np.zeros((4, 4, 3), np.uint8)
    rows = [ReportRow("training", {"photo": small, "mask": small}), ReportRow("held out", {"truth": small, "before": small})]
    rows[1].pictures["after"] = small
    page = _write(tmp_path / "held_out.html", rows=rows)
    chosen = [attributes["value"] for tag, attributes in page.tags if tag == "option" and "selected" in attributes]
    assert chosen == ["1", "before", "after"]


def test_the_slider_moves_in_a_browser(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine; apt-get install chromium")
    path = tmp_path / "r.html"
    _write(path)
    hand = """<script>
const set = (id, value, event) => { window[id].value = value; window[id].dispatchEvent(new Event(event)); };
set("view", "1", "change");  // this view has no render
set("split", "72", "input");
document.title = [left.value, right.value, getComputedStyle(over).clipPath, over.naturalWidth, compare.hidden].join("|");
</script></body>"""
    path.write_text(path.read_text(encoding="utf-8").replace("</body>", hand), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command = [browser, *flags, f"--user-data-dir={tmp_path}/profile", "--dump-dom", path.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    left, right, clip, width, hidden = re.search(r"<title>(.*?)</title>", shown)[1].split("|")
    assert (left, right, hidden) == ("photo", "depth z", "false") and int(width) in (0, 40)
    assert "28%" in clip  # 72 % of the left picture are left


def test_figures_and_timings(tmp_path: Path) -> None:
    page = _write(
        tmp_path / "r.html",
        summary={
            "iou_heldout": np.float32(0.97),
            "fid_full": None,
            "perceptual loss": "ssim",
            "photos": 12345,
            "masked NeRF": {"psnr_mask": 21.0, "lpips-vgg_mask": 0.5, "other": 1.0},
            "ours": {"psnr_mask": 26.0, "lpips-vgg_mask": 0.3, "other": float("nan")},
        },
    )
    assert page.cells("dd") == ["0.970", "ssim", "12\u202f345"]
    best = [index for index, (tag, attributes) in enumerate(page.tags) if attributes.get("class") == "best"]
    assert len(best) == 2  # of "other" nobody knows which direction is better
    assert page.cells("td")[:5] == ["21.00", "0.500", "1.000", "26.00", "0.300"]
    text = (tmp_path / "r.html").read_text()
    assert "25.12" in text and "<td>1.5 s</td>" in text and "<td>61.5 s</td>" in text and "nan" not in text.lower()
    assert text.count("title=missing") == 4  # fid_full, other, and one figure of each view


def test_text_from_outside_stays_text(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>&"\'{{body}}'
    row = ReportRow(evil, {evil: np.zeros((4, 4, 3), np.uint8), "b": np.zeros((4, 4), np.uint8)}, {evil: evil})
    page = _write(tmp_path / "r.html", title=evil, rows=[row], summary={evil: evil, "m": {evil: 1.0}}, timings={evil: 1.0})
    assert len(page.all("script")) == 1
    assert page.cells("h1") == [evil] and page.cells("figcaption")[0] == evil and page.cells("h3") == [evil]


def test_nothing_to_show_is_still_a_page(tmp_path: Path) -> None:
    page = _write(tmp_path / "r.html", rows=[], summary={}, timings={})
    assert page.cells("h1") == ["A run"] and page.cells("h2") == []
    _write(tmp_path / "bare.html", rows=[ReportRow("a")], timings={"total": 0.0})


def test_maps_with_holes_and_constant_maps(tmp_path: Path) -> None:
    depth = np.array([[0.0, np.nan, np.inf], [1.0, 2.0, 3.0]], dtype=np.float32)
    pictures = {"holes": depth, "constant": np.ones((2, 3), np.float32), "nothing": np.zeros((2, 3), np.float32)}
    page = _write(tmp_path / "r.html", rows=[ReportRow("a", pictures)])
    decoded = [
        cv2.imdecode(np.frombuffer(base64.b64decode(image["src"].split(",", 1)[1]), np.uint8), cv2.IMREAD_COLOR)
        for image in page.all("img")
        if "data-view" in image
    ]
    assert (decoded[0][0] == 0).all() and (decoded[0][1].sum(axis=-1) > 0).all()
    assert len(np.unique(decoded[0][1], axis=0)) == 3 and len(np.unique(decoded[1].reshape(-1, 3), axis=0)) == 1
    assert (decoded[2] == 0).all()


def test_a_picture_that_cannot_be_shown_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(SpinnerfError, match="view 7, photo.*found"):
        _write(tmp_path / "r.html", rows=[ReportRow("view 7", {"photo": np.zeros((4, 4, 2), np.uint8)})])
    assert list(tmp_path.iterdir()) == []
