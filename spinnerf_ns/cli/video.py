"""ns-spinnerf video: the scene before and after, along one camera path."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spinnerf_ns.errors import SpinnerfError

SIDE = "[0:v][1:v]hstack=inputs=2"
WIPE = "[0:v][1:v]blend=all_expr='if(gt(X,W*(0.5+0.5*cos(2*PI*T/{seconds}))),A,B)'"
"""ffmpeg filters over the renders before (A) and after (B). The line of the wipe goes once over the picture and back."""


@dataclass
class Video:
    """Renders the scene with the object and without it along the same camera path, and puts both into one video."""

    load_config: Path
    """config.yml of the run without the object (spinnerf-inpaint, or any method trained on removed/)."""
    before: Path | None = None
    """config.yml of the run with the object; by default the spinnerf-seg run that the export came from."""
    camera_path: Path | None = None
    """A camera path as ns-viewer saves it; by default from photo to photo."""
    layout: Literal["side", "wipe"] = "side"
    """side: both beside each other. wipe: one picture, over which a line goes from right to left and back."""
    output: Path = Path("before-after.mp4")
    """The video."""
    downscale: float = 1.0
    """Render at 1/N of the size."""
    steps_between: int = 10
    """Frames from one photo to the next, without a camera path."""
    frame_rate: int = 24
    """Frames a second, without a camera path."""

    def main(self) -> None:
        """Runs the command.

        Raises:
            SpinnerfError: ffmpeg, a run or the camera path is missing, or ffmpeg failed.
        """
        from spinnerf_ns.runs import read_config

        if shutil.which("ffmpeg") is None:
            raise SpinnerfError("ffmpeg is not installed, which writes videos; on Debian and Ubuntu: apt-get install ffmpeg")
        if self.output.suffix != ".mp4":
            raise SpinnerfError(f"{self.output}: a name that ends with .mp4 was expected; for example --output {self.output}.mp4")
        if self.camera_path is not None and not self.camera_path.is_file():
            raise SpinnerfError(f"{self.camera_path}: no such file; save a camera path in ns-viewer (Render), or leave it out")
        read_config(self.load_config)
        before = self.before if self.before is not None else segmentation_run(self.load_config)
        read_config(before)
        with tempfile.TemporaryDirectory() as folder:
            parts = [Path(folder) / "before.mp4", Path(folder) / "after.mp4"]
            for config, part in zip((before, self.load_config), parts, strict=True):
                self._render(config, part)
            joined = Path(folder) / "joined.mp4"
            _join(parts, joined, self.layout)
            self.output.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(joined, self.output)
        print(f"Before and after: {self.output}")

    def _render(self, config: Path, output: Path) -> None:
        """One run along the path, by nerfstudio's own ns-render."""
        from nerfstudio.scripts.render import RenderCameraPath, RenderInterpolated

        common = {"load_config": config, "output_path": output, "downscale_factor": self.downscale}
        if self.camera_path is not None:
            RenderCameraPath(**common, camera_path_filename=self.camera_path).main()
            return
        RenderInterpolated(
            **common,
            pose_source="train",
            order_poses=True,
            interpolation_steps=self.steps_between,
            frame_rate=self.frame_rate,
        ).main()


def segmentation_run(load_config: Path) -> Path:
    """config.yml of the spinnerf-seg run that the capture without the object came from.

    Raises:
        SpinnerfError: the run was not trained on an export, or the segmentation run is gone.
    """
    from spinnerf_ns.nerf.data.datamanager import SpinnerfSegDataManagerConfig
    from spinnerf_ns.nerf.data.inpaint_data import find_removed
    from spinnerf_ns.runs import read_config
    from spinnerf_ns.scene.workspace import Workspace

    mend = "name the run with the object: --before CONFIG"
    manager = read_config(load_config).pipeline.datamanager
    if isinstance(manager, SpinnerfSegDataManagerConfig):
        raise SpinnerfError(f"{load_config}: this run shows the object; give the run without it, and this one as: --before CONFIG")
    data = Path(manager.data or manager.dataparser.data)
    try:
        removed = find_removed(data, getattr(manager, "workspace", None))
    except SpinnerfError as error:
        raise SpinnerfError(f"{load_config}: was not trained on a capture without the object; {mend}") from error
    root = (removed.parent if removed.suffix == ".json" else removed).parent
    workspace = Workspace.open(root.parent, root)
    inputs = workspace.read_manifest()["stages"].get("render", {}).get("inputs", {})
    for name in inputs:
        checkpoint = Path(name) if Path(name).is_absolute() else workspace.scene / name
        config = checkpoint.parent.parent / "config.yml"
        if checkpoint.suffix == ".ckpt" and config.is_file():
            return config
    raise SpinnerfError(f"{workspace.manifest_path}: the run that the export came from is not where it was; {mend}")


def _join(parts: list[Path], output: Path, layout: str) -> None:
    seconds = _seconds(parts[0])
    filters = SIDE if layout == "side" else WIPE.format(seconds=seconds)
    # Encoders want even sides.
    filters += ",scale=trunc(iw/2)*2:trunc(ih/2)*2,format=yuv420p"
    command = ["ffmpeg", "-y", "-loglevel", "error", "-i", str(parts[0]), "-i", str(parts[1]), "-filter_complex", filters]
    done = subprocess.run([*command, str(output)], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise SpinnerfError(f"ffmpeg could not join the two videos ({said[-1] if said else done.returncode})")


def _seconds(video: Path) -> float:
    command = ["ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", str(video)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
