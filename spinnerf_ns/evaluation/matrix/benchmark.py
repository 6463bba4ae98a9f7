"""The matrix of scenes, methods and seeds: every cell from the same segmentation run, grid, samples, rays and steps.

    <output>/plan.yml                           what is compared
    <output>/scenes/<scene>/capture/            the prepared scene (`benchmark_scenes`), its tracked masks in spinnerf/
    <output>/scenes/<scene>/seed-<seed>/        the segmentation run and exports that all methods share
    <output>/cells/<scene>/seed-<seed>/<method>.json, <method>/    a cell's figures and renders
    <output>/logs/<scene>-<seed>.log
    <output>/benchmark.json, benchmark.md, <scene>.png             the results

Each (scene, seed) is one process. A cell's file is written last and holds the key of what it was made from: the same command
after an interruption goes on where it stopped, and changed settings compute their cells anew.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from spinnerf_ns import __version__
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.evaluation.baselines import METHODS
from spinnerf_ns.evaluation.matrix.scenes import SceneSource, find_scenes
from spinnerf_ns.executor import Executor, Job, last_line, run_jobs
from spinnerf_ns.files import atomic_path, digest_of, sha256_of
from spinnerf_ns.nerf.perceptual_names import PerceptualLossName
from spinnerf_ns.removal.config import ExportConfig

OURS = "ours"


@dataclass
class BenchmarkConfig:
    """What is compared, and on what."""

    scenes: tuple[str, ...]
    """twin, twin-orbit, folders of twins or planted scenes, SPIn-NeRF scenes as published, or the folder of all ten."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Any of masked-nerf, per-view, per-view-detached, release, no-hole-losses, ours."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each cell is run once per seed; tables give mean and standard deviation over them."""
    output: Path = Path("benchmark")
    """Folder for runs and results. The same command goes on where an earlier one stopped."""
    jobs: int | None = None
    """Processes at once; by default one per two gigabytes and core, and one where there is a GPU."""
    executor: Executor = "local"
    """Where these processes run. ray: on the machines of a Ray cluster (extra [ray]; RAY_ADDRESS names it), which share the storage
    of `output`, `jobs` on each; what a lost machine was at is done again."""
    lite: bool = True
    """Whether the -lite grids, samples and steps are used, for all methods; off: the full-size ones."""
    steps: int | None = None
    """Training steps of every method; by default those of spinnerf-inpaint(-lite)."""
    seg_steps: int | None = None
    """Training steps of the segmentation run that all methods share; by default those of spinnerf-seg(-lite)."""
    downscale: float = 1.0
    """Photos are made this much smaller per axis, for all methods."""
    masks: Literal["auto", "tracked", "true"] = "auto"
    """Masks that the segmentation run starts from: tracked from the prompt, or the scene's true ones (SPIn-NeRF publishes
    them for its training photos). "auto": tracked; true where the object was lost in more than half of the photos."""
    tracker: str = "geometry"
    """Carries the prompt's mask to the other photos."""
    segmenter: str = "grabcut"
    """Makes the prompt's mask, where the scene gives none."""
    export: ExportConfig = field(default_factory=ExportConfig)
    """How photos and depth are cleaned."""
    perceptual_loss: PerceptualLossName = "auto"
    """Perceptual loss of the methods that have one; "auto" takes LPIPS-VGG where its weights can be had, else ssim."""
    perceptual_weights: Path | None = None
    """File of that loss's backbone."""
    lpips_weights: tuple[Path, ...] = ()
    """Files of LPIPS backbones for the figures; by default every network whose weights are on this machine."""
    fid_weights: Path | None = None
    """File of FID's Inception network; by default the one on this machine, if any."""


def shared_settings(config: BenchmarkConfig) -> dict[str, Any]:
    """What the shared segmentation run and the exports depend on, besides scene and seed; in JSON's types."""
    export = {name: _plain(value) for name, value in asdict(config.export).items() if name != "overwrite"}
    if not config.export.clean_photos:
        del export["clean_photos"]  # as before there was the option: cells that do without are the same
    return {
        "version": __version__, "lite": config.lite, "seg_steps": config.seg_steps, "downscale": config.downscale,
        "masks": config.masks, "tracker": config.tracker, "segmenter": config.segmenter, "export": export,
    }  # fmt: skip


def cell_settings(config: BenchmarkConfig, method: str) -> dict[str, Any]:
    """What a cell depends on, besides scene and seed."""
    return {
        **shared_settings(config), "method": method, "steps": config.steps, "perceptual_loss": config.perceptual_loss,
        "perceptual_weights": _name(config.perceptual_weights), "lpips": [_name(path) for path in config.lpips_weights],
        "fid": _name(config.fid_weights),
    }  # fmt: skip


def _plain(value: Any) -> Any:
    return str(Path(value).resolve()) if isinstance(value, Path) else value


def _name(path: Path | None) -> str | None:
    return None if path is None else Path(path).name


def digest(settings: dict[str, Any], *more: Any) -> str:
    """A key of settings and more."""
    return digest_of([settings, *more])


def scene_key(source: SceneSource, config: BenchmarkConfig) -> str:
    """What a prepared scene depends on: its files, and the resolution."""
    parts: list[Any] = [source.name, source.kind]
    if source.path is not None:
        names = ("transforms.json", "twin.json", "planted.json", "poses_bounds.npy")
        files = [source.path / name for name in names if (source.path / name).is_file()]
        parts += [sha256_of(path) for path in files]
    return digest({"downscale": config.downscale, "version": __version__}, *parts)


@dataclass(frozen=True)
class Paths:
    """Where a scene's and a seed's files lie."""

    output: Path
    scene: str
    seed: int = 0

    @property
    def capture(self) -> Path:
        """The prepared scene."""
        return self.output / "scenes" / self.scene / "capture"

    @property
    def shared(self) -> Path:
        """The workspaces and runs of this seed."""
        return self.output / "scenes" / self.scene / f"seed-{self.seed}"

    def cell(self, method: str) -> Path:
        """A cell's file; the folder of the same name without suffix holds its renders."""
        return self.output / "cells" / self.scene / f"seed-{self.seed}" / f"{method}.json"


def read_cell(paths: Paths, method: str, key: str | None = None) -> dict[str, Any] | None:
    """A finished cell's contents, if there is one (of this key)."""
    path = paths.cell(method)
    if not path.is_file():
        return None
    cell = json.loads(path.read_text(encoding="utf-8"))
    return cell if key is None or cell.get("key") == key else None


def run_benchmark(config: BenchmarkConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs all cells that are not there yet, and writes the tables and pictures.

    Args:
        config: what to compare.
        say: is given one line per finished job.

    Returns:
        What benchmark.json holds (`benchmark_table.results`).

    Raises:
        SpinnerfError: unknown methods, scenes that cannot be found, or cells that failed; the tables hold what is
            finished.
    """
    from spinnerf_ns.evaluation.matrix.table import write_results

    sources = find_scenes(config.scenes)
    unknown = [method for method in config.methods if method not in METHODS]
    if unknown or not config.methods or not config.seeds:
        what = f"no method is called '{unknown[0]}'" if unknown else "no method or no seed was named"
        raise SpinnerfError(f"{what}; there are: {', '.join(METHODS)}; give --methods and --seeds")
    for path in (*config.lpips_weights, config.fid_weights, config.perceptual_weights):
        if path is not None and not Path(path).is_file():
            raise SpinnerfError(f"{path}: this weights file is missing; correct the path")
    resolve_perceptual_loss(config)
    config.output = Path(config.output).resolve()
    with atomic_path(config.output / "plan.yml") as temporary:
        temporary.write_text(yaml.dump({"config": config, "sources": {source.name: source for source in sources}}))
    keys = {source.name: scene_key(source, config) for source in sources}

    def missing(source: SceneSource, seed: int) -> list[str]:
        paths = Paths(config.output, source.name, seed)
        key = {method: digest(cell_settings(config, method), keys[source.name], seed) for method in config.methods}
        return [method for method in config.methods if read_cell(paths, method, key[method]) is None]

    todo = [(source, seed) for seed in config.seeds for source in sources if missing(source, seed)]
    scenes = [source for source in sources if any(source == each for each, _ in todo)]
    jobs = config.jobs or default_jobs()
    done = len(sources) * len(config.seeds) - len(todo)
    say(f"{len(todo)} of {done + len(todo)} scenes x seeds to compute, {jobs} at once")
    # All scenes first: the seeds of one share its masks. A scene that fails takes only its own cells with it.
    failed = _run_all([(source.name, "prepare") for source in scenes], config, jobs, say)
    bad = {name.rsplit("-", 1)[0] for name in failed}
    failed |= _run_all([(source.name, str(seed)) for source, seed in todo if source.name not in bad], config, jobs, say)
    result = write_results(config, [source.name for source in sources])
    if failed:
        name, (reason, log) = next(iter(failed.items()))
        raise SpinnerfError(
            f"{len(failed)} of the benchmark's jobs failed, {name} first: {reason} (all of it: {log}); what is finished is "
            f"in {config.output / 'benchmark.md'}; run the same command again to go on"
        )
    return result


def resolve_perceptual_loss(config: BenchmarkConfig) -> None:
    """Settles "auto" once, so that all cells use the same loss. In place."""
    if config.perceptual_loss == "auto" and config.perceptual_weights is None:
        from spinnerf_ns.nerf.perceptual import make_perceptual_loss

        name = make_perceptual_loss("auto").name
        config.perceptual_loss = name if name in ("ssim", "lpips-vgg") else "auto"  # type: ignore[assignment]


def default_jobs() -> int:
    """How many processes at once: one on a GPU; else one per core, as far as two gigabytes of free memory each reach."""
    import torch

    if torch.cuda.is_available():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError, AttributeError):
        free = 4.0
    return max(1, min(cores, int(free / 2)))


def _run_all(
    jobs: list[tuple[str, str]], config: BenchmarkConfig, at_once: int, say: Callable[[str], None]
) -> dict[str, tuple[str, Path]]:
    """Runs jobs (scene, seed or "prepare") as processes; returns job -> (reason, log) of those that failed."""
    program = (sys.executable, "-W", "ignore", "-m", "spinnerf_ns.evaluation.matrix.worker", str(config.output / "plan.yml"))
    names = {f"{scene}-{what}": (scene, what) for scene, what in jobs}
    made = [Job(name, (*program, *job), config.output / "logs" / f"{name}.log") for name, job in names.items()]
    failed: dict[str, tuple[str, Path]] = {}
    finished = 0

    def ended(job: Job, code: int, seconds: float) -> None:
        nonlocal finished
        finished += 1
        scene, what = names[job.name]
        text = f"[{finished}/{len(jobs)}] {scene}, {what if what == 'prepare' else f'seed {what}'}"
        if code:
            failed[job.name] = (last_line(job.log), job.log)
        say(f"{text}: {f'failed, {failed[job.name][0]}' if code else f'{seconds:.0f} s'}")

    run_jobs(made, at_once, config.executor, ended)
    return failed
