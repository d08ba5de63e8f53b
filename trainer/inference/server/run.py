"""Run the server until it is told to stop, and let it finish what it has accepted."""

import asyncio
import contextlib
import json
import logging
import signal
import socket
from collections.abc import Generator

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from trainer.inference.server.app import build_app
from trainer.inference.server.errors import invalid
from trainer.inference.server.metrics import ServerMetrics
from trainer.inference.server.service import Service
from trireme.errors import ConfigError, Violation

_LOGGER = logging.getLogger(__name__)
_POLL_SECONDS = 0.05


class DrainingServer(uvicorn.Server):
    """Answer new requests with status 503 after the first signal, and stop when all texts have ended.

    uvicorn's own shutdown closes the port at once, so that a load balancer sees connections refused.

    Args:
        drain_seconds: after which texts in progress are cut off.
    """

    def __init__(self, config: uvicorn.Config, *, service: Service, drain_seconds: float) -> None:
        super().__init__(config)
        self._service, self._drain_seconds = service, drain_seconds
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Handle signals in the event loop."""
        loop = asyncio.get_running_loop()
        handled = (signal.SIGINT, signal.SIGTERM)
        for number in handled:
            loop.add_signal_handler(number, self._on_signal, signal.Signals(number).name)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    def _on_signal(self, name: str) -> None:
        if self._draining is not None:
            _LOGGER.info("Received %s again: exiting immediately.", name)
            self.force_exit = self.should_exit = True
            return
        load = self._service.worker.load
        _LOGGER.info(
            "Received %s: finishing %d texts, up to %g s. Send it again to exit immediately.",
            name,
            load.num_active + load.num_waiting,
            self._drain_seconds,
        )
        self._service.worker.drain()
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._drain_seconds
        while not self._service.worker.is_idle and loop.time() < end:
            await asyncio.sleep(_POLL_SECONDS)
        self.should_exit = True
        if not self._service.worker.is_idle:
            _LOGGER.warning("Texts are cut off: they have not ended within %g s.", self._drain_seconds)
            self.force_exit = True


def bind(host: str, port: int) -> socket.socket:
    """Open the server's port; 0 takes a free one.

    Raises:
        ConfigError: it cannot be opened.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            [
                Violation(
                    path="--host, --port",
                    value=f"{host}, {port}",
                    message=f"cannot be opened: {reason}",
                    fix="Use another port, or stop the program that has it.",
                )
            ]
        ) from error
    return opened


def _protocol_of(metrics: ServerMetrics) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol, with errors of HTTP itself in the API's form; the application never sees those."""

    class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        def send_400_response(self, msg: str) -> None:
            body = json.dumps(invalid(f"The request is not valid HTTP: {msg}", code="invalid_http").to_json()).encode()
            head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
            self.transport.close()
            metrics.requests.labels("other", "400").inc()

    return Protocol


def run_server(
    service: Service, *, opened: socket.socket, api_key: str | None, max_body_bytes: int, drain_seconds: float
) -> None:
    """Serve until SIGTERM or Ctrl-C, and until the texts accepted before have ended.

    Args:
        opened: from `bind`; closed at the end.
    """
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # what it says of its life is said by this module
    app = build_app(service, api_key=api_key, max_body_bytes=max_body_bytes)
    config = uvicorn.Config(
        app,
        http=_protocol_of(service.metrics),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    server = DrainingServer(config, service=service, drain_seconds=drain_seconds)

    async def serve() -> None:
        service.worker.start()
        await server.serve(sockets=[opened])

    try:
        asyncio.run(serve())
    finally:
        service.worker.stop()
