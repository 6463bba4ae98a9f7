"""Pretrained files: download, resume, refusal of what is wrong, and loading, against a server on this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.weights import store as weights
from spinnerf_ns.weights.store import WEIGHTS, HubModel, WeightsFile, WeightsUnavailable, ensure_weights

CONTENT = bytes(range(256)) * 400
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(HTTPServer):
    """Serves `content` under every path; remembers the Range headers it was asked with."""

    content = CONTENT
    break_after: int | None = None  # close the connection after so many bytes of the answer
    ranges = True  # understands Range

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server: Server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked).group(1)) if asked and server.ranges else 0
        if start and start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if server.break_after is None else body[: server.break_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(timeout=5)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPINNERF_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("SPINNERF_OFFLINE", raising=False)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def entry(server, cache, monkeypatch):
    entry = WeightsFile(
        name="small",
        url=f"http://127.0.0.1:{server.server_port}/small.pth",
        size=len(CONTENT),
        sha256=SHA256,
        publisher_digest=("md5", MD5[:6]),
        licence="Fair-1.0",
        used_by="tests",
    )
    monkeypatch.setitem(WEIGHTS, "small", entry)
    return entry


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


# ----------------------------------------------------------------------------------------------------------------------- hub
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


# ------------------------------------------------------------------------------------------------------------------- loading
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


# ------------------------------------------------------------------------------------------------------------------- command
def run(*arguments: str) -> None:
    import tyro

    from spinnerf_ns.cli.weights import Weights

    tyro.cli(Weights, args=list(arguments)).main()


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
