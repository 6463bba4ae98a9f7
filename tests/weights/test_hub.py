"""Folders of models from Hugging Face's hub: found, downloaded, put by hand, verified."""

from __future__ import annotations

import re
import sys
import types

import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.weights import store as weights
from spinnerf_ns.weights.store import WeightsUnavailable, ensure_weights
from tests.weights.conftest import CONTENT, SHA256, run


def test_hub_models_by_huggingface_hub(cache, monkeypatch, tmp_path, capsys):
    calls = []

    def snapshot_download(hub_id, local_files_only=False, cache_dir=None, **patterns):
        calls.append((hub_id, local_files_only, cache_dir))
        assert not any("bin" in pattern or "pt" in pattern for pattern in patterns["allow_patterns"])
        if local_files_only:
            raise FileNotFoundError("not cached")
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    with pytest.raises(WeightsUnavailable, match="facebook/sam2.1-hiera-tiny"):
        ensure_weights("sam2.1-hiera-tiny", allow_download=False)
    # looked for in that library's cache and in ours
    assert calls == [("facebook/sam2.1-hiera-tiny", True, place) for place in (None, cache / "hub")]
    assert ensure_weights("sam2.1-hiera-tiny") == tmp_path and "Apache-2.0" in capsys.readouterr().out
    assert calls[-1] == ("facebook/sam2.1-hiera-tiny", False, cache / "hub")  # SPINNERF_WEIGHTS moves it
    monkeypatch.delenv("SPINNERF_WEIGHTS")
    assert ensure_weights("sam2.1-hiera-tiny") == tmp_path
    assert calls[-1] == ("facebook/sam2.1-hiera-tiny", False, None)  # that library's own


def test_a_hub_model_put_by_hand(cache, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # not needed
    folder = weights.cache_dir() / "sam2.1-hiera-tiny"
    with pytest.raises(WeightsUnavailable) as caught:
        ensure_weights("sam2.1-hiera-tiny", allow_download=False)
    assert all(part in str(caught.value) for part in (str(folder), "https://huggingface.co/facebook/", ".safetensors"))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert ensure_weights("sam2.1-hiera-tiny", allow_download=False) == folder
    run("verify", "sam2.1-hiera-tiny")
    assert "no checksum of it is known" in capsys.readouterr().out


def test_an_interrupted_hub_download_is_not_taken_for_the_model(cache, monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--facebook--sam2.1-hiera-tiny"
    folder = model / "snapshots" / "abc"
    for path, content in ((model / "refs" / "main", "abc"), (folder / "config.json", "{}")):
        path.parent.mkdir(parents=True)
        path.write_text(content)
    with pytest.raises(WeightsUnavailable, match="downloads are off"):
        ensure_weights("sam2.1-hiera-tiny", allow_download=False)
    (folder / "model.safetensors").write_bytes(b"weights")
    assert ensure_weights("sam2.1-hiera-tiny", allow_download=False) == folder
    (model / "blobs").mkdir()
    (model / "blobs" / "def.incomplete").write_bytes(b"wei")
    with pytest.raises(WeightsUnavailable, match="downloads are off"):
        ensure_weights("sam2.1-hiera-tiny", allow_download=False)


def test_hub_files_are_verified_by_the_names_of_their_blobs(cache, capsys):
    pytest.importorskip("huggingface_hub")
    model = cache / "hub" / "models--facebook--sam2.1-hiera-tiny"
    blob, folder = model / "blobs" / SHA256, model / "snapshots" / "abc"
    for path, content in ((model / "refs" / "main", b"abc"), (folder / "config.json", b"{}"), (blob, CONTENT)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "model.safetensors").symlink_to(blob)
    run("list", "sam2.1-hiera-tiny")
    assert f"here: {folder}" in capsys.readouterr().out
    run("verify", "sam2.1-hiera-tiny")
    assert "as expected" in capsys.readouterr().out
    blob.write_bytes(CONTENT[:-1])
    with pytest.raises(SpinnerfError, match=re.escape(str(folder))):
        run("verify")
    assert f"{SHA256} expected" in capsys.readouterr().out


def test_hub_models_without_the_package(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsUnavailable, match="pip install"):
        ensure_weights("grounding-dino-tiny")
