"""The page and its questions over HTTP, for the browser of this machine and no other.

    GET  /                   the page; what it loads lies beside it
    GET  /welcome            networks and images as JSON
    GET  /image?name=N       a picture (`data:` address)
    GET  /looks?network=N&filter=F   where a filter fires most
    POST /add?name=N         an image file, as its bytes
    POST /answer, /hiding    a question as JSON, see `Question`; paint is a PNG in base64

A page of somebody else's that a browser on this machine has open cannot ask: only requests to localhost by that name
are answered, and questions must be JSON, which no foreign page may send without being asked first.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from interp_cnn.explanation.network.refusals import Refusal
from interp_cnn.play.playground import Playground
from interp_cnn.play.questions import Outdated, Question, question_of

log = logging.getLogger(__name__)
HOST, PORT = "127.0.0.1", 8765
LARGEST = 64 << 20  # bytes of a request
_PAGE = {
    "/": ("interp_cnn.play", "page/index.html", "text/html"),
    "/play.css": ("interp_cnn.play", "page/play.css", "text/css"),
    "/play.js": ("interp_cnn.play", "page/play.js", "text/javascript"),
    "/style.css": ("interp_cnn.report", "templates/style.css", "text/css"),
    "/decision.css": ("interp_cnn.report", "templates/decision.css", "text/css"),
    "/script.js": ("interp_cnn.report", "templates/script.js", "text/javascript"),
}
_SAFE = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
)


class Server(ThreadingHTTPServer):
    """Serves a playground on this machine until `shutdown`."""

    daemon_threads = True
    allow_reuse_address = sys.platform != "win32"  # where it would share a port that is taken

    def __init__(self, playground: Playground, port: int | None = None) -> None:
        """Listen, not yet answer: `serve_forever` does.

        Args:
            playground: that is asked.
            port: None: 8765, or the next of ten that is free; 0: any.

        Raises:
            ValueError: the port is taken.
        """
        ports = [port] if port is not None else [*range(PORT, PORT + 10), 0]
        for candidate in ports:
            try:
                super().__init__((HOST, candidate), _Handler)
                break
            except OSError as error:
                if candidate == ports[-1]:
                    raise ValueError(
                        f"port={candidate}: {error.strerror}; give another, or none for one that is free"
                    ) from error
        self.playground = playground

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://localhost:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    questions: ClassVar[dict[str, Callable[[Playground, Question], Mapping[str, Any]]]] = {
        "/answer": Playground.answer,
        "/hiding": Playground.hiding,
    }

    def do_GET(self) -> None:
        self._reply(self._get)

    def do_POST(self) -> None:
        self._reply(self._post)

    def _get(self) -> None:
        path, given = self._asked()
        playground = self.server.playground
        if path in _PAGE:
            room, name, kind = _PAGE[path]
            self._send(HTTPStatus.OK, (files(room) / name).read_bytes(), f"{kind}; charset=utf-8")
        elif path == "/welcome":
            self._json(playground.welcome())
        elif path == "/image":
            self._json({"picture": playground.picture(given.get("name", ""))})
        elif path == "/looks":
            number = given.get("filter", "")
            if not number.isdecimal():
                raise ValueError(f"filter={number}: expected a number")
            self._json({"picture": playground.looks(given.get("network", ""), int(number))})
        else:
            self._json({"error": f"nothing is at {path}"}, HTTPStatus.NOT_FOUND)

    def _post(self) -> None:
        path, given = self._asked()
        content = self._content()
        if path == "/add" and self.headers.get_content_type() == "application/octet-stream":
            self._json({"name": self.server.playground.add(content, given.get("name", "image"))})
        elif path in self.questions and self.headers.get_content_type() == "application/json":
            self._json(self.questions[path](self.server.playground, question_of(content)))
        else:
            self._json({"error": f"nothing takes this at {path}"}, HTTPStatus.NOT_FOUND)

    def _asked(self) -> tuple[str, dict[str, str]]:
        address = urlsplit(self.path)
        return address.path, {key: values[0] for key, values in parse_qs(address.query).items()}

    def _content(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST:
            self.close_connection = True
            raise ValueError(f"a request has at most {LARGEST >> 20} MiB")
        return self.rfile.read(int(length))

    def _reply(self, answer: Callable[[], None]) -> None:
        """Answer; what the visitor can put right is a sentence, a fault of ours is told in the terminal."""
        port = self.server.server_address[1]
        if self.headers.get("Host") not in (f"localhost:{port}", f"{HOST}:{port}"):
            self._json({"error": "this page is for its own machine alone"}, HTTPStatus.FORBIDDEN)
            return
        try:
            answer()
        except Outdated:
            self._json({"outdated": True})
        except (ValueError, Refusal) as error:
            self._json({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        except ConnectionError:  # the browser has left
            self.close_connection = True
        except Exception as error:
            log.exception("a question failed")
            self._json(
                {"error": f"{type(error).__name__}: {error}; more in the terminal"},
                HTTPStatus.INTERNAL_SERVER_ERROR,
            )

    def _json(self, values: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, json.dumps(values, allow_nan=False).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Content-Security-Policy", _SAFE),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Not a line for every request."""
