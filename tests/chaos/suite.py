"""Runs scenarios one after the other, each beside an undisturbed run."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.judgement import Verdict, compare, judge
from tests.chaos.scenarios import REFERENCES, SETTINGS, Scenario
from tests.chaos.supervisor import CrashLoop, supervise
from tests.data.shards import write_shard
from tests.metrics.wandb_server import WandbServer
from tests.train.commands import counting_documents

SMALL_DISK_BYTES = 12 << 20


class Skipped(Exception):
    """A scenario needs what this host or user does not have."""


class Suite:
    """One place on the disk with a shard, undisturbed runs and disturbed ones."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._shard = write_shard(directory / "counting", counting_documents(), with_manifest=True)
        shutil.copy2(self._shard.with_suffix(".bin"), self._shard.with_suffix(".bin.copy"))
        self._references: dict[str, Path] = {}

    def play(self, scenario: Scenario) -> list[Verdict]:
        """Run a scenario to its end and judge it.

        Raises:
            Skipped: this host cannot.
            CrashLoop: the run never came to its end.
        """
        name = re.sub("[^a-z0-9]+", "-", scenario.name.lower())
        reference = None if scenario.design == "equal to its replay" else self._reference(scenario.reference)
        notes = self._directory / f"{name}-notes"
        with ExitStack() as stack:
            output = self._directory
            if scenario.needs_small_disk:
                output = stack.enter_context(_small_disk(self._directory / f"{name}-disk"))
            server = None
            if scenario.wandb_server is not None:
                server = stack.enter_context(WandbServer(is_silent=scenario.wandb_server == "silent"))
            run = output / name
            places = {"SHARD": str(self._shard), "RUN": str(output)}
            faults = [
                {**fault, "path": places[fault["path"]]} if "path" in fault else fault for fault in scenario.faults
            ]
            _damage(scenario, -1, run=run, shard=self._shard)
            try:
                starts = supervise(
                    run,
                    commands=[(self._overrides(name, output, *more), count) for more, count in scenario.commands],
                    faults=faults,
                    notes=notes,
                    after_start=lambda number: _damage(scenario, number, run=run, shard=self._shard),
                    environment={"WANDB_BASE_URL": server.address, "WANDB_API_KEY": "0" * 40} if server else {},
                )
            finally:
                shutil.copy2(self._shard.with_suffix(".bin.copy"), self._shard.with_suffix(".bin"))
            if server is not None:
                assert server.has_run == (scenario.wandb_server == "cut"), "the server did not do what it is for"
            if reference is None:
                reference = self._replay(scenario, of=run, faults=faults)
            result = compare(run, reference, notes=notes, scenario=scenario)
            return judge(scenario, run=run, notes=notes, starts=starts, result=result)

    def _overrides(self, name: str, output: Path, *further: str) -> list[str]:
        data = f"data.train=[{{paths:['{self._shard}']}}]"
        return [*SETTINGS, data, f"output_dir='{output}'", f"run_name={name}", *further]

    def _reference(self, name: str) -> Path:
        if name not in self._references:
            self._references[name] = self._undisturbed(f"undisturbed-{name.replace(' ', '-')}", REFERENCES[name])
        return self._references[name]

    def _replay(self, scenario: Scenario, *, of: Path, faults: Sequence[dict[str, object]]) -> Path:
        """A fresh run that is told the decisions; the data are as bad as they were, and nothing else goes wrong."""
        ((settings, _),) = scenario.commands
        bad_data = [fault for fault in faults if fault["kind"] == "bad_samples"]
        return self._undisturbed(f"{of.name}-replay", (*settings, f"recovery.replay='{of}'"), faults=bad_data)

    def _undisturbed(self, name: str, settings: Sequence[str], *, faults: Sequence[dict[str, object]] = ()) -> Path:
        supervise(
            self._directory / name,
            commands=[(self._overrides(name, self._directory, *settings), 2)],
            faults=faults,
            notes=self._directory / f"{name}-notes",
            after_start=lambda number: None,
            environment={},
        )
        return self._directory / name


@dataclass(kw_only=True)
class Outcome:
    """What has been found so far."""

    verdicts: list[Verdict] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Why, by scenario."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why, by scenario."""


def play_all(scenarios: Sequence[Scenario], *, directory: Path) -> Iterator[Outcome]:
    """Play scenarios; what has been found is given after each."""
    suite, outcome = Suite(directory), Outcome()
    for number, scenario in enumerate(scenarios, start=1):
        print(f"{number}/{len(scenarios)} {scenario.name}: {len(scenario.rows)} faults", flush=True)
        try:
            outcome.verdicts += suite.play(scenario)
        except Skipped as reason:
            outcome.skipped[scenario.name] = str(reason)
        except (CrashLoop, AssertionError) as error:
            outcome.failed[scenario.name] = f"{type(error).__name__}: {error}"
            print(outcome.failed[scenario.name], flush=True)
        yield outcome


def _damage(scenario: Scenario, number: int, *, run: Path, shard: Path) -> None:
    action = scenario.damages.get(number)
    if action is not None:
        action(run, shard)


@contextmanager
def _small_disk(place: Path) -> Iterator[Path]:
    """A file system of its own that is soon full."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Skipped(f"a small disk cannot be mounted: {getattr(error, 'stderr', None) or error}") from error
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
