"""The page's server: Tornado, which nerfstudio brings with JupyterLab. Routes, and who may ask; what is done is `session`'s.

Who may ask. It listens on 127.0.0.1 unless told otherwise; then a token is wanted, which the printed address holds. Any page that
a browser has open can send requests to 127.0.0.1, so that (1) the request's Host must be one that this server is known by,
else a foreign name that resolves to 127.0.0.1 would do (DNS rebinding); (2) its Origin, where there is one, must be the page's
own; (3) changes are asked for by POST with JSON, which no foreign form can send. No path of a request becomes a path on disk:
photos and objects are found by their place in the session's lists.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import secrets
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import tornado.httpserver
import tornado.netutil
import tornado.web
import tornado.websocket

from spinnerf_ns.errors import SpinnerfError
from spinnerf_ns.page.pictures import LARGEST, THUMBNAIL, decoded_mask, mask_png, photo_jpeg, space
from spinnerf_ns.page.removal import RemovalJob
from spinnerf_ns.page.session import Session
from spinnerf_ns.page.tracking import TrackingJob

STATIC = Path(__file__).parent / "static"
STATIC_FILES = {path.name: path for path in STATIC.iterdir() if path.suffix in (".html", ".js", ".css")}
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}

PORT = 7010
"""Where it listens unless told otherwise; the next free one is taken where it is in use."""
PORTS_TRIED = 20
LONGEST_ACTION, LONGEST_UPLOAD = 1 << 20, 32 << 20
"""Bytes of a request: JSON, and a mask's picture."""
LONGEST_STROKE = 20_000
"""Points of a stroke."""
COOKIE = "spinnerf_token"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SIZES = {"small": THUMBNAIL, "large": LARGEST}


@dataclass
class Page:
    """What the handlers share."""

    session: Session
    tracking: TrackingJob
    removal: RemovalJob
    token: str | None = None
    """Wanted of everybody; None on loopback."""
    sockets: set[tornado.websocket.WebSocketHandler] = field(default_factory=set)
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))

    def state(self) -> dict[str, Any]:
        """All that a tab shows."""
        session = self.session
        return {
            **session.state(),
            "scene": session.capture.data.name or str(session.capture.data),
            "photos": [{"name": view.photo, "width": view.width, "height": view.height} for view in session.views],
            "tracking": self.tracking.state(),
            "removal": self.removal.state(),
            "segmenter": session.segmenter.name,
        }

    def act(self, request: dict[str, Any]) -> Any:
        """One action, by the name of a function of the session or of a job.

        Raises:
            SpinnerfError: what it refuses; or no such action, or not with these arguments.
        """
        name, arguments = request.get("do"), {key: value for key, value in request.items() if key != "do"}
        session = self.session
        actions = {
            **{one: getattr(session, one) for one in ("box", "clear", "undo", "redo", "add_object", "rename_object",
                                                      "remove_object", "select", "point", "stroke")},
            "track": self.tracking.start, "stop_tracking": self.tracking.stop,
            "save": self.save, "remove": self.removal.start, "stop_removal": self.removal.stop,
        }  # fmt: skip
        if name not in actions:
            raise SpinnerfError(f"{name!r} is no action; load the page again")
        if len(arguments.get("points") or ()) > LONGEST_STROKE:
            raise SpinnerfError(f"a stroke of more than {LONGEST_STROKE} points; draw it in parts")
        try:
            return actions[name](**arguments)
        except (TypeError, ValueError, OverflowError) as error:
            raise SpinnerfError(f"{name}: not with {sorted(arguments)} ({error}); load the page again") from error

    def save(self) -> str:
        """Writes prompts and masks; the command that goes on from there."""
        from spinnerf_ns.hints import command

        session = self.session
        subset, capture, workspace = session.save(), session.capture, session.workspace
        return command(
            "ns-spinnerf", "remove", data=capture.data, workspace=workspace.root, objects=subset or None,
            segmenter=session.segmenter.name, tracker=session.tracker.name,
            allow_large_mask=session.as_they_are(session.sources()), lite="--lite" in self.removal.arguments,
        )  # fmt: skip


class Handler(tornado.web.RequestHandler):
    """What every request has to pass."""

    page: Page

    def initialize(self, page: Page) -> None:
        self.page = page

    def set_default_headers(self) -> None:
        self.set_header("Server", "spinnerf")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header(
            "Content-Security-Policy",
            "default-src 'self'; img-src 'self' blob: data:; connect-src 'self' ws: wss:; frame-ancestors 'none'; base-uri 'none'",
        )

    def prepare(self) -> None:
        given = self.get_query_argument("token", "") or self.get_cookie(cookie_name(self.request), "")
        refused = refusal(self.request, self.page.token, given)
        if refused:
            raise tornado.web.HTTPError(403, reason=refused)
        if self.request.method == "POST" and not isinstance(self, Upload):
            if self.request.headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
                raise tornado.web.HTTPError(415, reason="actions are JSON")

    def write_error(self, status_code: int, **_: Any) -> None:
        self.finish({"error": self._reason})

    async def run(self, function: Any, *arguments: Any) -> Any:
        """Runs a function beside the server; what it refuses becomes the answer."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.page.pool, partial(function, *arguments))
        except SpinnerfError as error:
            self.set_status(400)
            self.finish({"error": str(error)})
            raise tornado.web.Finish from error

    def photo(self, place: str) -> str:
        """The photo at a place of the path."""
        if int(place) >= len(self.page.session.views):
            raise tornado.web.HTTPError(404)
        return self.page.session.views[int(place)].photo

    def object(self, place: str) -> str:
        """The object at a place of the list."""
        objects = self.page.session.store.objects
        if int(place) >= len(objects):
            raise tornado.web.HTTPError(404)
        return objects[int(place)]["name"]


def refusal(request: Any, token: str | None, given: str) -> str | None:
    """Why a request is not answered; None: it is.

    Args:
        request: Tornado's.
        token: the one that is wanted, if one is.
        given: the one that came with it.
    """
    host = urlsplit(f"//{request.host}").hostname or ""
    if token is None and host not in LOOPBACK:
        return "this server is known as localhost"
    if token is not None and not hmac.compare_digest(token.encode(), given.encode("utf-8", "replace")):
        return "the address lacks the token; open the one that the terminal shows"
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != request.host.lower():
        return "asked from another page"
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and request.method != "GET":
        return "asked from another page"
    return None


def cookie_name(request: Any) -> str:
    """Of the token's cookie: browsers tell hosts apart by it, but not ports, and each page has a token of its own."""
    return f"{COOKIE}_{urlsplit(f'//{request.host}').port or 80}"


class Static(Handler):
    """The page itself."""

    def get(self, name: str = "") -> None:
        path = STATIC_FILES.get(name or "index.html")
        if path is None:
            raise tornado.web.HTTPError(404)
        if self.page.token is not None and self.get_cookie(cookie_name(self.request)) != self.page.token:
            self.set_cookie(cookie_name(self.request), self.page.token, httponly=True, samesite="Strict")
        self.set_header("Content-Type", TYPES[path.suffix])
        self.finish(path.read_bytes())


class State(Handler):
    """What a tab shows."""

    async def get(self) -> None:
        self.finish(await self.run(self.page.state))


class Act(Handler):
    """Every action."""

    async def post(self) -> None:
        if len(self.request.body) > LONGEST_ACTION:
            raise tornado.web.HTTPError(413)
        try:
            request = json.loads(self.request.body)
        except ValueError as error:
            raise tornado.web.HTTPError(400, reason="no JSON") from error
        if not isinstance(request, dict):
            raise tornado.web.HTTPError(400, reason="no action")
        result = await self.run(self.page.act, request)
        self.finish({"result": result, "state": await self.run(self.page.state)})


class Photo(Handler):
    """A photo, small or large."""

    async def get(self, place: str, size: str) -> None:
        photo, session = self.photo(place), self.page.session
        view = session.view(photo)
        image = await self.run(session.image if size == "large" else view.read_image, *([photo] if size == "large" else []))
        self.set_header("Content-Type", "image/jpeg")
        self.set_header("Cache-Control", "private, max-age=3600")
        self.finish(await self.run(photo_jpeg, image, SIZES[size]))


class Mask(Handler):
    """A mask as a film over its photo; nothing (204) where there is none."""

    async def get(self, place: str, photo_place: str, size: str) -> None:
        found = await self.run(self.page.session.mask, self.object(place), self.photo(photo_place))
        if found is None:
            self.set_status(204)
            return
        self.set_header("Content-Type", "image/png")
        if self.get_query_argument("v", ""):
            self.set_header("Cache-Control", "private, max-age=3600")
        self.finish(await self.run(mask_png, found, int(place), SIZES[size]))


class Upload(Handler):
    """A ready mask's picture."""

    async def post(self, place: str, photo_place: str) -> None:
        if self.request.headers.get("Content-Type") not in ("image/png", "image/jpeg"):
            raise tornado.web.HTTPError(415, reason="a mask is a PNG or JPEG")
        found = await self.run(decoded_mask, self.request.body)
        if found is None:
            raise tornado.web.HTTPError(400, reason="no picture that can be read")
        await self.run(self.page.session.upload, self.object(place), self.photo(photo_place), found)
        self.finish({"state": await self.run(self.page.state)})


class Space(Handler):
    """The 3-D check."""

    async def get(self, place: str) -> None:
        name = self.object(place)
        solid = None if self.page.session.stale(name) else self.page.tracking.solids.get(name)
        self.finish(await self.run(space, self.page.session, name, solid))


class After(Handler):
    """A photo without the object."""

    async def get(self, photo_place: str) -> None:
        path = self.page.removal.after(self.photo(photo_place))
        if path is None:
            raise tornado.web.HTTPError(404)
        self.set_header("Content-Type", "image/png")
        self.finish(await self.run(path.read_bytes))


class Events(tornado.websocket.WebSocketHandler):
    """Tells a tab to look again."""

    def initialize(self, page: Page) -> None:
        self.page = page

    def prepare(self) -> None:
        refused = refusal(self.request, self.page.token, self.get_cookie(cookie_name(self.request), ""))
        if refused or self.request.headers.get("Origin") is None:
            raise tornado.web.HTTPError(403, reason=refused or "asked from no page")

    def check_origin(self, origin: str) -> bool:
        return urlsplit(origin).netloc.lower() == self.request.host.lower()

    def open(self) -> None:
        self.page.sockets.add(self)
        self.write_message("look")

    def on_message(self, message: str | bytes) -> None:
        pass

    def on_close(self) -> None:
        self.page.sockets.discard(self)


class Server:
    """Listens, until stopped.

    Args:
        session: the scene.
        host: where to listen; any but loopback wants a token.
        port: where; None: PORT, or the next free one.
        removal_arguments: more arguments of the whole run.
        token: the token, in place of a drawn one.

    Raises:
        SpinnerfError: the port is in use, or the host is none of this machine.
    """

    def __init__(
        self, session: Session, host: str = "127.0.0.1", port: int | None = None, removal_arguments: list[str] | None = None,
        token: str | None = None,
    ) -> None:  # fmt: skip
        self.host = host
        token = None if is_loopback(host) and token is None else token or secrets.token_urlsafe(18)
        self.page = Page(session, TrackingJob(session), RemovalJob(session, removal_arguments or []), token)
        self.sockets, self.port = _bound(host, port)
        self.page.tracking.compare()

    @property
    def address(self) -> str:
        """What to open in a browser."""
        host = "localhost" if self.host in ("0.0.0.0", "::", "") else (f"[{self.host}]" if ":" in self.host else self.host)
        return f"http://{host}:{self.port}/" + (f"?token={self.page.token}" if self.page.token else "")

    def serve(self) -> None:
        """Serves until Ctrl-C or `stop`."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        page, loop = self.page, asyncio.get_running_loop()
        number, photo = r"(\d{1,6})", r"(\d{1,6})"
        application = tornado.web.Application(
            [
                (r"/(?:static/([a-z0-9.]+))?", Static, {"page": page}),
                (r"/api/state", State, {"page": page}),
                (r"/api/act", Act, {"page": page}),
                (r"/api/events", Events, {"page": page}),
                (rf"/api/mask/{number}/{photo}", Upload, {"page": page}),
                (rf"/api/space/{number}", Space, {"page": page}),
                (rf"/photo/{photo}/(small|large)", Photo, {"page": page}),
                (rf"/mask/{number}/{photo}/(small|large)", Mask, {"page": page}),
                (rf"/after/{photo}", After, {"page": page}),
            ],
            log_function=lambda handler: None,
        )
        server = tornado.httpserver.HTTPServer(application, max_body_size=LONGEST_UPLOAD, max_header_size=1 << 16)
        server.add_sockets(self.sockets)

        def look() -> None:
            for socket_handler in list(page.sockets):
                try:
                    socket_handler.write_message("look")
                except tornado.websocket.WebSocketClosedError:
                    page.sockets.discard(socket_handler)

        page.session.listeners.append(lambda: loop.call_soon_threadsafe(look))
        self._stopped, self._loop = asyncio.Event(), loop
        await self._stopped.wait()
        server.stop()
        await server.close_all_connections()

    def stop(self) -> None:
        """Ends `serve`, from any thread."""
        self._loop.call_soon_threadsafe(self._stopped.set)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bound(host: str, port: int | None) -> tuple[list[socket.socket], int]:
    ports = [port] if port is not None else range(PORT, PORT + PORTS_TRIED)
    for candidate in ports:
        try:
            sockets = tornado.netutil.bind_sockets(candidate, address=host)
            return sockets, sockets[0].getsockname()[1]
        except OSError as error:
            problem = error
    raise SpinnerfError(f"{host}:{ports[0]}: cannot listen there ({problem.strerror}); choose another: --port 0, --host 127.0.0.1")
