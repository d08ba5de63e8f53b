"""`trainer.train` with faults in it: the real entry, in whose process a step, a batch or a save goes wrong.

FAULTS names a JSON file: {"directory": ..., "faults": [...]}. What each rank reads in each step goes into the directory
(`lineage.RANK.jsonl`), and a line for each fault when it happens (`happened.RANK.jsonl`), also across restarts.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.parallel import cpu_shim

cpu_shim.install()

from trainer import train  # noqa: E402 - the shim comes first
from trainer.data.batch import MicroBatch  # noqa: E402 - as above
from trainer.data.loader import BatchLoader  # noqa: E402 - as above
from trainer.loop.train_loop import TrainLoop  # noqa: E402 - as above

VARIABLE = "TRIREME_TEST_FAULTS"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong in one process."""

    kind: str
    """See `_KINDS`, and bad_samples: labels of the samples `first` to `end - 1` are wrong whenever they are read."""
    name: str = ""
    """Tells the happenings of faults of one kind apart."""
    rank: int | None = 0
    """None for every rank."""
    step: int = 0
    """The step in which it happens."""
    last_step: int | None = None
    """Of a fault that happens in several steps; None for one."""
    times: int = 1
    """How often it happens in each step over all restarts."""
    first: int = 0
    end: int = 0
    seconds: float = 0.0
    """Of a step that is slow."""
    writes: int = 0
    """How many files this process has still to make durable when a save kills it."""


class Faults:
    """The faults of this process, and what has happened of them."""

    def __init__(self, plan: dict[str, Any], *, rank: int) -> None:
        self.directory, self.rank = Path(plan["directory"]), rank
        self.faults = [Fault(**fault) for fault in plan["faults"] if fault.get("rank", 0) in (None, rank)]

    def due(self, step: int) -> Iterator[Fault]:
        """Those that happen in a step, noted down before they do."""
        path = self.directory / f"happened.{self.rank}.jsonl"
        for fault in self.faults:
            if fault.kind == "bad_samples" or not fault.step <= step <= (fault.last_step or fault.step):
                continue
            happened = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            before = [one for one in happened if (one["fault"], one["step"]) == (asdict(fault), step)]
            if len(before) < fault.times:
                _append(path, {"fault": asdict(fault), "step": step, "time": time.time()})
                yield fault

    def spoil(self, batches: list[MicroBatch]) -> None:
        """Make the labels of bad samples wrong."""
        bad = [fault for fault in self.faults if fault.kind == "bad_samples"]
        for batch in batches:
            for row, sample in enumerate(batch.sample_ids):
                if any(fault.first <= sample < fault.end for fault in bad):
                    batch.labels[row] = (batch.labels[row] + 31) % 64


@contextmanager
def nan_gradient(loop: Any) -> Iterator[None]:
    """Make the gradient of one parameter NaN."""
    parameter = next(parameter for name, parameter in loop._engine._chunks[0].named_parameters() if "norm" in name)
    hook = parameter.register_hook(lambda gradient: gradient * float("nan"))
    yield
    hook.remove()


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def install(faults: Faults) -> None:
    """Patch what the loop calls."""
    read, take = BatchLoader.next_step, TrainLoop._take_step

    def next_step(self: BatchLoader) -> list[MicroBatch]:
        batches = read(self)
        faults.spoil(batches)
        return batches

    def take_step(self: Any) -> bool:
        step = self.progress.step + 1
        lineage = faults.directory / f"lineage.{faults.rank}.jsonl"
        seen: list[int] = []

        def noting(loader: BatchLoader) -> list[MicroBatch]:
            batches = next_step(loader)
            seen.extend(sample for batch in batches for sample in batch.sample_ids)
            return batches

        BatchLoader.next_step = noting  # type: ignore[method-assign]
        with _all(faults.due(step), loop=self):
            went_back = take(self)
        _append(lineage, {"step": step, "samples": seen})
        return went_back

    TrainLoop._take_step = take_step  # type: ignore[method-assign]


@contextmanager
def _all(faults: Iterator[Fault], *, loop: Any) -> Iterator[None]:
    found = [_KINDS[fault.kind](loop) for fault in faults]
    for one in found:
        one.__enter__()
    yield
    for one in found:
        one.__exit__(None, None, None)


_KINDS: dict[str, Callable[..., Any]] = {"nan_gradient": nan_gradient}


def main() -> int:
    """Train, with faults."""
    install(Faults(json.loads(Path(os.environ[VARIABLE]).read_text()), rank=int(os.environ.get("RANK", "0"))))
    return train.main()


if __name__ == "__main__":
    sys.exit(main())
