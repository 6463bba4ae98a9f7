"""Loading what may hold a program: tensors alone, and TorchScript that is known or trusted."""

from __future__ import annotations

import hashlib

import pytest
import torch

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.weights import store as weights


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("code of a checkpoint was run",))


def test_checkpoints_are_tensors_only(tmp_path):
    torch.save({"weight": torch.arange(3)}, tmp_path / "good.pth")
    assert weights.load_state_dict(tmp_path / "good.pth")["weight"].tolist() == [0, 1, 2]
    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "short.pth").write_bytes((tmp_path / "good.pth").read_bytes()[:100])
    for name in ("evil.pth", "short.pth", "absent.pth"):
        with pytest.raises(SpinnerfError, match=name) as caught:
            weights.load_state_dict(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_torchscript_only_where_known_or_trusted(tmp_path):
    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    path = tmp_path / "double.pt"
    torch.jit.script(Double()).save(str(path))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    for accepted in ({"sha256": sha256}, {"trusted": True}, {"sha256": "0" * 64, "trusted": True}):
        assert weights.load_torchscript(path, **accepted)(torch.ones(1)).item() == 2
    for refused in ({}, {"sha256": "0" * 64}, {"sha256": sha256[:8]}):
        with pytest.raises(SpinnerfError, match=f"unknown.*{sha256}"):
            weights.load_torchscript(path, **refused)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SpinnerfError, match="cannot be read as TorchScript"):
        weights.load_torchscript(path, trusted=True)
    with pytest.raises(SpinnerfError, match="absent.pt"):
        weights.load_torchscript(tmp_path / "absent.pt", trusted=True)
