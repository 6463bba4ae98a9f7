"""Pointing in the page: how long a click takes, and what masks cost in clicks.

python benchmarks/pointing.py latency CAPTURE           clicks and a tracking through the page's server, as a browser asks for them
python benchmarks/pointing.py clicks CAPTURE [...]      a person who is simulated, on rendered captures, which have true masks

The person clicks into the middle of the largest part that is wrong, first the object's own middle, until the mask is good or
enough was clicked; tracks; goes to the photo that the page calls most doubtful; and so on. No other knowledge of the truth is used.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np

from spinnerf_ns.files import load_object_mask
from spinnerf_ns.page.server import Server
from spinnerf_ns.page.session import Session
from spinnerf_ns.page.tracking import TrackingJob
from spinnerf_ns.scene.capture import load_capture
from spinnerf_ns.scene.workspace import Workspace
from spinnerf_ns.segmentation.segmenters.grabcut import GrabCutSegmenter
from spinnerf_ns.segmentation.trackers.geometry import GeometryTracker

CLICKS = 20
"""Clicks that are timed."""
VIEWS, MOST_CLICKS, GOOD = 3, 8, 0.97
"""Photos that the person clicks in, clicks in each, and the IoU at which he is content with a photo."""


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["latency", "clicks"])
    parser.add_argument("captures", nargs="+", type=Path)
    parser.add_argument("--no-track", action="store_true", help="latency of clicks alone")
    parser.add_argument("--first", help="the photo that the person starts in; by default the middle one of the camera path")
    arguments = parser.parse_args()
    for capture in arguments.captures:
        with tempfile.TemporaryDirectory() as folder:
            session = opened(capture, Path(folder))
            latency(session, not arguments.no_track) if arguments.what == "latency" else clicks(session, capture, arguments.first)


def opened(data: Path, folder: Path) -> Session:
    """The page's session of a capture, in a workspace of its own."""
    capture, workspace = load_capture(data), Workspace.open(data, folder / "work")
    if (data / "twin.json").is_file():
        free = json.loads((data / "twin.json").read_text())["object_free"]
        workspace.set_object_free([capture.view(photo).photo for photo in free])
    return Session(capture, workspace, GrabCutSegmenter(), GeometryTracker())


def latency(session: Session, track: bool) -> None:
    """Times clicks, first ones and corrections in turn, from the request to the mask's picture; then a tracking."""
    server = Server(session, port=0)
    threading.Thread(target=server.serve, daemon=True).start()
    connection = http.client.HTTPConnection("127.0.0.1", server.port)

    def ask(path: str, action: dict | None = None) -> bytes:
        body = None if action is None else json.dumps(action)
        connection.request("POST" if body else "GET", path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return content

    views = session.views
    times: dict[str, list[float]] = {"first click": [], "correction": []}
    for place in np.linspace(0, len(views) - 1, CLICKS // 2).round().astype(int):
        view = views[place]
        ask(f"/photo/{place}/large")  # it is looked at before it is clicked at
        x, y, label = view.width / 2, view.height / 2, 1
        for kind in times:
            click = {"do": "point", "name": "object", "photo": view.photo, "x": x, "y": y, "label": label}
            start = time.perf_counter()
            ask("/api/act", click)
            ask(f"/mask/0/{place}/large")
            times[kind].append(time.perf_counter() - start)
            (x, y), label = middle(session.mask("object", view.photo)), 0  # a correction: that is no part of it
    everything = times["first click"] + times["correction"]
    for kind, each in {**times, "all": everything}.items():
        print(f"{kind}: median {np.median(each):.2f} s, worst {max(each):.2f} s of {len(each)}")
    if not track:
        return
    for photo in list(session.store.prompts["object"]):
        session.clear("object", photo)
    view = views[len(views) // 2]
    session.box("object", view.photo, 0.3 * view.width, 0.3 * view.height, 0.7 * view.width, 0.7 * view.height)
    for what in ("depth, measured once, and track", "track"):
        start = time.perf_counter()
        ask("/api/act", {"do": "track"})
        while server.page.tracking.state()["running"]:
            time.sleep(0.1)
        seconds, error = time.perf_counter() - start, server.page.tracking.state()["error"] or ""
        print(f"{what} of {len(views)} photos by {session.tracker.name}: {seconds:.0f} s {error}")


def clicks(session: Session, data: Path, first: str | None = None) -> None:
    """Mean and least IoU of all photos' masks after each photo that the person clicked in."""
    truth = {view.photo: load_object_mask(data / "truth" / "object_masks" / f"{view.photo}.png") for view in session.views}
    photo, name, count = first or session.views[len(session.views) // 2].photo, "object", 0
    print(f"{data.name}: {len(truth)} photos")
    for number in range(VIEWS):
        course = []
        for _ in range(MOST_CLICKS):
            found = session.mask(name, photo)
            if found is None:
                (x, y), label = middle(truth[photo]), 1
            else:
                missed, wrong = truth[photo] & ~found, found & ~truth[photo]
                label = int(depth(missed) >= depth(wrong))
                x, y = middle(missed if label else wrong)
            session.point(name, photo, x, y, label)
            count += 1
            course.append(iou(session.mask(name, photo), truth[photo]))
            if course[-1] > GOOD:
                break
        job = TrackingJob(session)
        job.start()
        job.wait()
        every = [iou(session.mask(name, each), true) for each, true in truth.items()]
        print(f"  photo {number + 1} ({photo}): IoU after each click {' '.join(f'{one:.2f}' for one in course)}")
        print(f"    {count} clicks, all photos: mean IoU {np.mean(every):.4f}, least {min(every):.3f}", flush=True)
        state = session.state()["masks"][name]
        tracked = {one: entry["agreement"] or 0 for one, entry in state.items() if entry["kind"] != "prompt"}
        photo = min(tracked, key=tracked.__getitem__)


def depth(part: np.ndarray) -> float:
    """Pixels from the innermost pixel of a part to its rim."""
    return float(cv2.distanceTransform(np.pad(part, 1).astype(np.uint8), cv2.DIST_L2, 5).max())


def middle(part: np.ndarray) -> tuple[float, float]:
    """(x, y) of the innermost pixel of a part."""
    distance = cv2.distanceTransform(np.pad(part, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(distance.argmax(), distance.shape)
    return float(column) + 0.5, float(row) + 0.5


def iou(found: np.ndarray | None, true: np.ndarray) -> float:
    """Intersection over union; 0 for a photo in which the object was lost."""
    return 0.0 if found is None else float((found & true).sum() / (found | true).sum())


if __name__ == "__main__":
    sys.exit(main())
