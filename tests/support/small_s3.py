"""A small S3 server in memory, for what real ones do differently: `If-None-Match` on PUT.

It checks no signatures and knows what a lake needs: PUT, GET with ranges, HEAD, DELETE, listing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class Conditions(Enum):
    """What a server does with `If-None-Match: *`."""

    HONOURED = auto()
    REFUSED = auto()  # 501
    IGNORED = auto()


class SmallS3:
    """Its objects by `bucket/key`, and its requests as (method, key)."""

    def __init__(self, conditions: Conditions) -> None:
        self.conditions = conditions
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _key(self) -> str:
        key = unquote(urlsplit(self.path).path).lstrip("/")
        self.server.of.requests.append((self.command, key))
        return key

    def do_PUT(self) -> None:
        key, of = self._key(), self.server.of
        content = self.rfile.read(int(self.headers["Content-Length"]))
        is_conditional = self.headers["If-None-Match"] == "*"
        with of.lock:
            if is_conditional and of.conditions is Conditions.REFUSED:
                self._error(501, "NotImplemented")
                return
            if is_conditional and of.conditions is Conditions.HONOURED and key in of.objects:
                self._error(412, "PreconditionFailed")
                return
            now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            of.objects[key] = (content, now)
        self._answer(200)

    def do_GET(self) -> None:
        key, query = self._key(), parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._list(key.rstrip("/"), query)
            return
        content = self.server.of.objects.get(key)
        if content is None:
            self._error(404, "NoSuchKey")
            return
        wanted = self.headers["Range"]
        if not wanted:
            self._answer(200, content[0])
            return
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        self._answer(206, content[0][first : last + 1])

    def do_HEAD(self) -> None:
        self._answer(200 if self._key() in self.server.of.objects else 404)

    def do_DELETE(self) -> None:
        self.server.of.objects.pop(self._key(), None)
        self._answer(204)

    def _list(self, bucket: str, query: dict[str, list[str]]) -> None:
        prefix = query.get("prefix", [""])[0]
        found, folders = [], set()
        for key, (content, written) in sorted(self.server.of.objects.items()):
            name = key.removeprefix(f"{bucket}/")
            if not name.startswith(prefix):
                continue
            folder, slash, _ = name[len(prefix) :].partition("/")
            if slash and "delimiter" in query:
                folders.add(prefix + folder + "/")
                continue
            found.append(
                f"<Contents><Key>{escape(name)}</Key><Size>{len(content)}</Size>"
                f"<LastModified>{written}</LastModified></Contents>"
            )
        found += [
            f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in folders
        ]
        text = f"<ListBucketResult>{''.join(found)}</ListBucketResult>"
        self._answer(200, text.encode())

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code></Error>".encode())

    def _answer(self, status: int, content: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, of: SmallS3) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.of = of


@contextlib.contextmanager
def small_s3(conditions: Conditions = Conditions.HONOURED) -> Iterator[SmallS3]:
    """A running server; its `url` is the endpoint, and every bucket is there."""
    made = SmallS3(conditions)
    server = _Server(made)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
