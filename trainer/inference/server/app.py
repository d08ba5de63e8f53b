"""Define the server's HTTP interface: OpenAI's API, health, metrics, and a page to chat."""

import base64
import hashlib
import hmac
import json
import logging
import re
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from prometheus_client import Counter
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainer.inference.server.errors import ApiError
from trainer.inference.server.metrics import CONTENT_TYPE
from trainer.inference.server.protocol import ChatRequest, CompletionRequest, parse_request
from trainer.inference.server.service import Job, Service, wait_for_answer

_LOGGER = logging.getLogger(__name__)
PAGE = Path(__file__).with_name("page.html")
_DISCARD_FACTOR = 8
"""Bodies up to this many times the limit are read before they are refused: many clients read no answer before they have
sent all."""
_OPEN_PATHS = ("/", "/health", "/metrics")
"""Paths that need no API key."""


def build_app(service: Service, *, api_key: str | None, max_body_bytes: int) -> FastAPI:
    """Build the application.

    Args:
        api_key: that requests of the API must carry; None lets everyone in.
        max_body_bytes: size of a request's body at most.
    """
    app = FastAPI(title="Trireme", docs_url=None, redoc_url=None, openapi_url=None)
    page, policy = _load_page(service)

    app.add_middleware(Gate, api_key=api_key, requests=service.metrics.requests)

    @app.exception_handler(ApiError)
    async def answer_error(request: Request, error: ApiError) -> Response:
        return _answer_error(error)

    @app.exception_handler(HTTPException)
    async def answer_http_error(request: Request, error: HTTPException) -> Response:
        message = {404: f"There is no {request.url.path} here.", 405: f"{request.method} is not allowed here."}.get(
            error.status_code, str(error.detail)
        )
        return _answer_error(ApiError(error.status_code, message, headers=error.headers))

    @app.get("/", response_class=HTMLResponse)
    async def show_page() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})

    @app.get("/health")
    async def report_health() -> Response:
        service.worker.check()
        return JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def report_metrics() -> Response:
        return Response(service.metrics.render(), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def list_models() -> Response:
        return JSONResponse({"object": "list", "data": [_describe_model(service, name) for name in service.names]})

    @app.get("/v1/models/{name:path}")
    async def show_model(name: str) -> Response:
        service.find_model(name)
        return JSONResponse(_describe_model(service, name))

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        parsed = parse_request(await _read_body(request, max_body_bytes), CompletionRequest)
        return await _answer(request, service, service.begin_completion(parsed), is_stream=parsed.stream)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        parsed = parse_request(await _read_body(request, max_body_bytes), ChatRequest)
        return await _answer(request, service, service.begin_chat(parsed), is_stream=parsed.stream)

    return app


class Gate:
    """Let requests in that carry the API key, and count all by endpoint and status.

    Not Starlette's BaseHTTPMiddleware, which stands between a stream and the news that its client has left.

    Args:
        app: to pass requests on to.
        requests: the counter.
    """

    def __init__(self, app: ASGIApp, *, api_key: str | None, requests: Counter) -> None:
        self._app, self._api_key, self._requests = app, api_key, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        has_begun = False

        async def count(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                self._requests.labels(_endpoint(path), str(message["status"])).inc()
            await send(message)

        try:
            if path not in _OPEN_PATHS:
                _authorize(Request(scope), self._api_key)
        except ApiError as error:
            await _answer_error(error)(scope, receive, count)
            return
        try:
            await self._app(scope, receive, count)
        except Exception:
            _LOGGER.exception("Failed to answer a request to %s.", path)
            if not has_begun:
                failure = ApiError(500, "The server failed to answer this request.", kind="server_error")
                await _answer_error(failure)(scope, receive, count)


async def _answer(request: Request, service: Service, job: Job, *, is_stream: bool) -> Response:
    if is_stream:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(service.stream(job), media_type="text/event-stream", headers=headers)

    async def is_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answer = await wait_for_answer(service.finish(job), is_gone=is_gone)
    # nginx's status for a client that has left; nobody reads it but the metrics.
    return Response(status_code=499) if answer is None else JSONResponse(answer)


async def _read_body(request: Request, limit: int) -> bytes:
    """Read the body of a request.

    Raises:
        ApiError: it is not JSON, or too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"The Content-Type must be application/json, not {kind or 'empty'}.", code="not_json")
    too_large = ApiError(413, f"The body is larger than {limit} bytes.", code="body_too_large")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > _DISCARD_FACTOR * limit:
        raise too_large
    body, num_bytes = bytearray(), 0
    async for part in request.stream():
        num_bytes += len(part)
        if num_bytes > _DISCARD_FACTOR * limit:
            raise too_large
        if num_bytes <= limit:
            body += part
    if num_bytes > limit:
        raise too_large
    return bytes(body)


def _authorize(request: Request, api_key: str | None) -> None:
    """Compare a request's key with the server's.

    Raises:
        ApiError: it is missing or wrong.
    """
    if api_key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # The bytes of the header: UTF-8, or Latin-1 as Python's own client sends it.
    sent, key = given.strip().encode("latin-1"), api_key.encode(errors="surrogateescape")
    is_right = hmac.compare_digest(sent, key) or hmac.compare_digest(sent, api_key.encode("latin-1", errors="replace"))
    if scheme.lower() != "bearer" or not is_right:
        message = "The API key is missing or wrong. Send it as Authorization: Bearer KEY."
        raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _answer_error(error: ApiError) -> Response:
    return JSONResponse(error.to_json(), status_code=error.status, headers=error.headers)


def _endpoint(path: str) -> str:
    """Return the label of a path; those that are not served share one, or anyone could add labels without end."""
    known = (*_OPEN_PATHS, "/v1/models", "/v1/completions", "/v1/chat/completions")
    return path if path in known else "/v1/models/{name}" if path.startswith("/v1/models/") else "other"


def _describe_model(service: Service, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": service.started,
        "owned_by": "trireme",
        "max_model_len": service.model.context_length,
        "has_chat_template": service.model.chat_template is not None,
    }


def _load_page(service: Service) -> tuple[str, str]:
    """Return the page, and the policy that allows its own script and style and nothing else."""
    settings = {
        "model": service.name,
        "hasChatTemplate": service.model.chat_template is not None,
        "contextLength": service.model.context_length,
    }
    # No name may end the script.
    text = PAGE.read_text(encoding="utf-8").replace("{{settings}}", json.dumps(settings).replace("<", "\\u003c"))
    parts = {name: re.findall(rf"<{name}>(.*?)</{name}>", text, flags=re.DOTALL) for name in ("script", "style")}
    hashes = {
        name: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" for part in found
        )
        for name, found in parts.items()
    }
    policy = (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; connect-src 'self';"
        " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy
