"""Segment Anything (package segment-anything): points, a box, or a rough mask -> the object's mask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spinnerf_ns.conventions import Image
from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.segmentation.pretrained import content_digest, find_weights, need_package, pick_device
from spinnerf_ns.segmentation.segmenters.promptable import (
    MASK_LOGIT,
    Candidates,
    Click,
    Embedding,
    PromptableSegmenter,
    shrunk,
)
from spinnerf_ns.weights.store import load_state_dict

if TYPE_CHECKING:
    from segment_anything import SamPredictor


@dataclass
class SamSegmenter(PromptableSegmenter):
    """Segment Anything. Weights `sam_vit_b`, `sam_vit_l` or `sam_vit_h`; Apache-2.0."""

    model: str = "vit_b"
    """Which network: vit_b (375 MB), vit_l (1.2 GB) or vit_h (2.6 GB)."""
    checkpoint: Path | None = None
    """A file of the network's weights in place of the published one, in the same format."""
    device: str = "auto"
    """Where the network runs; auto: the GPU where there is one."""

    name = "sam"

    def ensure(self) -> None:
        """Raises SpinnerfError if the package or the weights can't be had; fetches them if that is allowed."""
        self._weights()

    def _weights(self) -> Path:
        models = need_package("segment_anything", "sam", "segmenter 'sam'").sam_model_registry
        if self.model not in models:
            known = ", ".join(name for name in models if name != "default")
            raise SpinnerfError(f"segmenter 'sam' has no model '{self.model}'; there are: {known}")
        return find_weights(f"sam_{self.model}", self.checkpoint)

    def _identity(self) -> str:
        if not hasattr(self, "_checkpoint_digest"):
            self._checkpoint_digest = content_digest(self._weights())
        return f"{self.model}-{self._checkpoint_digest}"

    def _predictor(self) -> SamPredictor:
        """The network, loaded when first asked for."""
        if not hasattr(self, "_loaded"):
            path = self._weights()
            from segment_anything import SamPredictor, sam_model_registry

            network = sam_model_registry[self.model]()
            try:
                network.load_state_dict(load_state_dict(path))
            except (RuntimeError, TypeError) as error:  # other keys or shapes; something else than a dict
                raise SpinnerfError(
                    f"{path}: are no weights of SAM's {self.model} ({str(error).strip().splitlines()[0].rstrip(':')}); "
                    "name their model, vit_b, vit_l or vit_h, or another file"
                ) from error
            self._loaded = SamPredictor(network.to(pick_device(self.device)).eval())
        return self._loaded

    def _encode(self, image: Image) -> Embedding:
        predictor = self._predictor()
        predictor.set_image(image)
        return {"features": predictor.get_image_embedding().cpu().numpy()}

    def _decode(self, embedding: Embedding, size: tuple[int, int], click: Click, logits: NDArray[np.float32] | None) -> Candidates:
        import torch

        predictor = self._predictor()
        side = predictor.model.image_encoder.img_size
        # What set_image leaves behind, without the encoder.
        predictor.reset_image()
        predictor.features = torch.from_numpy(embedding["features"]).to(predictor.device)
        predictor.original_size, predictor.input_size = size, predictor.transform.get_preprocess_shape(*size, side)
        predictor.is_image_set = True
        # SAM adds half a pixel of its input to what it takes for a pixel's index; here pixels' centres lie at 0.5.
        half = 0.5 * np.array([size[1] / predictor.input_size[1], size[0] / predictor.input_size[0]], np.float32)
        masks, scores, low = predictor.predict(
            point_coords=click.points - half if len(click.points) else None,
            point_labels=click.labels if len(click.points) else None,
            box=None if click.box is None else np.array(click.box, np.float32) - np.tile(half, 2),
            mask_input=None if logits is None else logits[None],
            multimask_output=click.ambiguous,
        )
        return Candidates(masks, scores, low)

    def _mask_to_logits(self, object_mask: NDArray[np.float32]) -> NDArray[np.float32]:
        predictor = self._predictor()
        height, width = predictor.model.prompt_encoder.mask_input_size  # square, the photo in its top left corner
        small = shrunk(object_mask, predictor.transform.get_preprocess_shape(*object_mask.shape, max(height, width)))
        return np.pad(small, ((0, height - small.shape[0]), (0, width - small.shape[1])), constant_values=-MASK_LOGIT)
