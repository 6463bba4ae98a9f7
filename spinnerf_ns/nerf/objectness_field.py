"""A field that says of every point whether it belongs to the object (SPIn-NeRF, CVPR 2023, section 3.1)."""

from __future__ import annotations

from typing import Literal

from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.field_components.mlp import MLP
from torch import Tensor, nn


class ObjectnessField(nn.Module):
    """A view-independent objectness logit per point; sigmoid(logit) is the probability that the point is the object's.

    It has a small hash grid of its own, so that masks leave colour and density as they are.

    Args:
        num_levels, max_res, log2_hashmap_size: the grid's size.
        hidden_dim: width of the one hidden layer.
        implementation: "tcnn" or "torch".
    """

    def __init__(
        self,
        num_levels: int = 8,
        max_res: int = 512,
        log2_hashmap_size: int = 17,
        hidden_dim: int = 32,
        implementation: Literal["tcnn", "torch"] = "torch",
    ) -> None:
        super().__init__()
        self.encoding = HashEncoding(
            num_levels=num_levels,
            min_res=16,
            max_res=max_res,
            log2_hashmap_size=log2_hashmap_size,
            features_per_level=2,
            implementation=implementation,
        )
        self.mlp = MLP(
            in_dim=self.encoding.get_out_dim(),
            num_layers=2,
            layer_width=hidden_dim,
            out_dim=1,
            activation=nn.ReLU(),
            implementation=implementation,
        )

    def forward(self, positions: Tensor) -> Tensor:
        """Logits at points.

        Args:
            positions: (..., 3) in [0, 1], contracted and normalised as nerfacto's field does.

        Returns:
            (..., 1) logits.
        """
        features = self.encoding(positions.reshape(-1, 3))
        return self.mlp(features).float().view(*positions.shape[:-1], 1)
