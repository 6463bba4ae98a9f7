"""A small file of weights, a server on this machine that has it, and a cache for it."""

from __future__ import annotations

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from spinnerf_ns.weights.store import WEIGHTS, WeightsFile

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


def run(*arguments: str) -> None:
    import tyro

    from spinnerf_ns.cli.weights import Weights

    tyro.cli(Weights, args=list(arguments)).main()
