"""Define a rule between fields, and the fields that it reads."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from trainer.config.schema import TrainConfig
from trireme.errors import Violation

Check = Callable[[TrainConfig, int | None], Iterable[Violation]]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Hold a rule between fields. It is checked only when each field that it reads is valid on its own."""

    reads: tuple[str, ...]
    """Paths of all fields that the check reads."""
    check: Check
    """Called with the configuration and the world size, None where it is unknown."""


def reads(*paths: str) -> Callable[[Callable[[TrainConfig, int | None], Iterator[Violation]]], Rule]:
    """Turn a generator of violations into a rule."""
    return lambda check: Rule(reads=paths, check=check)
