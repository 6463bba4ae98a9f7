"""ns-spinnerf remove: from clicks to an object-free field in one command."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from spinnerf_ns.cli.segment import Pointing
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.removal.config import ExportConfig
from spinnerf_ns.removal.export import make_inpainter
from spinnerf_ns.removal.inpainters.choice import AUTO


@dataclass
class Remove:
    """Segments, trains the segmentation field, exports the object-free capture and trains the field without the object.

    Every stage is kept in the capture's workspace: the same command after an interruption goes on where it stopped.
    """

    segment: Annotated[Pointing, tyro.conf.arg(name="")]
    """What to remove."""
    export: ExportConfig = field(default_factory=ExportConfig)
    """How photos and depth are cleaned."""
    lite: bool = False
    """Use the -lite methods, for laptops and CPUs."""
    seg_steps: int | None = None
    """Iterations of the segmentation stage; by default the method's."""
    inpaint_steps: int | None = None
    """Iterations of the inpainting stage; by default the method's."""

    prepare_arguments = staticmethod(Pointing.prepare_arguments)

    def main(self) -> None:
        """Runs all stages."""
        config_path = remove(self)
        print(f"The field without the object: {config_path}")
        print(f"Look at it: ns-viewer --load-config {config_path}")
        print(f"Render it:  ns-render dataset --load-config {config_path} --output-path renders --rendered-output-names rgb")


def remove(command: Remove) -> Path:
    """Runs all stages of a command; returns the inpainting run's config.yml."""
    from nerfstudio.utils.rich_utils import CONSOLE

    from spinnerf_ns.runs import apply, method_config, train
    from spinnerf_ns.scene.workspace import Workspace

    suffix = "-lite" if command.lite else ""
    if command.export.inpainter != AUTO:
        make_inpainter(command.export)  # what it needs and is not here is said now, not after the training
    CONSOLE.rule("1/4 masks in every photo")
    command.segment.main()
    workspace = Workspace.open(command.segment.data, command.segment.workspace)
    masks = sorted(workspace.masks_2d.rglob("*.png"))

    CONSOLE.rule("2/4 masks that agree in 3-D")
    config = method_config(f"spinnerf-seg{suffix}")
    apply(config, {"pipeline.datamanager.workspace": workspace.root, "pipeline.export_on_completion": False})
    if command.seg_steps:
        config.max_num_iterations = command.seg_steps
    key = {"method": config.method_name, "steps": config.max_num_iterations, "masks": content_hash(masks)}
    seg = train(config, command.segment.data, workspace.root / "runs", "remove", key)

    CONSOLE.rule("3/4 photos and depth without the object")
    from spinnerf_ns.pipelines import export_run

    command.export.overwrite |= command.segment.overwrite
    removed = export_run(seg.config_path, command.export)

    CONSOLE.rule("4/4 the field without the object")
    config = method_config(f"spinnerf-inpaint{suffix}")
    if command.inpaint_steps:
        config.max_num_iterations = command.inpaint_steps
    files = [removed / "transforms.json", *sorted((removed / "images").rglob("*.png"))]
    key = {
        "method": config.method_name,
        "steps": config.max_num_iterations,
        "removed": content_hash(files),
        "export": asdict(command.export),
    }
    return train(config, removed, workspace.root / "runs", "remove", key).config_path


def content_hash(files: list[Path]) -> str:
    """One sha256 over names and contents of files.

    Raises:
        SpinnerfError: there are none.
    """
    import hashlib

    if not files:
        raise SpinnerfError("a stage left no files; run the same command again with --overwrite")
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
