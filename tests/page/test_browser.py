"""The page in a real browser, on the twin: what a person does, start to end. Needs `make browser`; never in CI."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from spinnerf_ns.files import load_object_mask
from spinnerf_ns.page.open import open_page
from spinnerf_ns.segmentation.prompts_file import load_prompts
from spinnerf_ns.segmentation.trackers.geometry import GeometryTracker
from tests.page.conftest import Shift, box_of, in_thread, true_mask

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if os.environ.get("CI"):
    pytest.skip("no browser in CI", allow_module_level=True)
if CHROMIUM is None:
    pytest.skip("no Chromium here: make browser installs one", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is absent: make browser installs it")

QUICK = ["--lite", "--seg-steps", "60", "--inpaint-steps", "30", "--export.background-steps", "40", "--export.inpainter", "opencv"]
"""The whole run in a minute: its result is nothing to look at."""
ROOT = Path(__file__).resolve().parents[2]
SERVE = """
import sys
from pathlib import Path
from spinnerf_ns.page.open import open_page
from spinnerf_ns.segmentation.trackers.geometry import GeometryTracker
from tests.page.conftest import Shift
tracker = Shift(float(sys.argv[4])) if float(sys.argv[4]) else GeometryTracker()
server = open_page(Path(sys.argv[1]), Path(sys.argv[2]), "grabcut", tracker, port=int(sys.argv[3]), removal_arguments=sys.argv[5:])
print(server.address, flush=True)
server.serve()
"""


class Served:
    """The page's server as a process of its own, so that it can be killed."""

    def __init__(self, data: Path, workspace: Path, slow: float = 0.0) -> None:
        self.data, self.workspace, self.slow, self.port = data, workspace, slow, 0
        self.start()

    def start(self) -> None:
        words = [sys.executable, "-W", "ignore", "-c", SERVE, str(self.data), str(self.workspace), str(self.port), str(self.slow)]
        words += QUICK
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for line in self.process.stdout:
            if line.startswith("http"):
                self.address = line.strip()
                self.port = int(self.address.rstrip("/").rpartition(":")[2])
                return
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Here:
    """The page's server in this process: quicker to start, for tests that do not kill it."""

    def __init__(self, data: Path, workspace: Path, slow: float = 0.0) -> None:
        tracker = Shift(slow) if slow else GeometryTracker()
        self.server = open_page(data, workspace, "grabcut", tracker, port=0, removal_arguments=QUICK)
        self.thread = in_thread(self.server)
        self.address = self.server.address

    def kill(self) -> None:
        self.server.stop()
        self.thread.join(10)


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def browser(chromium):
    yield chromium
    for context in chromium.contexts:  # tabs that are left would go on asking for their server
        context.close()


@pytest.fixture
def serve(twin, workspace):
    made = []

    def start(slow: float = 0.0, process: bool = False) -> Served | Here:
        made.append((Served if process else Here)(twin.root, workspace.root, slow))
        return made[-1]

    yield start
    for served in made:
        served.kill()


class Tab:
    """A tab with the page, and what a person does in it. Places are in the photo's pixels."""

    def __init__(self, browser, address: str, width: int = 1200, height: int = 800, **options) -> None:
        self.page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
        self.troubles: list[str] = []
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.goto(address)
        self.page.wait_for_selector(".shot img")
        self.until("document.querySelector('#view').dataset.shown !== undefined")

    def until(self, script: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not self.page.evaluate(script):
            assert time.monotonic() < end, f"never: {script}; {self.page.inner_text('#said')}"
            time.sleep(0.03)

    def state(self) -> dict:
        return self.page.evaluate("fetch('api/state').then((answer) => answer.json())")

    def idle(self) -> None:
        self.until("!document.body.classList.contains('waiting')")
        self.until("(({ shown, wanted }) => shown === wanted)(document.querySelector('#view').dataset)")

    def photo(self) -> str:
        return self.page.inner_text("#caption").split()[0]

    def screen(self, x: float, y: float) -> tuple[float, float]:
        """Where a place of the photo is in the window: the photo is fitted into the canvas, at 98 %."""
        box = self.page.locator("#view").bounding_box()
        scale = min(box["width"] / 160, box["height"] / 120) * 0.98
        return (
            box["x"] + (box["width"] - 160 * scale) / 2 + x * scale,
            box["y"] + (box["height"] - 120 * scale) / 2 + y * scale,
        )

    def click(self, x: float, y: float, button: str = "left") -> None:
        self.page.mouse.click(*self.screen(x, y), button=button)
        self.idle()

    def drag(self, *places: tuple[float, float]) -> None:
        self.page.mouse.move(*self.screen(*places[0]))
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*self.screen(*place), steps=5)
        self.page.mouse.up()
        self.idle()

    def key(self, name: str) -> None:
        self.page.keyboard.press(name)
        self.idle()

    def film(self) -> np.ndarray:
        """(H, W) bool: the mask that lies over the photo, as the browser has it."""
        self.until("document.querySelector('#view').dataset.shown !== ''")
        found = self.page.evaluate(
            """async () => {
              const image = new Image();
              image.src = document.querySelector('#view').dataset.shown.split(' ')[0];
              await image.decode();
              const canvas = document.createElement('canvas');
              [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
              const context = canvas.getContext('2d');
              context.drawImage(image, 0, 0);
              const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
              return [canvas.height, canvas.width, [...data].filter((_, index) => index % 4 === 3)];
            }"""
        )
        return np.array(found[2]).reshape(found[:2]) > 0

    def track(self) -> None:
        self.key("t")
        self.until("!document.querySelector('#progress').hidden || document.querySelector('#save').disabled === false")
        self.until("document.querySelector('#progress').hidden", 120)


def iou(first, second) -> float:
    return float((first & second).sum() / (first | second).sum())


def test_point_correct_track_save(browser, serve, twin, workspace) -> None:
    tab = Tab(browser, serve().address)
    first = tab.photo()
    true = true_mask(twin, first)
    tab.drag(*box_of(true))
    assert iou(tab.film(), true) > 0.8
    row, column = (int(np.median(axis)) for axis in np.nonzero(true))
    tab.page.mouse.click(*tab.screen(column, row))  # says what the mask says already
    tab.idle()
    assert iou(tab.film(), true) > 0.8
    tab.track()
    tab.key("ArrowRight")
    second = tab.photo()
    assert second != first and "tracked" in tab.page.inner_text("#caption")
    tracked, before = tab.film(), tab.state()["undo"]
    true = true_mask(twin, second)
    rows, columns = np.nonzero(true)
    top, left, right = rows.min(), columns[rows == rows.min()].min(), columns[rows == rows.min()].max()
    tab.key("e")  # rubs the neck out, and paints it again: a correction in a second view
    tab.drag((left, top + 2), (right, top + 2))
    assert tab.film().sum() < tracked.sum() and tab.state()["undo"] == before + 1
    tab.key("b")
    tab.drag((left, top + 1), (right, top + 1))
    assert tab.state()["undo"] == before + 2
    corrected = tab.film()
    assert iou(corrected, true) > 0.8
    assert tab.page.is_disabled("#save")
    tab.track()
    tab.key("s")
    tab.until("document.querySelector('#said').textContent.includes('ns-spinnerf remove')")
    tab.until("!document.querySelector('#save').classList.contains('next')")
    assert not tab.troubles
    prompts = {one.view: one for one in load_prompts(workspace.prompts_path)}
    assert set(prompts) == {first, second} and prompts[first].box and prompts[second].brush and prompts[second].mask_path.is_file()
    assert (load_object_mask(workspace.mask_path("masks_2d", second)) == corrected).all()
    for photo in twin.train_photos:
        name = photo.removeprefix("images/").removesuffix(".png")
        assert iou(load_object_mask(workspace.mask_path("masks_2d", name)), true_mask(twin, name)) > 0.7


def test_clicks_brush_undo_and_zoom(browser, serve, twin) -> None:
    tab = Tab(browser, serve().address)
    true = true_mask(twin, tab.photo())
    row, column = (int(np.median(axis)) for axis in np.nonzero(true))
    tab.click(column + 0.5, row + 0.5)
    clicked = tab.film()
    assert clicked[row, column]
    tab.key("b")
    tab.drag((10, 10), (30, 10))
    assert tab.film()[10, 10:30].all()
    tab.key("Control+z")
    assert (tab.film() == clicked).all()
    tab.key("Control+y")
    assert tab.film()[10, 20]
    tab.key("c")
    tab.until("document.querySelector('#view').dataset.shown === ''")
    tab.key("z")
    tab.key("z")
    tab.key("1")
    tab.click(5, 110, button="right")  # beside it: nothing changes there, but it is a step
    labels = list(tab.state()["prompts"]["object"].values())[0]["labels"]
    assert labels == [1, 0]
    tab.page.mouse.move(*tab.screen(80, 60))
    tab.page.mouse.wheel(0, -400)  # zoomed in about the middle: the same place of the photo is under the pointer
    tab.page.mouse.click(*tab.screen(80, 60))
    tab.idle()
    x, y = list(tab.state()["prompts"]["object"].values())[0]["points"][-1]
    assert abs(x - 80) < 0.5 and abs(y - 60) < 0.5 and not tab.troubles
    tab.key("?")
    assert "undo / redo" in tab.page.inner_text("#panel")
    tab.key("Escape")
    assert tab.page.is_hidden("#panel")


def test_two_tabs_see_the_same(browser, serve, twin) -> None:
    served = serve()
    one, two = Tab(browser, served.address), Tab(browser, served.address)
    true = true_mask(twin, one.photo())
    assert two.photo() == one.photo()
    one.drag(*box_of(true))
    assert (two.film() == one.film()).all()
    two.key("b")
    two.drag((10, 10), (30, 10))
    one.until("document.querySelector('#undo').disabled === false")
    one.until("fetch('api/state').then((answer) => answer.json()).then((state) => state.undo === 2)")
    time.sleep(0.3)
    assert (one.film() == two.film()).all() and one.film()[10, 20]
    one.key("z")
    one.key("z")
    two.until("document.querySelector('#view').dataset.shown === ''")
    two.page.on("dialog", lambda dialog: dialog.accept("lamp"))
    two.key("n")
    one.until("document.querySelectorAll('.object').length === 2")
    assert not one.troubles and not two.troubles


def test_a_tab_closed_while_tracking(browser, serve, twin) -> None:
    served = serve(slow=0.3)
    tab = Tab(browser, served.address)
    tab.drag(*box_of(true_mask(twin, tab.photo())))
    tab.key("t")
    tab.until("document.querySelector('#progress progress').value > 0")
    tab.page.close()
    again = Tab(browser, served.address)
    again.until("document.querySelector('#progress').hidden && !document.querySelector('#save').disabled", 60)
    assert len(again.state()["masks"]["object"]) == 6


def test_tracking_can_be_stopped(browser, serve, twin) -> None:
    tab = Tab(browser, serve(slow=0.4).address)
    tab.drag(*box_of(true_mask(twin, tab.photo())))
    tab.key("t")
    tab.until("document.querySelector('#progress progress').value > 0")
    tab.page.click("#progress button")
    tab.until("document.querySelector('#said').textContent.includes('stopped')")
    assert tab.page.is_disabled("#save") and tab.page.is_enabled("#track")


def test_a_server_killed_and_started_again(browser, serve, twin) -> None:
    served = serve(slow=0.3, process=True)
    tab = Tab(browser, served.address)
    tab.drag(*box_of(true_mask(twin, tab.photo())))
    tab.key("b")
    tab.drag((10, 10), (30, 10))
    before, film = tab.state(), tab.film()
    tab.key("t")
    tab.until("document.querySelector('#progress progress').value > 0")
    served.kill()
    tab.until("document.querySelector('#said').textContent.includes('the server is gone')")
    served.start()  # on the same port
    tab.until("document.querySelector('#said').textContent.includes('tracking was interrupted')", 30)
    after = tab.state()
    assert after["prompts"] == before["prompts"] and after["undo"] == before["undo"] and after["interrupted"]
    assert (tab.film() == film).all()
    tab.key("z")
    assert not tab.film()[10, 20]


def test_objects_by_name_and_the_whole_run(browser, serve, twin, workspace) -> None:
    tab = Tab(browser, serve().address)
    true = true_mask(twin, tab.photo())
    tab.drag(*box_of(true))
    tab.page.on("dialog", lambda dialog: dialog.accept("lamp"))
    tab.key("n")
    tab.until("document.querySelector('.object:nth-child(2).on span')?.textContent === 'lamp'")
    tab.key("b")
    tab.drag((8, 8), (24, 8))
    tab.track()
    tab.page.click(".object:nth-child(2) input")  # the lamp stays
    tab.idle()
    assert [one["selected"] for one in tab.state()["objects"]] == [True, False]
    tab.page.click(".object:nth-child(1)")
    tab.key("3")
    tab.until("Number(document.querySelector('#panel canvas')?.dataset.points) > 20")
    tab.key("Escape")
    tab.page.click("#remove")
    tab.until("document.querySelector('#progress span').textContent.startsWith('2/4')", 120)
    tab.until("document.querySelector('#compare') !== null", 400)
    said = tab.page.inner_text("#panel .bar")
    assert "% of what was removed is seen in no photo and invented" in said and not tab.troubles
    assert (workspace.removed / "transforms.json").is_file() and not tab.state()["removal"]["error"]
    assert "lamp" not in str(workspace.read_manifest()["stages"]["segment"]["parameters"].get("objects"))
    time.sleep(1)
    box = tab.page.locator("#compare").bounding_box()
    first = tab.page.locator("#compare").screenshot()
    tab.page.mouse.click(box["x"] + 0.7 * box["width"], box["y"] + 20)
    time.sleep(0.3)
    assert tab.page.locator("#compare").screenshot() != first
    shown = tab.page.inner_text("#panel .bar b")
    tab.key("ArrowRight")
    assert tab.page.inner_text("#panel .bar b") == tab.photo() != shown
    tab.key("Escape")
    assert tab.page.is_hidden("#panel") and tab.page.inner_text("#remove") == "Before/after"


def test_on_a_phone(browser, serve, twin) -> None:
    tab = Tab(browser, serve().address, 400, 800, has_touch=True, is_mobile=True, device_scale_factor=2)
    true = true_mask(twin, tab.photo())
    row, column = (int(np.median(axis)) for axis in np.nonzero(true))
    tab.page.touchscreen.tap(*tab.screen(column + 0.5, row + 0.5))
    tab.until("fetch('api/state').then((answer) => answer.json()).then((state) => state.undo === 1)")
    assert tab.film()[row, column]
    wide = tab.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 400 and not tab.troubles
    for name in ("#track", "#save", "#remove", "#undo", "#view", "#strip"):
        box = tab.page.locator(name).bounding_box()
        assert tab.page.is_visible(name) and box["x"] >= 0 and box["x"] + box["width"] <= 400, name
