"""SAM 2 on single photos (package transformers): points, a box, or a rough mask -> the object's mask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spinnerf_ns.conventions import Image
from spinnerf_ns.segmentation.pretrained import content_digest, find_weights, load_folder, need_package, pick_device
from spinnerf_ns.segmentation.segmenters.promptable import Candidates, Click, Embedding, PromptableSegmenter, shrunk

DEFAULT_MODEL = "sam2.1-hiera-small"
"""SAM 2's folder in the table of weights, unless another is asked for."""


@dataclass
class Sam2Segmenter(PromptableSegmenter):
    """Segment Anything 2 on single photos, with the same weights as the tracker of that name; Apache-2.0."""

    model: str = DEFAULT_MODEL
    """Which network: sam2.1-hiera-tiny, -small, -base-plus or -large."""
    checkpoint: Path | None = None
    """A model folder in place of the published one, in the same format."""
    device: str = "auto"
    """Where the network runs; auto: the GPU where there is one."""

    name = "sam2"

    def ensure(self) -> None:
        """Raises SpinnerfError if the package or the weights can't be had; fetches them if that is allowed."""
        self._folder()

    def _folder(self) -> Path:
        need_package("transformers", "sam2", "segmenter 'sam2'")
        return find_weights(self.model, self.checkpoint)

    def _identity(self) -> str:
        if not hasattr(self, "_checkpoint_digest"):
            self._checkpoint_digest = content_digest(self._folder())
        return f"{self.model}-{self._checkpoint_digest}"

    def _network(self) -> tuple[Any, Any]:
        """The network and its processor, loaded when first asked for."""
        if not hasattr(self, "_loaded"):
            self._loaded = load_folder(
                self.model, self.checkpoint, "Sam2Model", "Sam2Processor", pick_device(self.device), "segmenter 'sam2'"
            )
        return self._loaded

    def _encode(self, image: Image) -> Embedding:
        import torch

        network, processor = self._network()
        pixels = processor(images=image, input_data_format="channels_last", return_tensors="pt")["pixel_values"].to(network.device)
        with torch.inference_mode():
            features = network.get_image_embeddings(pixels)
        return {f"level_{level}": feature.cpu().numpy() for level, feature in enumerate(features)}

    def _decode(self, embedding: Embedding, size: tuple[int, int], click: Click, logits: NDArray[np.float32] | None) -> Candidates:
        import torch

        network, processor = self._network()
        side = network.prompt_encoder.input_image_size
        # The network adds half a pixel of its square input to what it takes for a pixel's index.
        across, down = side / size[1], side / size[0]
        points = torch.from_numpy(click.points * np.array([across, down], np.float32) - 0.5)[None, None]
        prompts: dict[str, Any] = {}
        if len(click.points):
            prompts["input_points"] = points
            prompts["input_labels"] = torch.from_numpy(click.labels)[None, None]
        if click.box is not None:
            prompts["input_boxes"] = torch.tensor([[click.box]]) * torch.tensor([across, down, across, down]) - 0.5
        if logits is not None:
            prompts["input_masks"] = torch.from_numpy(logits)[None, None]
        levels = [torch.from_numpy(embedding[f"level_{level}"]).to(network.device) for level in range(len(embedding))]
        with torch.inference_mode():
            answer = network(
                image_embeddings=levels,
                multimask_output=click.ambiguous,
                **{name: value.to(network.device) for name, value in prompts.items()},
            )
        low = answer.pred_masks[0].float().cpu()  # (1, C, h, w)
        masks = processor.post_process_masks([low], [size])[0][0]
        return Candidates(masks.numpy(), answer.iou_scores[0, 0].float().cpu().numpy(), low[0].numpy())

    def _mask_to_logits(self, object_mask: NDArray[np.float32]) -> NDArray[np.float32]:
        return shrunk(object_mask, self._network()[0].prompt_encoder.mask_input_size)
