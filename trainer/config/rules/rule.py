"""One cross-field rule, and the fields it reads."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from trainer.config.schema import TrainConfig
from trireme.errors import Violation

Check = Callable[[TrainConfig, int | None], Iterable[Violation]]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule between fields. It is judged only when each field it reads is good by itself."""

    reads: tuple[str, ...]
    """Paths of all fields that the check looks at."""
    check: Check
    """Takes the configuration and the world size, None when that is not known."""


def reads(*paths: str) -> Callable[[Callable[[TrainConfig, int | None], Iterator[Violation]]], Rule]:
    """Make a rule of a generator of violations."""
    return lambda check: Rule(reads=paths, check=check)
