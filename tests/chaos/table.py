"""The table at the end."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tests.chaos.scenarios import Scenario
from tests.chaos.suite import Outcome


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the suite found, in a sentence."""

    text: str
    is_good: bool


def draw(outcome: Outcome) -> None:
    """Print one row a fault."""
    table = Table(title="faults of a real run")
    for column in ("run", "fault", "design"):
        table.add_column(column, overflow="fold")
    for column in ("detected after", "steps lost", "recovered after", "as designed", "difference", "lost", "twice"):
        table.add_column(column, justify="right")
    for verdict in outcome.verdicts:
        table.add_row(
            verdict.run,
            verdict.fault,
            verdict.design,
            _seconds(verdict.detected_after_seconds),
            str(verdict.num_steps_lost),
            _seconds(verdict.recovered_after_seconds),
            "yes" if verdict.is_equal else "NO",
            f"{verdict.difference:.0e}" if verdict.difference else "0",
            str(verdict.num_samples_lost),
            str(verdict.num_samples_duplicated),
        )
    for names, word in ((outcome.skipped, "skipped"), (outcome.failed, "FAILED")):
        for name, reason in names.items():
            table.add_row(name, reason.splitlines()[0], "", "", "", "", word, "", "", "")
    Console(width=None if Console().is_terminal else 200).print(table)


def summarize(outcome: Outcome, *, scenarios: Sequence[Scenario]) -> Summary:
    """Count."""
    verdicts, skipped, failed = outcome.verdicts, outcome.skipped, outcome.failed
    num_faults = sum(len(scenario.rows) for scenario in scenarios)
    num_good = sum(verdict.is_equal for verdict in verdicts)
    # Of each run once: its rows share the result.
    runs = {verdict.run: verdict.num_samples_lost + verdict.num_samples_duplicated for verdict in verdicts}
    text = (
        f"{len(verdicts)} of {num_faults} faults happened, {num_good} ended as designed, {sum(runs.values())} samples"
        f" were lost or read twice; {len(skipped)} runs skipped, {len(failed)} failed"
    )
    return Summary(text=text, is_good=num_good == len(verdicts) and not failed)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"
