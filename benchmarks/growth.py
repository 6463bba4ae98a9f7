"""Seconds per stage and photo, and peak memory per stage, of a removal from captures of growing size.

    python benchmarks/growth.py --photos 30 60 120 [--size 1008x567] [--steps 200] [--data CAPTURE] [--plot FILE.png]

The captures are the twin's room in as many photos; with --data, evenly spread photos of a capture that lies on disk (pointed at
with --view and --box). Every stage runs in a process of its own, so that its peak memory is its own; what a process does before
its stage (imports, reading the photos) is said as "read". Trainings are short: their steps take as long whatever came before, and
so their row is milliseconds per step. Without --keep what was made is deleted at the end.

The last line is one JSON object: per number of photos and stage, seconds and peak megabytes, and the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STAGES = ("segment", "train seg", "render", "background", "export", "train inpaint")
"""Each a process."""
PER_STEP = ("train seg", "train inpaint")
"""Stages whose figure is milliseconds per step."""


# ------------------------------------------------------------------------------------------------------------ the captures
def grow(root: Path, photos: int, size: tuple[int, int]) -> dict[str, Any]:
    """Writes a twin of so many photos, without its truth; what is pointed at in it."""
    import numpy as np

    from spinnerf_ns.evaluation.truth.twin import (
        SPARSE_POINTS,
        TwinConfig,
        _surface_points,
        _transforms,
        build_cameras,
        build_room,
        prompt_from_mask,
    )
    from spinnerf_ns.evaluation.truth.twin_render import render_depths, render_photos
    from spinnerf_ns.files import write_png
    from spinnerf_ns.scene.points import write_ply

    pointed = root / "pointed.json"
    if not pointed.is_file():
        config = TwinConfig(num_train=photos, num_test=1, width=size[0], height=size[1], supersampling=1)
        room, cameras = build_room(np.random.default_rng([config.seed, 0])), build_cameras(config)[0]
        names = [f"images/frame_{index + 1:04d}.png" for index in range(photos)]
        middle, points, colours = photos // 2, [], []
        rng = np.random.default_rng(2)
        for index, (name, camera) in enumerate(zip(names, cameras, strict=True)):
            shown = render_photos(room, camera, 1, False)[1]
            write_png(root / name, shown)
            z_free, z = render_depths(room, camera)
            chosen = rng.choice(z.size, -(-SPARSE_POINTS // photos), replace=False)
            points.append(_surface_points(camera, z, chosen))
            colours.append(shown.reshape(-1, 3)[chosen])
            if index == middle:
                box = prompt_from_mask(z < z_free)[0]
        write_ply(root / "sparse_pc.ply", np.concatenate(points), np.concatenate(colours))
        meta = _transforms(config, names, cameras)
        (root / "transforms.json").write_text(json.dumps(meta))
        pointed.write_text(json.dumps({"view": names[middle], "box": ",".join(f"{value:g}" for value in box)}))
    return json.loads(pointed.read_text())


def thin_out(capture: Path, root: Path, photos: int, view: str) -> None:
    """Writes a capture of some of another's photos, evenly along its list, the one pointed at among them; photos are linked."""
    meta = json.loads((capture / "transforms.json").read_text())
    frames = sorted(meta["frames"], key=lambda frame: frame["file_path"])
    chosen = {round(place * (len(frames) - 1) / max(1, photos - 1)) for place in range(photos)}
    meta["frames"] = [frame for index, frame in enumerate(frames) if index in chosen or Path(frame["file_path"]).stem == view]
    names = [frame["file_path"] for frame in meta["frames"]]
    meta |= {"train_filenames": names, "val_filenames": names[:1], "test_filenames": names[:1]}
    root.mkdir(parents=True)
    for name in {Path(frame["file_path"]).parts[0] for frame in meta["frames"]} | {meta.get("ply_file_path")} - {None}:
        (root / name).symlink_to((capture / name).resolve())
    (root / "transforms.json").write_text(json.dumps(meta))


# ---------------------------------------------------------------------------------------------------------------- a stage
def run_stage(stage: str, scene: Path, steps: int, pointed: dict[str, Any]) -> dict[str, Any]:
    """Runs one stage in this process.

    Returns:
        "seconds" of the stage, "processor": of all its threads, "read": seconds before it, "megabytes": the process' peak; of a
        training "per_step" milliseconds.
    """
    start = time.perf_counter()
    from spinnerf_ns.runs import method_config, with_steps
    from spinnerf_ns.scene.workspace import Workspace

    workspace = Workspace.open(scene)
    found: dict[str, Any] = {}
    if stage == "segment":
        from spinnerf_ns.cli.segment import Segment

        Segment(scene, pointed["view"], box=pointed["box"], segmenter="grabcut", tracker="auto").main()
        begun = start, 0.0
    elif stage in PER_STEP:
        method, data = ("spinnerf-seg-lite", scene) if stage == "train seg" else ("spinnerf-inpaint-lite", workspace.removed)
        config = with_steps(method_config(method), steps)
        if stage == "train seg":
            config.pipeline.export_on_completion = False
        else:
            config.pipeline.model.perceptual_loss = "ssim"  # "auto" would download
        begun, found["per_step"] = _trained(config, data, workspace.root / "runs", steps)
    else:
        begun = _exported(stage, scene, workspace)
    seconds, processor = time.perf_counter() - begun[0], _processor_seconds() - begun[1]
    found |= {"seconds": seconds, "processor": processor, "read": begun[0] - start, "megabytes": peak_megabytes()}
    return found


def _now() -> tuple[float, float]:
    """Seconds by the clock, and of the processor: what else the machine does is in the first alone."""
    return time.perf_counter(), _processor_seconds()


def _processor_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _trained(config: Any, data: Path, runs: Path, steps: int) -> tuple[tuple[float, float], float]:
    """Trains; when the first step began, and milliseconds of a middle one."""
    from unittest import mock

    from nerfstudio.engine.trainer import Trainer

    from spinnerf_ns.runs import train

    ticks: list[tuple[float, float]] = []
    step = Trainer.train_iteration

    def timed(self: Trainer, number: int) -> Any:
        ticks.append(_now())
        return step(self, number)

    with mock.patch.object(Trainer, "train_iteration", timed):
        train(config, data, runs, "growth")
    third = steps // 3
    each = sorted(after[0] - before[0] for before, after in zip(ticks[third:], ticks[third + 1 :], strict=False))
    return ticks[0], 1000 * each[len(each) // 2]


def _exported(stage: str, scene: Path, workspace: Any) -> tuple[float, float]:
    """Renders, fits what stays, or writes the object-free capture; when it began."""
    from functools import partial

    from spinnerf_ns.nerf.background_field import background_steps
    from spinnerf_ns.removal.config import ExportConfig
    from spinnerf_ns.removal.export import background_stage, export_removed
    from spinnerf_ns.removal.from_field import fit_what_stays, render_layers
    from spinnerf_ns.runs import load_run, restore

    config = ExportConfig(inpainter="patchmatch")
    if stage == "export":
        from spinnerf_ns.scene.capture import load_capture

        capture, begun = load_capture(scene), _now()
        export_removed(capture, workspace, config)
        return begun
    path = sorted((workspace.root / "runs").glob("growth/spinnerf-seg-lite/*/config.yml"))[-1]
    run = load_run(path)
    pipeline = run.pipeline.setup(device="cpu", test_mode="test")
    checkpoint, begun = restore(run, pipeline), _now()
    if stage == "render":
        render_layers(pipeline.model, pipeline.datamanager, checkpoint, config, around_object=True)
    else:
        steps = background_steps(None, int(checkpoint.stem.removeprefix("step-")) + 1)
        fit = partial(fit_what_stays, pipeline.model, pipeline.datamanager, steps, config)
        background_stage(pipeline.datamanager.capture, workspace, fit, config, {"steps": steps})
    return begun


def peak_megabytes() -> float:
    """The most memory that this process had at a time; not what the one before it had, as `getrusage` says."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


# -------------------------------------------------------------------------------------------------------------- the whole
def measure(arguments: argparse.Namespace, folder: Path, photos: int) -> dict[str, dict[str, Any]]:
    """All stages on one capture: stage -> figures."""
    scene, capture = folder / f"{photos}-photos", arguments.data
    pointed = {"view": arguments.view, "box": arguments.box}
    if capture is None:  # of one twin, as large as the largest: a photo is the same in all of them
        capture = folder / f"twin-{arguments.size}-{max(arguments.photos)}"
        pointed = grow(capture, max(arguments.photos), tuple(int(side) for side in arguments.size.split("x")))
    if not scene.exists():
        thin_out(capture, scene, photos, Path(pointed["view"]).stem)
    results: dict[str, dict[str, Any]] = {}
    for stage in arguments.only or STAGES:
        found = scene / f"{stage.replace(' ', '-')}.json"
        command = [sys.executable, __file__, "--stage", stage, "--scene", str(scene), "--steps", str(arguments.steps)]
        command += ["--pointed", json.dumps(pointed), "--result", str(found)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        (scene / f"{stage.replace(' ', '-')}.log").write_text(done.stdout)
        if done.returncode:
            print(done.stdout[-3000:], file=sys.stderr)
            raise SystemExit(f"{stage} with {photos} photos failed; its output: {scene}")
        results[stage] = json.loads(found.read_text())
        said = results[stage]
        text = f"{said['seconds']:8.1f} s  {said['processor']:8.1f} s of processor  {said['megabytes']:7.0f} MB"
        print(f"{photos:5} photos  {stage:14} {text}", flush=True)
    return results


def table(results: dict[int, dict[str, dict[str, Any]]]) -> str:
    """Markdown: a row per stage, a column per number of photos; seconds per photo (milliseconds per step), and megabytes."""
    numbers = list(results)
    lines = ["| stage | " + " | ".join(f"{number} photos" for number in numbers) + " | most : least |"]
    lines.append("|---" * (len(numbers) + 2) + "|")
    for stage in results[numbers[0]]:
        rows = [("s per photo", [results[number][stage]["seconds"] / number for number in numbers])]
        rows.append(("processor s per photo", [results[number][stage]["processor"] / number for number in numbers]))
        if stage in PER_STEP:
            rows = [("ms per step", [results[number][stage]["per_step"] for number in numbers])]
        rows.append(("read, s per photo", [results[number][stage]["read"] / number for number in numbers]))
        rows.append(("peak MB", [results[number][stage]["megabytes"] for number in numbers]))
        for what, values in rows:
            shown = " | ".join(f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in values)
            lines.append(f"| {stage}, {what} | {shown} | {max(values) / max(min(values), 1e-9):.2f} |")
    return "\n".join(lines)


def plot(results: dict[int, dict[str, dict[str, Any]]], path: Path) -> None:
    """Seconds per photo and peak memory over the number of photos, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    numbers = list(results)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6))
    for stage in results[numbers[0]]:
        if stage not in PER_STEP:
            left.plot(numbers, [results[number][stage]["processor"] / number for number in numbers], marker="o", label=stage)
        right.plot(numbers, [results[number][stage]["megabytes"] / 1024 for number in numbers], marker="o", label=stage)
    for axes, what in ((left, "processor seconds per photo"), (right, "peak memory, GB")):
        axes.set(xlabel="photos", ylabel=what, xscale="log", ylim=(0, None))
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    """Measures, or runs one stage for itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="+", default=[8, 16], help="numbers of photos")
    parser.add_argument("--size", default="1008x567", help="photos' size, WxH")
    parser.add_argument("--steps", type=int, default=200, help="steps of each training")
    parser.add_argument("--data", type=Path, help="a capture with a transforms.json, in place of the twin")
    parser.add_argument("--view", help="its photo that is pointed at")
    parser.add_argument("--box", help="X0,Y0,X1,Y1 in it")
    parser.add_argument("--only", nargs="+", choices=STAGES, help="these stages alone; earlier ones were run with the same --keep")
    parser.add_argument("--keep", type=Path, help="folder for captures and workspaces; it is kept")
    parser.add_argument("--plot", type=Path, help="write a picture")
    for own in ("--stage", "--scene", "--pointed", "--result"):
        parser.add_argument(own, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        found = run_stage(arguments.stage, Path(arguments.scene), arguments.steps, json.loads(arguments.pointed))
        Path(arguments.result).write_text(json.dumps(found))
        return
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="growth-"))
    try:
        results = {photos: measure(arguments, folder, photos) for photos in arguments.photos}
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(table(results))
    if arguments.plot is not None:
        plot(results, arguments.plot)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(json.dumps({"size": arguments.size, "steps": arguments.steps, "machine": machine, "photos": results}))


if __name__ == "__main__":
    main()
