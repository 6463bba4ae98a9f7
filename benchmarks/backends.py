"""Peak memory and time per photo of the embedded 2-D backends at 1008x567 (`images_4` of SPIn-NeRF), one process each.

    python benchmarks/backends.py [--lama FILE.pt] [--only NAME ...]

The photos are made up (a textured wall, a floor and a ball before them, the camera moving sideways), so that nothing has
to be downloaded. Inpainters fill the ball's dilated mask: about 3 % of the photo. Peak memory is the process' own, Python,
torch and the photos included. The tracker's figure is per tracked photo. --lama adds the LaMa inpainter with that file.
The last line is one JSON object: per backend seconds per photo and peak megabytes, and the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, PHOTOS = 1008, 567, 5
RADIUS = 68
EMBEDDED = {"grabcut": "segmenter", "flow": "tracker", "opencv": "inpainter", "patchmatch": "inpainter"}


def make_photo(number: int) -> tuple[Any, Any]:
    """A photo (H, W, 3) uint8 and its ball's mask (H, W) bool; the ball moves faster than the wall."""
    import cv2
    import numpy as np

    generator = np.random.default_rng(0)
    wall = generator.normal(0, 1, (HEIGHT, WIDTH + 400, 3)).astype(np.float32)
    wall = sum(amplitude * cv2.GaussianBlur(wall, (0, 0), sigma) * sigma for amplitude, sigma in ((40, 2), (50, 9)))
    shift = 12 * number
    picture = 130 + wall[:, shift : shift + WIDTH]
    picture[2 * HEIGHT // 3 :] *= np.array([0.8, 0.7, 0.5], np.float32)  # the floor
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    along, down = x - (WIDTH / 2 + 60 - 2 * shift), y - HEIGHT / 2 - 40
    ball = along**2 + down**2 < RADIUS**2
    stripes = 60 * np.sin((along + down) / 6)
    shading = 1 - (along**2 + down**2) / (2 * RADIUS**2)
    colour = np.stack([200 + stripes / 4, 60 + stripes, 40 + stripes / 2], axis=-1) * shading[..., None]
    picture[ball] = colour[ball]
    return np.clip(picture, 0, 255).astype(np.uint8), ball


def measure(name: str, lama: str | None) -> dict[str, float]:
    """Runs one backend in this process: seconds per photo, peak megabytes, and the least IoU of what was segmented."""
    import numpy as np

    from spinnerf_ns.conventions import dilate_mask

    images, masks = zip(*(make_photo(number) for number in range(PHOTOS)), strict=True)
    if EMBEDDED.get(name) == "segmenter":
        from spinnerf_ns.segmentation.prompts import Prompt
        from spinnerf_ns.segmentation.segmenters import SEGMENTERS

        backend = SEGMENTERS.create(name)
        rows, columns = np.nonzero(masks[0])
        box = (columns.min() - 8.0, rows.min() - 8.0, columns.max() + 9.0, rows.max() + 9.0)
        before, start = peak_bytes(), time.perf_counter()
        found = backend.segment(images[0], Prompt(view="0", box=box))
        seconds, truth, results = time.perf_counter() - start, masks[:1], [found]
    elif EMBEDDED.get(name) == "tracker":
        from spinnerf_ns.segmentation.trackers import TRACKERS

        backend = TRACKERS.create(name)
        before, start = peak_bytes(), time.perf_counter()
        results = backend.track([lambda image=image: image for image in images], {0: masks[0]})
        seconds, truth = (time.perf_counter() - start) / (PHOTOS - 1), masks
    else:
        from spinnerf_ns.removal.inpainters import INPAINTERS

        options = {"weights": lama, "trust_weights": True, "device": "cpu"} if name == "lama" else {}
        backend = INPAINTERS.create(name, **options)
        backend.prepare()
        before, start = peak_bytes(), time.perf_counter()
        filled = [backend.inpaint(image, dilate_mask(mask)) for image, mask in zip(images[:2], masks[:2], strict=True)]
        seconds = (time.perf_counter() - start) / 2
        assert all((one != two).any() for one, two in zip(filled, images[:2], strict=True))
        truth, results = (), ()
    answer = {"s_per_photo": round(seconds, 3), "peak_mb": round(peak_bytes() / 1e6), "before_mb": round(before / 1e6)}
    if truth:
        pairs = [(mask, found if found is not None else np.zeros_like(mask)) for mask, found in zip(truth, results, strict=True)]
        answer["iou"] = round(min(float((a & b).sum() / (a | b).sum()) for a, b in pairs), 3)
    return answer


def peak_bytes() -> int:
    """The process' largest resident memory up to now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Runs every backend in a process of its own, prints a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lama", help="LaMa's TorchScript file")
    parser.add_argument("--only", nargs="*", help="backends to measure")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.lama)))
        return
    names = arguments.only or [*EMBEDDED, *(["lama"] if arguments.lama else [])]
    result: dict[str, Any] = {"photo": f"{WIDTH}x{HEIGHT}"}
    print("| backend | kind | s per photo | peak memory, MB | before it began, MB |\n|---|---|---|---|---|")
    for name in names:
        command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--measure", name]
        command += ["--lama", arguments.lama] if arguments.lama else []
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"{name}: {run.stderr.strip().splitlines()[-1]}")
        result[name] = json.loads(run.stdout.splitlines()[-1])
        kind = EMBEDDED.get(name, "inpainter")
        found = result[name]
        print(f"| {name} | {kind} | {found['s_per_photo']:.2f} | {found['peak_mb']} | {found['before_mb']} |", flush=True)
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    result["machine"] = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {threads} threads"
    print(json.dumps(result))


if __name__ == "__main__":
    main()
