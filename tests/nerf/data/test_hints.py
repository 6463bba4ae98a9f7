"""What the data managers say when there is nothing to train on."""

from __future__ import annotations

from copy import deepcopy

import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.method_configs.spinnerf_seg_lite import spinnerf_seg_lite
from tests.scene.captures import make_capture


def test_a_capture_without_masks_is_told_how_to_make_them(tmp_path) -> None:
    config = deepcopy(spinnerf_seg_lite.config.pipeline.datamanager)
    config.data = make_capture(tmp_path / "my scene", 5)
    with pytest.raises(SpinnerfError, match="ns-spinnerf segment --data '.*my scene' --view PHOTO --points X,Y"):
        config.setup(device="cpu")
