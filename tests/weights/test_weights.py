"""Pretrained files: download, resume, and refusal of what is wrong, against a server on this machine."""

from __future__ import annotations

import dataclasses
import re

import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.weights import store as weights
from spinnerf_ns.weights.store import WEIGHTS, HubModel, WeightsFile, WeightsUnavailable, ensure_weights
from tests.weights.conftest import CONTENT, MD5, SHA256, Handler, run


def change(monkeypatch, entry: WeightsFile, **fields) -> None:
    monkeypatch.setitem(WEIGHTS, entry.name, dataclasses.replace(entry, **fields))


def files(cache) -> list[str]:
    """What lies in the cache, without the lock."""
    return sorted(path.name for path in cache.glob("*") if path.is_file() and not path.name.startswith("."))


# ------------------------------------------------------------------------------------------------------------------ download
def test_download_once_with_the_licence_said(server, entry, cache, capsys):
    path = ensure_weights("small")
    assert path == cache / "small.pth" and path.read_bytes() == CONTENT
    assert "Fair-1.0" in capsys.readouterr().out
    assert ensure_weights("small") == path and len(server.asked) == 1
    assert files(cache) == ["small.pth"]


def test_a_broken_download_is_resumed(server, entry, cache):
    server.break_after = 70_000
    with pytest.raises(WeightsUnavailable, match="broke after 70000 of 102400 bytes"):
        ensure_weights("small")
    assert files(cache) == ["small.pth.part"]
    server.break_after = None
    assert ensure_weights("small").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=70000-"]


def test_resume_from_a_server_without_ranges_begins_again(server, entry, cache):
    cache.mkdir()
    (cache / "small.pth.part").write_bytes(b"x" * 500)
    server.ranges = False
    assert ensure_weights("small").read_bytes() == CONTENT


@pytest.mark.parametrize("length", [500, len(CONTENT), len(CONTENT) + 7])
@pytest.mark.parametrize("size_known", [True, False])
def test_a_part_of_another_file_is_not_built_upon(server, entry, cache, monkeypatch, length, size_known):
    if not size_known:
        change(monkeypatch, entry, size=None)
    cache.mkdir()
    (cache / "small.pth.part").write_bytes(b"x" * length)
    assert ensure_weights("small").read_bytes() == CONTENT
    assert files(cache) == ["small.pth"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sha256": "0" * 64}, f"sha256 {SHA256}, {'0' * 64} expected"),
        ({"sha256": None, "publisher_digest": ("md5", "ffffff")}, f"md5 {MD5}, ffffff expected"),
        ({"size": None, "sha256": "0" * 64}, "wrong file"),
        ({"size": 5}, "102400 bytes, 5 were expected"),
        ({"size": None, "sha256": None, "publisher_digest": None}, "no checksum"),
    ],
)
def test_a_wrong_file_is_refused_and_deleted(server, entry, cache, monkeypatch, fields, message):
    change(monkeypatch, entry, **fields)
    with pytest.raises(WeightsUnavailable, match=message):
        ensure_weights("small")
    assert files(cache) == []


def test_the_publishers_digest_alone_is_enough_and_is_checked(server, entry, cache, monkeypatch):
    change(monkeypatch, entry, sha256=None)
    assert ensure_weights("small").read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"?"])
def test_a_wrong_file_in_the_cache_is_moved_aside(server, entry, cache, content):
    cache.mkdir()
    (cache / "small.pth").write_bytes(content)
    with pytest.raises(WeightsUnavailable, match="is a wrong file.*small.pth.rejected") as caught:
        ensure_weights("small", allow_download=False)
    assert "\n" not in str(caught.value)
    assert files(cache) == ["small.pth.rejected"]
    assert ensure_weights("small").read_bytes() == CONTENT


def test_a_file_changed_after_its_check_is_checked_again(server, entry, cache):
    path = ensure_weights("small")
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(WeightsUnavailable, match="wrong file"):
        ensure_weights("small", allow_download=False)


def test_torchs_cache_is_used_and_never_written(server, entry, cache, tmp_path):
    hub = tmp_path / "torch/hub/checkpoints"
    hub.mkdir(parents=True)
    (hub / "small.pth").write_bytes(CONTENT)
    assert ensure_weights("small") == hub / "small.pth"
    (hub / "small.pth").write_bytes(b"broken")
    assert ensure_weights("small") == cache / "small.pth"
    assert [path.name for path in hub.iterdir()] == ["small.pth"] and (hub / "small.pth").read_bytes() == b"broken"


# --------------------------------------------------------------------------------------------------------------- no network
def test_no_network_names_file_url_and_folder(server, entry, cache, monkeypatch):
    server.server_close()  # nothing listens there any more
    change(monkeypatch, entry, url="http://127.0.0.1:9/small.pth")
    with pytest.raises(WeightsUnavailable) as caught:
        ensure_weights("small")
    text = str(caught.value)
    assert "\n" not in text and "small.pth" in text and "http://127.0.0.1:9/small.pth" in text and str(cache) in text


def test_offline_asks_nobody(server, entry, cache, monkeypatch):
    monkeypatch.setenv("SPINNERF_OFFLINE", "1")
    with pytest.raises(WeightsUnavailable, match=re.escape(entry.url)):
        ensure_weights("small")
    with pytest.raises(WeightsUnavailable, match="downloads are off"):
        ensure_weights("big-lama")
    assert server.asked == [] and not cache.exists()


def test_a_servers_refusal_is_one_line(entry, monkeypatch, server):
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.send_error(404))
    with pytest.raises(WeightsUnavailable, match="answered 404"):
        ensure_weights("small")


def test_unknown_names_list_similar_ones(cache):
    with pytest.raises(SpinnerfError, match="sam_vit_b"):
        ensure_weights("sam_vit_x")
    assert weights.find_entry("sam-vit-b") is WEIGHTS["sam_vit_b"]


def test_a_named_file_is_taken_as_it_is(entry, tmp_path):
    own = tmp_path / "own.pth"
    with pytest.raises(SpinnerfError, match="own.pth"):
        ensure_weights("small", path=own)
    own.write_bytes(b"mine")
    assert ensure_weights("small", path=own) == own


# --------------------------------------------------------------------------------------------------------------------- table
def test_the_table_is_complete_and_agrees_with_the_publishers():
    for name, entry in WEIGHTS.items():
        assert name == entry.name and entry.licence and entry.used_by and entry.url.startswith("https://")
        if isinstance(entry, HubModel):
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry.hub_id)
            continue
        assert entry.sha256 is None or re.fullmatch("[0-9a-f]{64}", entry.sha256)
        assert entry.sha256 is not None or not entry.verified
        assert entry.size or entry.publisher_digest
        algorithm, digits = entry.publisher_digest
        if algorithm == "sha256":
            assert entry.sha256.startswith(digits)
        if len(digits) < 32:  # a part of a digest: the publisher put it into the file's name
            assert re.search(rf"[-_]{digits}\.", entry.file_name)


def test_the_installed_packages_name_the_same_files():
    from torchvision import models

    for name, known in (
        ("vgg16", models.VGG16_Weights),
        ("alexnet", models.AlexNet_Weights),
        ("squeezenet1_1", models.SqueezeNet1_1_Weights),
    ):
        assert WEIGHTS[name].url == known.IMAGENET1K_V1.url
        assert WEIGHTS[name].size / 2**20 == pytest.approx(known.IMAGENET1K_V1.meta["_file_size"], abs=1e-3)
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    assert WEIGHTS["inception-fid"].url == fidelity.URL_INCEPTION_V3


# ------------------------------------------------------------------------------------------------------------------- command
def test_command(server, entry, cache, capsys):
    run("list")
    listed = capsys.readouterr().out
    assert "small" in listed and "Fair-1.0" in listed and str(cache) in listed
    run("fetch", "small")
    assert str(cache / "small.pth") in capsys.readouterr().out
    run("verify")
    assert "as expected" in capsys.readouterr().out
    (cache / "small.pth").write_bytes(b"broken")
    with pytest.raises(SpinnerfError, match="small.pth"):
        run("verify", "small")
    run("verify", "sam_vit_b")
    assert "not here" in capsys.readouterr().out
    with pytest.raises(SpinnerfError, match="NAME"):
        run("fetch")
    with pytest.raises(SpinnerfError, match="there are"):
        run("fetch", "small", "nothing-like-it")
    assert (cache / "small.pth").read_bytes() == b"broken"
