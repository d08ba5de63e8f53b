"""As much of Weights & Biases' server as a run needs to begin; it can be cut off under the run, or never answer."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

CUT_PATH = "/cut"
"""Who posts to this has the server cut off."""
RUN: dict[str, Any] = {
    "id": "run",
    "displayName": "demo",
    "config": "{}",
    "historyLineCount": 0,
    "project": {"id": "project", "name": "trireme", "entity": {"id": "entity", "name": "me"}},
}


class WandbServer:
    """A server on a port of this host; `with` ends it.

    Args:
        is_silent: take connections and requests, and never answer.
    """

    def __init__(self, *, is_silent: bool = False) -> None:
        self.has_run = False
        """Whether a run has begun."""
        self._is_over = threading.Event()
        self._is_cut = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.path == CUT_PATH:
                    outer.cut()
                elif is_silent:
                    outer._is_over.wait()
                    return
                answer = json.dumps(outer._answer(self.path, body)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that gave up waiting is no error here."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    def cut(self) -> None:
        """From now on connections are refused; more calls do nothing."""
        if not self._is_cut:
            self._is_cut = True
            self._is_over.set()
            self._server.shutdown()
            self._server.socket.close()

    def _answer(self, path: str, body: bytes) -> dict[str, Any]:
        data: dict[str, Any] = {}
        if b"upsertBucket" in body:
            name = json.loads(body)["variables"]["name"]
            data = {"upsertBucket": {"bucket": {**RUN, "name": name}, "inserted": True}}
            self.has_run = True
        elif b"RunResumeStatus" in body:
            data = {"model": None}
        return {"data": data} if path == "/graphql" else {}
