"""A run directory is continued, forked or started anew, and never overwritten by accident."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.checkpoint.fragments import state_of
from tests.checkpoint.test_discovery import check, make
from trainer.checkpoint.discovery import candidates
from trainer.checkpoint.trainer_state import ForkedFrom, read_state
from trainer.run_directory.directory import lock_run_directory, must_restart, rotate_file
from trainer.run_directory.lock import LOCK_NAME
from trireme.errors import ConfigError


def _start(run: Path, *, resume: str) -> None:
    with lock_run_directory(run, resume=resume):
        assert (run / LOCK_NAME).is_file()


@pytest.fixture(autouse=True)
def _no_batch_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SLURM_JOB_ID", "TRIREME_JOB_ID"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("resume", ["auto", "never", "elsewhere/run"])
def test_only_a_restart_moves_anything(tmp_path: Path, resume: str) -> None:
    path = make(tmp_path / "run", step=10)
    _start(tmp_path / "run", resume=resume)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]
    assert path.exists()


def test_a_restart_moves_everything_aside_under_a_name_of_its_own(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for _ in range(2):
        make(run, step=10)
        (run / "metrics.jsonl").write_text("{}\n")
        assert check("restart", run) == []
        _start(run, resume="restart")
        assert list(run.iterdir()) == []
        assert candidates("restart", run_directory=run) == []
    for archive in ("run.archived-1", "run.archived-2"):
        assert sorted(entry.name for entry in (tmp_path / archive).iterdir()) == ["checkpoints", "metrics.jsonl"]
    assert candidates(str(tmp_path / "run.archived-1"), run_directory=run), "nothing is lost"


def test_a_restart_keeps_the_files_of_the_running_job(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "slurm").mkdir(parents=True)
    (run / "kubernetes").mkdir()
    (run / "bad_nodes.jsonl").touch()
    _start(run, resume="restart")
    make(run, step=10)
    _start(run, resume="restart")
    assert sorted(entry.name for entry in run.iterdir()) == ["bad_nodes.jsonl", "kubernetes", "slurm"]
    assert [entry.name for entry in (tmp_path / "run.archived-1").iterdir()] == ["checkpoints"]


def test_a_restart_in_a_new_directory_moves_nothing(tmp_path: Path) -> None:
    _start(tmp_path / "run", resume="restart")
    _start(tmp_path / "run", resume="restart")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "TRIREME_JOB_ID"])
def test_a_batch_job_that_is_requeued_does_not_restart_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    run = tmp_path / "run"
    make(run, step=10)
    monkeypatch.setenv(variable, "77")
    _start(run, resume="restart")
    again = make(run, step=5)
    assert not must_restart("restart", run)
    _start(run, resume="restart")
    assert candidates("restart", run_directory=run) == [again]
    monkeypatch.setenv(variable, "78")
    assert must_restart("restart", run), "another job means it"


def test_a_directory_in_use_is_not_moved(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make(run, step=10)
    with lock_run_directory(run, resume="auto"), pytest.raises(ConfigError, match="run_name: is in use"):
        _start(run, resume="restart")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def _fork(parent: Path, child: Path, *, step: int) -> Path:
    """The first checkpoint of a run that goes on from another one's."""
    state = replace(state_of(step), run_name=child.name, forked_from=read_state(parent).fork(parent))
    return make(child, step=step, state=state)


def test_a_fork_remembers_the_runs_it_comes_from(tmp_path: Path) -> None:
    first = make(tmp_path / "a", step=10)
    second = _fork(first, tmp_path / "b", step=20)
    third = _fork(second, tmp_path / "c", step=30)
    assert read_state(third).forked_from == (
        ForkedFrom(run_name="test", step=10, checkpoint=str(first)),
        ForkedFrom(run_name="b", step=20, checkpoint=str(second)),
    )


@pytest.mark.parametrize("what", ["checkpoint", "run"])
def test_rerunning_the_command_of_a_fork_resumes_the_fork(tmp_path: Path, what: str) -> None:
    parent, child = make(tmp_path / "parent", step=10), tmp_path / "child"
    resume = str(parent if what == "checkpoint" else tmp_path / "parent")
    assert check(resume, child) == []
    assert candidates(resume, run_directory=child) == [parent]
    own = _fork(parent, child, step=20)
    assert check(resume, child) == []
    assert candidates(resume, run_directory=child) == [own]


def test_a_run_that_was_not_forked_from_there_is_not_overwritten(tmp_path: Path) -> None:
    parent, other = make(tmp_path / "parent", step=10), make(tmp_path / "parent", step=20)
    _fork(parent, tmp_path / "child", step=30)
    (violation,) = check(str(other), tmp_path / "child")
    assert "which already has the checkpoint step_00000030" in violation.message
    assert "resume=restart" in violation.fix


def test_the_metrics_of_a_run_without_checkpoints_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rotate_file(path)
    for number in (1, 2):
        path.write_text(f"{number}\n")
        rotate_file(path)
    assert not path.exists()
    assert (tmp_path / "metrics.former-1.jsonl").read_text() == "1\n"
    assert (tmp_path / "metrics.former-2.jsonl").read_text() == "2\n"
