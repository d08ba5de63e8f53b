"""Run functions on one rank or on all ranks; an error on one rank becomes the same error on every rank."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import distributed
from torch.distributed.checkpoint.api import CheckpointException

from trireme.errors import ConfigError, Violation

Result = TypeVar("Result")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; raised on every rank, with the ranks that failed."""


@dataclass(frozen=True, kw_only=True)
class _Outcome(Generic[Result]):
    result: Result | None = None
    error: str | None = None
    """None for a success; empty for a failure because of another rank."""
    violations: tuple[Violation, ...] = ()


class Ranks:
    """Run functions in the processes of a group.

    Args:
        process_group: None takes the default group, or this process alone if there is none.
        is_alone: take this process alone, whatever groups exist.
    """

    def __init__(self, process_group: distributed.ProcessGroup | None = None, *, is_alone: bool = False) -> None:
        self.process_group = process_group
        self.is_distributed = distributed.is_initialized() and not is_alone
        self.rank = distributed.get_rank(process_group) if self.is_distributed else 0
        self.size = distributed.get_world_size(process_group) if self.is_distributed else 1

    @property
    def is_coordinator(self) -> bool:
        """Whether this is rank 0, which runs what runs once, and logs."""
        return self.rank == 0

    def run_on_rank0(self, function: Callable[[], Result], *, doing: str) -> Result:
        """Run a function on rank 0; return its result, or raise its error, on every rank."""
        outcomes: list[_Outcome[Result] | None] = [_attempt(function, rank=0) if self.is_coordinator else None]
        if self.is_distributed:
            group = self.process_group
            source = distributed.get_global_rank(group, 0) if group is not None else 0
            distributed.broadcast_object_list(outcomes, src=source, group=group)
        return _results(outcomes, doing=doing)[0]

    def run_on_all_ranks(self, function: Callable[[], Result], *, doing: str) -> list[Result]:
        """Run a function on every rank; return all results, or raise all errors, on every rank.

        `function` may communicate only if it then fails on all ranks.
        """
        outcome = _attempt(function, rank=self.rank)
        outcomes: list[_Outcome[Result] | None] = [outcome]
        if self.is_distributed:
            outcomes = [None] * self.size
            distributed.all_gather_object(outcomes, outcome, group=self.process_group)
        return _results(outcomes, doing=doing)


def _attempt(function: Callable[[], Result], *, rank: int) -> _Outcome[Result]:
    try:
        return _Outcome(result=function())
    except ConfigError as error:
        return _Outcome(violations=error.violations)
    except CheckpointException as error:
        # Raised on every rank with the failures of all ranks; each reports its own.
        return _Outcome(error=_describe(error.failures[rank][0]) if rank in error.failures else "")
    except Exception as error:
        return _Outcome(error=_describe(error))


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _results(outcomes: list[_Outcome[Result] | None], *, doing: str) -> list[Result]:
    found = [outcome for outcome in outcomes if outcome is not None]
    assert len(found) == len(outcomes), f"no answer from every rank while {doing}"
    violations = {str(violation): violation for outcome in found for violation in outcome.violations}
    if violations:
        raise ConfigError(violations.values())
    if any(outcome.error is not None for outcome in found):
        errors = [f"rank {rank}: {outcome.error}" for rank, outcome in enumerate(found) if outcome.error]
        raise CheckpointError(f"Error while {doing}: " + "; ".join(errors))
    return [outcome.result for outcome in found]  # type: ignore[misc]
