"""The server: what it answers, and to whom."""

from __future__ import annotations

import http.client
import io
import json

import cv2
import numpy as np
import pytest

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.page.server import LONGEST_ACTION, LONGEST_UPLOAD, Server, is_loopback
from tests.page.conftest import in_thread


@pytest.fixture
def start(make_session):
    servers = []

    def make(**options) -> Server:
        server = Server(make_session(), port=0, **options)
        servers.append((server, in_thread(server)))
        return server

    yield make
    for server, thread in servers:
        server.stop()
        thread.join(5)


def ask(server, path, body=None, method=None, **headers):
    """(status, headers, body) of a request; a body that is a dict is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(body, dict):
        body = json.dumps(body)
        headers.setdefault("Content-Type", "application/json")
    connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


CLICK = {"do": "point", "name": "object", "x": 50, "y": 40, "label": 1}


def png(mask) -> bytes:
    return cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes()


def test_the_page_and_an_action(start, twin) -> None:
    server = start()
    status, headers, body = ask(server, "/")
    assert status == 200 and b"static/page.js" in body and "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert b"http://" not in body and b"https://" not in body  # works without a network
    for name in ("page.js", "view.js", "strip.js", "space.js", "compare.js", "page.css"):
        assert ask(server, f"/static/{name}")[0] == 200
    state = json.loads(ask(server, "/api/state")[2])
    photo = state["photos"][2]["name"]
    status, _, body = ask(server, "/api/act", {**CLICK, "photo": photo})
    answer = json.loads(body)
    assert status == 200 and answer["state"]["prompts"]["object"][photo]["points"] == [[50.0, 40.0]]
    status, headers, body = ask(server, "/mask/0/2/large")
    film = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    assert film.shape == (120, 160, 4) and (film[..., 3] > 0).sum() == 256 and film[40, 50, 3] > 0
    assert ask(server, "/mask/0/3/large")[0] == 204
    jpeg = cv2.imdecode(np.frombuffer(ask(server, "/photo/2/large")[2], np.uint8), cv2.IMREAD_COLOR)
    assert jpeg.shape == (120, 160, 3)


def test_refusals_are_one_line_with_status_400(start) -> None:
    server = start()
    photo = json.loads(ask(server, "/api/state")[2])["photos"][0]["name"]
    stroke = {"do": "stroke", "name": "object", "photo": photo, "radius": 3, "label": 1}
    for action, message in (
        ({**CLICK, "photo": photo, "x": 1000}, "outside the photo"),
        ({**CLICK, "photo": photo, "x": "a"}, "not with"),
        ({**CLICK, "photo": photo, "more": 1}, "not with"),
        ({"do": "point"}, "not with"),
        ({"do": "__init__"}, "no action"),
        ({"do": "shutdown"}, "no action"),
        ({"photo": photo}, "no action"),
        ({**stroke, "points": [[1, 1]] * 30000}, "draw it in parts"),
        ({"do": "save"}, "nothing is pointed at"),
    ):  # fmt: skip
        status, _, body = ask(server, "/api/act", action)
        assert status == 400 and message in json.loads(body)["error"] and "Traceback" not in body.decode()
    for body in (b"", b"{", b"[]", b"3"):
        assert ask(server, "/api/act", body, Content_Type="application/json")[0] == 400


def test_nothing_outside_the_capture_is_served(start, tmp_path) -> None:
    server = start()
    (tmp_path / "secret.png").write_bytes(b"x")
    for path in (
        "/../../etc/passwd", "/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py", "/static/server.py",
        "/static//etc/passwd", "/photo/../0/large", "/photo/-1/large", "/photo/9999/large", "/photo/0/huge", "/mask/0/999/large",
        "/mask/9/0/large", "/after/0", "/after/..", "/static/page.js/..", "/photo/0/large/../../../etc/passwd", "/prompts.json",
        "/transforms.json", "/session.json",
    ):  # fmt: skip
        assert ask(server, path)[0] == 404, path
    for name in ("../../x", "/etc/passwd", "..", "a/../../b"):
        status, _, body = ask(server, "/api/act", {**CLICK, "photo": name})
        assert status == 400 and "there is none" in json.loads(body)["error"]
        assert ask(server, "/api/act", {"do": "add_object", "name": name})[0] == 400


def test_only_this_machine_and_only_the_page_may_ask(start) -> None:
    server = start()
    assert server.host == "127.0.0.1" and server.sockets[0].getsockname()[0] == "127.0.0.1" and "token" not in server.address
    here = f"127.0.0.1:{server.port}"
    for host in (here, f"localhost:{server.port}", "localhost:9999", f"[::1]:{server.port}"):  # a tunnel has another port
        assert ask(server, "/api/state", Host=host)[0] == 200
    for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.1.5"):
        assert ask(server, "/api/state", Host=host)[0] == 403  # a foreign name that was made to resolve to this machine
        assert ask(server, "/", Host=host)[0] == 403
    action = {"do": "add_object", "name": "lamp"}
    for origin in ("http://evil.example", "null", "http://localhost:1", f"http://evil.example:{server.port}"):
        assert ask(server, "/api/act", action, Origin=origin)[0] == 403
    assert ask(server, "/api/act", action, Sec_Fetch_Site="cross-site")[0] == 403
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):  # what a foreign form can send
        assert ask(server, "/api/act", json.dumps(action), Content_Type=kind)[0] in (400, 415)
    assert ask(server, "/api/act", method="GET")[0] == 405
    assert len(json.loads(ask(server, "/api/state")[2])["objects"]) == 1
    assert ask(server, "/api/act", action, Origin=f"http://{here}")[0] == 200


def test_the_socket_is_for_the_page_alone(start) -> None:
    server = start()
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x" * 22 + "=="}
    here = f"http://127.0.0.1:{server.port}"
    assert ask(server, "/api/events", Origin=here, **upgrade)[0] == 101
    assert ask(server, "/api/events", Origin="http://evil.example", **upgrade)[0] == 403
    assert ask(server, "/api/events", **upgrade)[0] == 403
    assert ask(server, "/api/events", Origin=here, Host="evil.example", **upgrade)[0] == 403


def test_elsewhere_a_token_is_wanted(start) -> None:
    server = start(host="0.0.0.0")
    token = server.address.rpartition("token=")[2]
    assert len(token) >= 20
    for path in ("/", "/api/state", "/photo/0/small", "/static/page.js"):
        assert ask(server, path)[0] == 403
        assert ask(server, f"{path}?token=wrong")[0] == 403
        assert ask(server, path, Cookie=f"spinnerf_token_{server.port}=wrong")[0] == 403
    status, headers, _ = ask(server, f"/?token={token}")
    assert status == 200 and "httponly" in headers["Set-Cookie"].lower() and "samesite=strict" in headers["Set-Cookie"].lower()
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert ask(server, "/api/state", Cookie=cookie, Host=f"192.168.1.5:{server.port}")[0] == 200
    old = {"Cookie": cookie.replace(token, "of-an-earlier-server")}  # the address that is printed mends it
    assert ask(server, "/", **old)[0] == 403 and token in ask(server, f"/?token={token}", **old)[1]["Set-Cookie"]
    assert ask(server, "/api/act", {"do": "add_object", "name": "a"}, Cookie=cookie, Origin="http://evil.example")[0] == 403
    assert token not in start(host="0.0.0.0").address


def test_uploads_are_bounded_and_looked_at(start) -> None:
    server = start()
    mask = np.zeros((120, 160), bool)
    mask[20:40, 20:40] = True
    status, _, body = ask(server, "/api/mask/0/1", png(mask), Content_Type="image/png")
    assert status == 200 and json.loads(body)["state"]["undo"] == 1
    assert ask(server, "/api/mask/0/1", png(mask[:50]), Content_Type="image/png")[0] == 400  # another size
    assert ask(server, "/api/mask/0/1", b"<svg/>", Content_Type="image/png")[0] == 400
    assert ask(server, "/api/mask/0/1", png(mask), Content_Type="text/plain")[0] == 415
    assert ask(server, "/api/mask/0/1", png(mask), Content_Type="image/png", Origin="http://evil.example")[0] == 403
    bomb = io.BytesIO()
    from PIL import Image

    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")  # small on the wire, 400 MB when it is decoded
    assert ask(server, "/api/mask/0/1", bomb.getvalue(), Content_Type="image/png")[0] == 400
    for path, size in (("/api/mask/0/1", LONGEST_UPLOAD), ("/api/act", LONGEST_ACTION)):
        try:
            kind = "application/json" if path == "/api/act" else "image/png"
            assert ask(server, path, b" " * (size + 1), Content_Type=kind)[0] in (400, 413)
        except (ConnectionError, http.client.HTTPException):
            pass  # refused before it was read
    assert json.loads(ask(server, "/api/state")[2])["undo"] == 1


def test_the_port_that_is_taken(start, make_session) -> None:
    server = start()
    with pytest.raises(SpinnerfError, match="cannot listen there.*--port"):
        Server(make_session(), port=server.port)
    with pytest.raises(SpinnerfError, match="cannot listen there"):
        Server(make_session(), host="192.0.2.7", port=0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.5"])
def test_loopback(host) -> None:
    assert is_loopback(host) and not is_loopback("0.0.0.0") and not is_loopback("example.org") and not is_loopback("::")
