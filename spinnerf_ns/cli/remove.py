"""ns-spinnerf remove: from clicks to an object-free field in one command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from spinnerf_ns.cli.segment import Pointing
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.executor import Executor
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.removal.inpainters.choice import AUTO
from spinnerf_ns.removal.plan import NEEDS_BACKGROUND, make_inpainter

if TYPE_CHECKING:
    from spinnerf_ns.cli.budgeted import Budget
    from spinnerf_ns.scene.workspace import Workspace


@dataclass
class Remove:
    """Segments, trains the segmentation field, exports the object-free capture and trains the field without the object.

    Every stage is kept in the capture's workspace: the same command after an interruption goes on where it stopped.
    """

    segment: Annotated[Pointing, tyro.conf.arg(name="")]
    """What to remove."""
    export: ExportConfig = field(default_factory=ExportConfig)
    """How photos and depth are cleaned."""
    keep: bool = False
    """The inverse: keep only the object. Ends with its photos, all else transparent, in kept/ of the workspace, and prints stock
    commands that train on them."""
    lite: bool = False
    """Use the -lite methods, for laptops and CPUs."""
    seg_steps: int | None = None
    """Iterations of the segmentation stage; by default the method's."""
    inpaint_steps: int | None = None
    """Iterations of the inpainting stage; by default the method's."""
    minutes: float | None = None
    """How long all of it may take. Steps, the width at which depth is measured and the resolution at which masks and depth are
    rendered are then chosen by what this machine is measured to do; those that are given stay as they are. Of --scenes, each."""

    scenes: Path | None = None
    """A list of scenes in place of --data: a line each, its folder and what is pointed at in it, as on the command line. All other
    options are for every scene."""
    jobs: int = 1
    """Scenes at once, on each machine."""
    executor: Executor = "local"
    """Where scenes are worked on. ray: on the machines of a Ray cluster (extra [ray]; RAY_ADDRESS names it), which share the
    scenes' storage; what a lost machine was at is done again."""

    @staticmethod
    def prepare_arguments(arguments: Sequence[str]) -> list[str]:
        """The command line as tyro reads it."""
        words = Pointing.prepare_arguments(arguments)
        for place, word in enumerate(words):  # a list stands for the captures that it names
            if word == "--scenes" and place + 1 < len(words) and "--data" not in words:
                return [*words, "--data", words[place + 1]]
        return words

    def main(self) -> None:
        """Runs all stages."""
        if self.scenes is not None:
            from spinnerf_ns.cli.scenes import common_words, remove_scenes

            remove_scenes(self.scenes, common_words(sys.argv[2:]), self.jobs, self.executor)
            return
        if self.executor != "local":
            raise SpinnerfError("--executor ray: is for many scenes; give their list: --scenes FILE")
        from spinnerf_ns.hints import command, say

        config_path = remove(self)
        if self.keep or self.export.keep:
            return  # what was kept, and what follows, was said
        render = command("ns-render", "dataset", load_config=config_path, output_path="renders", rendered_output_names="rgb")
        say(f"The field without the object: {config_path}")
        say(f"Look at it: {command('ns-viewer', load_config=config_path)}")
        say(f"Render it:  {render}")


def remove(command: Remove) -> Path:
    """Runs all stages of a command; returns the inpainting run's config.yml, or with `keep` the folder of the object alone."""
    from spinnerf_ns.progress import logged
    from spinnerf_ns.runs import check_steps
    from spinnerf_ns.scene.workspace import Workspace

    check_steps(command.seg_steps, "--seg-steps")
    check_steps(command.inpaint_steps, "--inpaint-steps")
    command.export.keep |= command.keep
    command.segment.clean_photos += command.export.clean_photos
    command.export.clean_photos = ()  # they are named before the object is looked for
    if command.segment.clean_photos and command.export.background_steps == 0 and not command.export.keep:
        raise SpinnerfError(NEEDS_BACKGROUND)
    if command.export.inpainter != AUTO and not command.export.keep:
        make_inpainter(command.export)  # what it needs and is not here is said now, not after the training
    workspace = Workspace.open(command.segment.data, command.segment.workspace)
    with workspace.lock(), logged(workspace.log):
        budget = None if command.minutes is None else _budget(command, workspace)
        done = _remove(command, budget)
        if budget is not None:
            budget.end()
        return done


def _budget(command: Remove, workspace: Workspace) -> Budget:
    """The time there is, after the first decision. What is wrong with the input is said before anything is measured.

    Raises:
        SpinnerfError: no time; bad input; an export stands that was made otherwise.
    """
    from spinnerf_ns.cli.budgeted import Budget
    from spinnerf_ns.cli.segment import in_used_pixels
    from spinnerf_ns.scene.check import checked_capture

    if command.minutes is not None and not 0 < command.minutes < float("inf"):
        raise SpinnerfError(f"--minutes {command.minutes:g}: a time above 0 was expected, such as --minutes 5")
    segment = command.segment
    request = segment.request()
    segment.backends()
    segment.stereo_options()
    capture = checked_capture(segment.data, segment.workspace, segment.skip_missing)
    if isinstance(request, list):
        in_used_pixels(capture, request)
    budget = Budget(command, workspace, capture)
    budget.begin()
    return budget


def _remove(command: Remove, budget: Budget | None) -> Path:
    from nerfstudio.utils.rich_utils import CONSOLE

    from spinnerf_ns.hints import say
    from spinnerf_ns.removal.reference import check_reference
    from spinnerf_ns.runs import apply, method_config, train, with_steps
    from spinnerf_ns.scene.capture import load_capture
    from spinnerf_ns.scene.manifest import version_of
    from spinnerf_ns.scene.removed import TRANSFORMS
    from spinnerf_ns.scene.workspace import Workspace
    from spinnerf_ns.stereo.maps import stereo_if_possible

    workspace = Workspace.open(command.segment.data, command.segment.workspace)
    if command.export.reference_view is not None:
        check_reference(load_capture(command.segment.data, skipped=workspace.skipped), workspace, command.export.reference_view)
    suffix = "-lite" if command.lite else ""
    last = 3 if command.export.keep else 4
    CONSOLE.rule(f"1/{last} masks in every photo")
    command.segment.main()
    workspace = Workspace.open(command.segment.data, command.segment.workspace)
    capture = load_capture(command.segment.data, skipped=workspace.skipped)
    cameras = capture.digest
    options = command.segment.stereo_options()
    if options is not None:  # a tracker that does without depth has not had it measured
        stereo_if_possible(capture, workspace, options=options)
    if budget is not None:
        budget.before_training()
    masks = sorted(workspace.masks_2d.rglob("*.png"))

    CONSOLE.rule(f"2/{last} masks that agree in 3-D")
    config = method_config(f"spinnerf-seg{suffix}")
    apply(config, {"pipeline.datamanager.workspace": workspace.root, "pipeline.export_on_completion": False})
    if command.seg_steps is not None:
        with_steps(config, command.seg_steps)

    def key(**made_from: object) -> dict[str, object]:
        method = {"method": config.method_name, "version": version_of(config.method_name), "steps": config.max_num_iterations}
        return {**method, "capture": cameras, "object_free": sorted(workspace.object_free), **made_from}

    inputs = key(masks=content_hash(masks, workspace.masks_2d))
    seg = train(config, command.segment.data, workspace.root / "runs", "remove", inputs)

    if budget is not None:
        budget.before_export(seg)
    CONSOLE.rule("3/3 the object alone" if command.export.keep else "3/4 photos and depth without the object")
    from spinnerf_ns.pipelines import export_run, said_of_export
    from spinnerf_ns.removal.config import BACKGROUND

    command.export.overwrite |= command.segment.overwrite
    removed = export_run(seg.config_path, command.export)
    if command.export.keep:
        for line in said_of_export(removed, command.export, config):
            say(line)
        return removed

    if budget is not None:
        budget.before_inpainting(removed)
    CONSOLE.rule("4/4 the field without the object")
    config = method_config(f"spinnerf-inpaint{suffix}")
    if command.inpaint_steps is not None:
        with_steps(config, command.inpaint_steps)
    # What the export was told is in what it wrote; how it was told (--overwrite) is nobody's concern.
    files = [path for path in sorted(removed.rglob("*")) if path.suffix in (".png", ".npy", ".ply")] + [removed / TRANSFORMS]
    field = workspace.root / BACKGROUND / "field.pt"
    start = content_hash([field], field.parent) if field.is_file() else None
    return train(
        config, removed, workspace.root / "runs", "remove", key(removed=content_hash(files, removed), start=start)
    ).config_path


def content_hash(files: list[Path], folder: Path) -> str:
    """One sha256 over contents of files and their names below a folder.

    Raises:
        SpinnerfError: there are none.
    """
    import hashlib

    from spinnerf_ns.files import sha256_of

    if not files:
        raise SpinnerfError(f"{folder}: a stage left no files there; run the same command again with --overwrite")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()} {sha256_of(file)}\n".encode())
    return digest.hexdigest()
