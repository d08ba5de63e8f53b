"""Report what a request cannot have, in the form of OpenAI's API."""

from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """Answer a request with an error.

    Args:
        status: HTTP status.
        message: full sentences for the user.
        kind: `type` of OpenAI's error object.
        param: name of the parameter that is wrong.
        code: a word for programs.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code
        self.headers = dict(headers or {})

    def to_json(self) -> dict[str, Any]:
        """Return the body of the answer."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """Return the error of a request whose content is wrong."""
    return ApiError(400, message, param=param, code=code)


def overloaded(message: str) -> ApiError:
    """Return the error of a request for which the queue has no room."""
    return ApiError(429, message, kind="rate_limit_error", code="queue_full", headers={"Retry-After": "1"})


def unavailable(message: str, *, code: str) -> ApiError:
    """Return the error of a request to a server that takes none any more."""
    return ApiError(503, message, kind="server_error", code=code)
