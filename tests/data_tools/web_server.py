"""A real web server with the faults that real ones have."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """One file, how it is served, and what was asked for."""

    data: bytes
    takes_ranges: bool = True
    tells_size: bool = True
    entity_tag: str = '"v1"'
    modified: str = field(default_factory=lambda: formatdate(1e9, usegmt=True))
    cuts: list[int] = field(default_factory=list)
    """Bytes of the body after which the connections of the next answers are cut, one answer each."""
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Statuses and headers that come before any data is sent."""
    stalls: list[int] = field(default_factory=list)
    """Bytes of the body after which the next answers say nothing more, and do not end either."""
    breaks_at: int | None = None
    """No answer ever gives a byte of the file from here on."""
    changes_to: bytes | None = None
    """What the file becomes after the first cut."""
    meeting: threading.Barrier | None = None
    """No answer is given before so many requests have come as it asks for."""
    goes_on: threading.Event = field(default_factory=threading.Event)
    """Ends the answers that stall."""
    requests: list[dict[str, str]] = field(default_factory=list)
    """Headers of all requests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        served: Served = self.server.files[self.path]  # type: ignore[attr-defined]
        served.requests.append({name.lower(): value for name, value in self.headers.items()})
        self.close_connection = True
        if served.meeting is not None:
            served.meeting.wait(30)
        if served.answers:
            status, headers = served.answers.pop(0)
            self.send_response(status)
            for name, value in ({"Content-Length": "0"} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            return
        data, start = served.data, self._find_start(served)
        if start is not None and start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        body = data[start or 0 :]
        if served.tells_size:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        for name, value in (("ETag", served.entity_tag), ("Last-Modified", served.modified)):
            if value:
                self.send_header(name, value)
        # All is decided before the first byte leaves: the client's next request may overtake what follows here.
        cut = served.cuts.pop(0) if served.cuts else None
        if served.breaks_at is not None:
            cut = max(0, served.breaks_at - (start or 0))
        if cut is not None and served.changes_to is not None:
            served.data, served.entity_tag = served.changes_to, '"v2"'
            served.modified = formatdate(1e9 + 60, usegmt=True) if served.modified else ""
        stall = served.stalls.pop(0) if served.stalls else None
        self.end_headers()
        if stall is not None:
            self.wfile.write(body[:stall])
            self.wfile.flush()
            served.goes_on.wait(30)
            return
        sent = body if cut is None else body[:cut]
        if served.tells_size:
            self.wfile.write(sent)
        else:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent) + (b"0\r\n\r\n" if cut is None else b""))

    def _find_start(self, served: Served) -> int | None:
        """First byte that is asked for; None to send the whole file."""
        value = self.headers.get("Range")
        if value is None or not served.takes_ranges:
            return None
        condition = self.headers.get("If-Range")
        if condition is not None and condition not in (served.entity_tag, served.modified):
            return None
        return int(value.removeprefix("bytes=").partition("-")[0])

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients may leave."""


@contextmanager
def web_server(**files: Served) -> Iterator[str]:
    """Serve files under /NAME while the block runs; yields the address with a slash at its end."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.files = {f"/{name}": served for name, served in files.items()}  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
