"""What launch.slurm asks Slurm about many jobs: once for all of them, by the ids of their arrays."""

import shutil

import pytest

from launch.slurm import status
from launch.slurm.status import JobState, ask_states
from trireme.slurm import SlurmError


class Slurm:
    """Answers squeue and sacct, and keeps what was asked."""

    def __init__(self, *, squeue: dict[str, str], sacct: dict[str, str], rejects_unknown: bool) -> None:
        self.commands: list[tuple[str, ...]] = []
        self._squeue, self._sacct, self._rejects_unknown = squeue, sacct, rejects_unknown

    def ask(self, *command: str) -> str:
        self.commands.append(command)
        ids = next(word for word in command if word.startswith("--jobs=")).removeprefix("--jobs=").split(",")
        if command[0] == "sacct":
            return "\n".join(f"{job}|{state}" for job, state in self._sacct.items() if job.partition("_")[0] in ids)
        known = {job.partition("_")[0] for job in self._squeue}
        if self._rejects_unknown and not known.issuperset(ids):
            raise SlurmError("squeue failed (exit code 1): slurm_load_jobs error: Invalid job id specified")
        return "\n".join(
            f"{job}|{state}|n1|0:10|1:00:00|None" for job, state in self._squeue.items() if job.partition("_")[0] in ids
        )


def connect(monkeypatch: pytest.MonkeyPatch, slurm: Slurm) -> Slurm:
    monkeypatch.setattr(status, "ask_slurm", slurm.ask)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    return slurm


def test_the_states_of_thousands_of_runs_take_one_query(monkeypatch: pytest.MonkeyPatch) -> None:
    running = {f"12_{number}": "RUNNING" for number in range(3000)}
    ended = {f"12_{number}": "COMPLETED" for number in range(3000, 4000)} | {"7": "CANCELLED by 0"}
    slurm = connect(monkeypatch, Slurm(squeue=running, sacct=ended, rejects_unknown=False))
    states = ask_states([*running, *ended, "9"])
    assert [command[0] for command in slurm.commands] == ["squeue", "sacct"]
    assert states["12_2999"] == JobState(state="RUNNING", details=" on n1, 0:10 of 1:00:00")
    assert (states["12_3000"].state, states["7"].state, states["9"].state) == ("COMPLETED", "CANCELLED", "GONE")
    assert list(states) == [*running, *ended, "9"]


def test_a_query_rejected_for_an_unknown_id_is_repeated_for_each_id(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = connect(monkeypatch, Slurm(squeue={"12": "PENDING"}, sacct={}, rejects_unknown=True))
    assert {job: one.state for job, one in ask_states(["11", "12"]).items()} == {"11": "GONE", "12": "PENDING"}
    assert [command[0] for command in slurm.commands] == ["squeue"] * 3 + ["sacct"]


def test_other_errors_of_slurm_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*command: str) -> str:
        raise SlurmError("squeue failed (exit code 1): Unable to contact slurm controller")

    monkeypatch.setattr(status, "ask_slurm", refuse)
    with pytest.raises(SlurmError, match="Unable to contact"):
        ask_states(["1"])
