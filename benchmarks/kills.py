"""A removal that is killed again and again ends as one that was left alone.

    python benchmarks/kills.py [--kills 25] [--photos 16] [--size 160x120] [--seed 0]

The twin's room in as many photos, `ns-spinnerf remove --lite` with short trainings. One run is left alone. Others, each from the
start, are killed (SIGKILL, the whole process group) after random times and started again with the same command, until so many
kills were made; what they end with is compared with the first one's: every mask, depth, photo and text file byte by byte, the
trained fields tensor by tensor. Says in which stage each kill fell. Exit status 1 if anything differs or was left behind.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

COMPARED = ("masks_2d", "objects", "masks_3d", "layers", "background", "removed", "stereo")
"""Folders of the workspace whose files are compared."""


def remove(scene: Path, pointed: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Starts a removal in a process group of its own."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        "from spinnerf_ns.cli import main; main()",
        "remove",
        "--data",
        str(scene),
        *pointed,
        "--lite",
    ]
    steps = ["--seg-steps", "60", "--inpaint-steps", "40", "--export.inpainter", "patchmatch"]
    with open(log, "ab") as file:
        return subprocess.Popen([*command, *steps], stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def stage_in(log: Path) -> str:
    """The last heading or bar that a log shows."""
    words = ("masks in every photo", "masks that agree", "photos and depth without", "the field without")
    names = ("segment", "train seg", "export", "train inpaint")
    bars = (
        "Rendering masks",
        "Fitting what stays",
        "Rendering depth",
        "Finding surfaces",
        "Continuing",
        "Filling",
        "Rehearsing",
        "Inpainting",
    )
    text = log.read_bytes().decode(errors="replace")
    found = max((text.rfind(word), name) for word, name in (*zip(words, names, strict=True), *zip(bars, bars, strict=True)))
    return found[1] if found[0] >= 0 else "start"


def result(scene: Path) -> dict[str, Any]:
    """File -> its bytes, or a checkpoint's tensors."""
    import torch

    workspace = scene / "spinnerf"
    found: dict[str, Any] = {}
    for folder in COMPARED:
        for path in sorted((workspace / folder).rglob("*")):
            if path.is_file() and path.suffix != ".pt":
                found[str(path.relative_to(workspace))] = path.read_bytes().replace(str(scene).encode(), b"SCENE")
    for path in sorted((workspace / "runs").rglob("*.ckpt")):
        state = torch.load(path, map_location="cpu", weights_only=False)["pipeline"]
        found[f"{path.parts[-4]}/{path.name}"] = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    return found


def same(one: Any, other: Any) -> bool:
    if not isinstance(one, dict):
        return bool(one == other)
    return isinstance(other, dict) and one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def differences(expected: dict[str, Any], scene: Path) -> list[str]:
    """What of a result is not as expected; files left behind."""
    found = result(scene)
    wrong = [f"{name}: only in one" for name in sorted(expected.keys() ^ found.keys())]
    wrong += [f"{name}: differs" for name in sorted(expected.keys() & found.keys()) if not same(expected[name], found[name])]
    left = [path for path in (scene / "spinnerf").iterdir() if path.name.startswith((".stage", ".tmp"))]
    return wrong + [f"{path.name}: left behind" for path in left]


def main() -> None:
    """Runs them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25, help="how many")
    parser.add_argument("--photos", type=int, default=16, help="photos of the capture")
    parser.add_argument("--size", default="160x120", help="their size, WxH")
    parser.add_argument("--seed", type=int, default=0, help="draws the times")
    given = parser.parse_args()
    from spinnerf_ns.evaluation.truth.twin import TwinConfig, write_twin

    width, height = (int(side) for side in given.size.split("x"))
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)

        def scene(name: str) -> tuple[Path, list[str]]:
            twin = write_twin(
                root / name, TwinConfig(num_train=given.photos, num_test=2, width=width, height=height, supersampling=1)
            )
            box = ",".join(f"{value:g}" for value in twin.prompt_box)
            return twin.root, ["--view", twin.prompt_view, "--box", box]

        alone, pointed = scene("alone")
        start = time.monotonic()
        if remove(alone, pointed, root / "alone.log").wait():
            sys.exit((root / "alone.log").read_text(errors="replace")[-2000:])
        seconds = time.monotonic() - start
        print(f"left alone: {seconds:.0f} s", flush=True)
        expected, where, wrong, kills, number = result(alone), Counter[str](), 0, 0, 0
        while kills < given.kills:
            number += 1
            killed, pointed = scene(f"killed-{number}")
            for attempt in range(200):
                log = root / f"killed-{number}-{attempt}.log"
                process = remove(killed, pointed, log)
                try:
                    # The first part of each attempt goes by in imports and in finding what is there.
                    status = process.wait(draw.uniform(0.1, 0.8) * seconds if kills < given.kills else None)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    kills += 1
                    where[stage_in(log)] += 1
                    continue
                if status:
                    sys.exit(f"an attempt after a kill failed: {log.read_text(errors='replace')[-2000:]}")
                break
            found = differences(expected, killed)
            wrong += len(found)
            print(
                f"run {number}, {kills} kills so far: {len(expected)} files and fields compared, {len(found)} differ",
                *found[:5],
                flush=True,
            )
    print(f"{kills} kills: " + ", ".join(f"{name} {count}" for name, count in where.most_common()))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
