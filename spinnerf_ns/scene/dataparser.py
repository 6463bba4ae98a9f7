"""The dataparser for captures that no stock parser reads as they stand: `transforms.mended`, then nerfstudio's own parser."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig

from spinnerf_ns.scene.transforms import Mended


@dataclass
class MendedDataParserConfig(NerfstudioDataParserConfig):
    """What `find_dataparser` returns for such captures. It is not registered: a run's config.yml keeps the stock parser, and the
    data manager puts this one in its place whenever it opens the capture."""

    _target: type = field(default_factory=lambda: MendedDataParser)
    skipped: tuple[str, ...] = ()
    """File paths, as the source writes them, of photos that are left out."""


class MendedDataParser(Nerfstudio):
    """Orients, centres, scales and splits as nerfstudio's parser does, because it does it."""

    config: MendedDataParserConfig

    @cached_property
    def mended(self) -> Mended:
        """The capture in one form.

        Raises:
            SpinnerfError: as `source.mended_source`.
        """
        from spinnerf_ns.scene.find import mended_source

        return mended_source(Path(self.config.data), self.config.skipped, self.config.downscale_factor)

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: object) -> DataparserOutputs:
        mended, shift = self.mended, self.mended.shift
        self.downscale_factor = 1
        frames = []
        for frame in mended.meta["frames"]:
            pose = np.array(frame["transform_matrix"], dtype=np.float64)
            pose[:3, 3] -= shift
            frames.append({**frame, "transform_matrix": pose.tolist()})
        for name in ("mask_path", "depth_file_path"):  # nerfstudio wants them of every frame or none
            if not all(name in frame for frame in frames):
                frames = [{key: value for key, value in frame.items() if key != name} for frame in frames]
        values = {each.name: getattr(self.config, each.name) for each in dataclasses.fields(NerfstudioDataParserConfig)}
        values.pop("_target")
        with TemporaryDirectory() as folder:
            data = Path(folder) / "transforms.json"
            data.write_text(json.dumps({**mended.meta, "frames": frames}), encoding="utf-8")
            config = NerfstudioDataParserConfig(**{**values, "data": data, "downscale_factor": 1})
            outputs = config.setup()._generate_dataparser_outputs(split)
        if shift.any():
            outputs.dataparser_transform = _shifted(outputs.dataparser_transform, mended.meta, shift)
        if mended.alpha:
            outputs.alpha_color = torch.ones(3)
        return outputs

    def _get_fname(self, filepath: Path, data_dir: Path, downsample_folder_prefix: str = "images_") -> Path:
        return data_dir / filepath  # absolute already


def _shifted(transform: torch.Tensor, meta: dict, shift: np.ndarray) -> torch.Tensor:
    """(3, 4) from before `applied_transform`, with the shift after it."""
    applied, moved, square = np.eye(4), np.eye(4), np.eye(4)
    applied[:3] = meta.get("applied_transform", applied[:3])
    moved[:3, 3] = -shift
    square[:3] = transform.double().numpy()
    return torch.from_numpy((square @ np.linalg.inv(applied) @ moved @ applied)[:3]).to(transform.dtype)
