"""What came of each fault: when it was noticed, what it cost, and whether anybody could tell from the result."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.chaos.faulty import happenings, read_lineage, samples_of
from tests.chaos.scenarios import GLOBAL_BATCH_SIZE, NUM_STEPS, Row, Scenario
from tests.chaos.supervisor import Start
from tests.train.commands import losses_of, tensors_of
from trainer.checkpoint.directory import checkpoint_name, checkpoints_directory
from trainer.loop.recovery_log import FILE_NAME, ROLLBACK, read_recovery_log

TOLERANCE = 1e-6
"""Relative, of fp32 losses whose sums have another order."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One row of the table."""

    run: str
    fault: str
    design: str
    detected_after_seconds: float | None
    """From the fault to the end of the start, or to the word in the log; None where damage waited for a start."""
    num_steps_lost: int
    """Taken once more because of it."""
    recovered_after_seconds: float | None
    """From the fault to the end of the next step that was taken."""
    is_equal: bool
    """The result is what the design says."""
    difference: float
    """Largest relative difference of a loss from the reference; 0 means bit for bit, weights and moments as well."""
    num_samples_lost: int
    num_samples_duplicated: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended beside its reference."""

    difference: float
    are_tensors_equal: bool
    num_samples_lost: int
    num_samples_duplicated: int

    def fits(self, scenario: Scenario) -> bool:
        """Whether that is what the design says."""
        if self.num_samples_lost or self.num_samples_duplicated:
            return False
        if scenario.design == "within 1e-6":
            return self.difference <= TOLERANCE
        return self.are_tensors_equal and self.difference == 0


def compare(run: Path, reference: Path, *, notes: Path, scenario: Scenario) -> Result:
    """Compare losses, weights, moments and what was read."""
    losses, expected = losses_of(run), losses_of(reference)
    assert sorted(losses) == list(range(1, NUM_STEPS + 1)), f"steps {sorted(losses)}"
    last = checkpoint_name(NUM_STEPS)
    tensors = tensors_of(checkpoints_directory(run) / last)
    others = tensors_of(checkpoints_directory(reference) / last)
    read = [sample for step in range(1, NUM_STEPS + 1) for sample in samples_of(notes).get(step, [])]
    first, end = scenario.skipped_samples
    numbers = range(NUM_STEPS * GLOBAL_BATCH_SIZE + end - first)
    due = {sample for sample in numbers if not first <= sample < end}
    return Result(
        # A loss that is not finite is null.
        difference=max(
            abs(loss / expected[step] - 1) for step, loss in losses.items() if loss is not None and expected[step]
        ),
        are_tensors_equal=tensors.keys() == others.keys()
        and all(bool((tensors[key] == others[key]).all()) for key in tensors),
        num_samples_lost=len(due - set(read)) + len(set(read) - due),
        num_samples_duplicated=len(read) - len(set(read)),
    )


def judge(scenario: Scenario, *, run: Path, notes: Path, starts: list[Start], result: Result) -> list[Verdict]:
    """One verdict a row."""
    verdicts = []
    for row in scenario.rows:
        begin = _time_of(row, scenario=scenario, notes=notes, starts=starts, run=run)
        detected = _detected(row, begin=begin, run=run, starts=starts)
        recovered = _next_step(notes, after=max(begin, detected or begin))
        verdicts.append(
            Verdict(
                run=scenario.name,
                fault=row.fault,
                design=scenario.design,
                detected_after_seconds=None if detected is None else round(detected - begin, 2),
                num_steps_lost=_steps_lost(notes, begin=begin, run=run, starts=starts),
                recovered_after_seconds=None if recovered is None else round(recovered - begin, 2),
                is_equal=result.fits(scenario),
                difference=result.difference,
                num_samples_lost=result.num_samples_lost,
                num_samples_duplicated=result.num_samples_duplicated,
            )
        )
    return verdicts


def _time_of(row: Row, *, scenario: Scenario, notes: Path, starts: list[Start], run: Path) -> float:
    if row.start is not None:
        return starts[row.start].ended if row.start >= 0 else starts[0].began
    if row.kind == "bad_samples":
        return min(record["time"] for record in read_lineage(notes) if record["step"] == row.step)
    found = [
        record["time"]
        for record in happenings(notes)
        if record["fault"]["kind"] == row.kind and record["fault"]["step"] == row.step
    ]
    assert found, f"never happened: {row.fault}"
    return min(found)


def _detected(row: Row, *, begin: float, run: Path, starts: list[Start]) -> float | None:
    if row.sign is not None:
        return _said(run, sign=row.sign, since=begin)
    if row.kind in ("nan_gradient", "inf_loss", "bad_samples"):
        decisions = read_recovery_log(run / FILE_NAME)
        times = [datetime.fromisoformat(decision["time"]).timestamp() for decision in decisions]
        return min((time for time in times if time >= begin - 0.01), default=None)
    return min((start.ended for start in starts if start.ended >= begin), default=None)


def _said(run: Path, *, sign: str, since: float) -> float | None:
    for line in (run / "logs" / "rank_000.log").read_text().splitlines():
        if sign in line:
            time = datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()
            if time >= since:
                return time
    return None


def _next_step(notes: Path, *, after: float) -> float | None:
    return min((record["time"] for record in read_lineage(notes) if record["time"] > after), default=None)


def _steps_lost(notes: Path, *, begin: float, run: Path, starts: list[Start]) -> int:
    """Steps that were taken and had to be taken again: after going back, or in the next start."""
    start = next(start for start in starts if begin <= start.ended)
    for decision in read_recovery_log(run / FILE_NAME):
        time = datetime.fromisoformat(decision["time"]).timestamp()
        if decision["kind"] == ROLLBACK and begin - 0.01 <= time <= start.ended:
            return int(decision["step"] - decision["to_step"])
    lineage = read_lineage(notes)
    taken = [record["step"] for record in lineage if start.began <= record["time"] <= start.ended]
    later = [record["step"] for record in lineage if record["time"] > start.ended]
    return max(0, max(taken) + 1 - later[0]) if taken and later else 0
