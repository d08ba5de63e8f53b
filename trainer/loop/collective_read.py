"""Read on all ranks or on none: agree on failures and stop signals before any rank continues."""

import traceback
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import distributed

from trainer.loop.signals import StopRequest
from trireme.errors import EXIT_STOPPED, ConfigError, RunStopped, exit_code_for

T = TypeVar("T")


class StopRequested(Exception):
    """A process received a stop signal; raised on every rank."""


class ReadFailed(Exception):
    """Data could not be read on at least one rank; raised on every rank with the same message."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class CollectiveRead:
    """Read on every rank, or on none: a rank that failed alone would leave the others in the next collective."""

    def __init__(self, stop: StopRequest, *, device: torch.device) -> None:
        self._stop, self._device = stop, device

    def __call__(self, read: Callable[[], T], *, otherwise: str = "") -> T:
        """Return what this rank has read; all ranks call this.

        Args:
            otherwise: what a failure prevents, for its message, such as `Cannot take step 7`.
        Raises:
            ReadFailed: a rank could not read.
            StopRequested: a rank received a stop signal; what was read is discarded.
        """
        failure: BaseException | None = None
        try:
            result = read()
        except Exception as error:
            failure = error
        is_stopping, has_failed = self._stop.agree(has_failed=failure is not None, device=self._device)
        if has_failed:
            raise _gather(failure, otherwise=otherwise)
        if is_stopping:
            raise StopRequested
        return result


def _gather(own: BaseException | None, *, otherwise: str) -> ReadFailed:
    """Gather the failures of all ranks into one error; equal messages appear once."""
    reported = None if own is None else (_describe(own), exit_code_for(own))
    gathered: list[tuple[str, int] | None] = [reported]
    if distributed.is_initialized():
        gathered = [None] * distributed.get_world_size()
        distributed.all_gather_object(gathered, reported)
    failures = [failure for failure in gathered if failure is not None]
    unexpected = [failure for failure in failures if failure[1] == EXIT_STOPPED]
    message = "; ".join(dict.fromkeys(text for text, _ in failures))
    return ReadFailed(f"{otherwise}: {message}" if otherwise else message, exit_code=(unexpected or failures)[0][1])


def _describe(error: BaseException) -> str:
    if isinstance(error, ConfigError):
        return "; ".join(map(str, error.violations))
    if isinstance(error, RunStopped):
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()
