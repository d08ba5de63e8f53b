"""`resume` naming a checkpoint of the run itself: carried out once, whatever becomes of that checkpoint."""

import shutil
from pathlib import Path

import pytest

from tests.checkpoint.fragments import MODEL, PADDED_VOCAB_SIZE, state_of
from trainer.checkpoint.compatibility import check_resume
from trainer.checkpoint.directory import begin, commit
from trainer.checkpoint.discovery import resolve
from trainer.checkpoint.manifest import write_durably
from trainer.checkpoint.rollback import read_rollback, resume_of_start, roll_back
from trainer.checkpoint.trainer_state import STATE_NAME, write_state
from trainer.run_directory.directory import keep_configuration


def make(run: Path, *, step: int, content: str = "tensors") -> Path:
    """A checkpoint without tensors."""
    temporary = begin(run, step=step)
    files = {
        "__0_0.distcp": write_durably(temporary / "__0_0.distcp", content),
        STATE_NAME: write_state(temporary, state_of(step)),
    }
    return commit(temporary, step=step, files=files)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def check(resume: str, run: Path) -> list[str]:
    found = check_resume(
        resume,
        run_directory=run,
        model=MODEL,
        padded_vocab_size=PADDED_VOCAB_SIZE,
        seed=1234,
        vocab_size=MODEL.vocab_size,
    )
    return [str(problem) for problem in found]


def test_a_rollback_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    first, _, _ = (make(run, step=step) for step in (10, 20, 30))
    resume = str(first)
    assert resume_of_start(resume, run) == resume
    done = roll_back(run, to=first)
    assert (done.step, done.from_step) == (10, 30)
    assert names(run) == ["step_00000010", "step_00000020.abandoned", "step_00000030.abandoned"]
    assert read_rollback(run) == done
    make(run, step=20)
    assert resume_of_start(resume, run) == "auto"
    assert resolve(resume_of_start(resume, run), run_directory=run) == run / "checkpoints" / "step_00000020"
    # By another name for the same place, too.
    monkeypatch.chdir(run)
    assert resume_of_start("checkpoints/step_00000010/", run) == "auto"
    # Retention has deleted it.
    shutil.rmtree(first)
    assert check(resume, run) == []
    # Another one is another wish.
    other = str(make(run, step=25))
    assert resume_of_start(other, run) == other


def test_a_later_checkpoint_of_the_same_step_is_distinguished(tmp_path: Path) -> None:
    first = make(tmp_path, step=10)
    roll_back(tmp_path, to=first)
    make(tmp_path, step=10, content="others")
    assert resume_of_start(str(first), tmp_path) == str(first)


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    for step in (10, 20):
        make(tmp_path, step=step)
    (problem,) = check(str(tmp_path / "checkpoints" / "step_00000011"), tmp_path)
    assert "step_00000010 or step_00000020" in problem


def test_the_run_itself_is_no_rollback(tmp_path: Path) -> None:
    make(tmp_path, step=10)
    for resume in (str(tmp_path), str(tmp_path / "checkpoints"), "auto"):
        assert resume_of_start(resume, tmp_path) == resume
        assert resolve(resume, run_directory=tmp_path) == tmp_path / "checkpoints" / "step_00000010"


def test_a_checkpoint_set_aside_by_a_rollback_can_be_resumed(tmp_path: Path) -> None:
    first, second = make(tmp_path, step=10), make(tmp_path, step=20, content="left")
    roll_back(tmp_path, to=first)
    make(tmp_path, step=20, content="taken")
    left = second.with_name("step_00000020.abandoned")
    roll_back(tmp_path, to=left)
    assert names(tmp_path) == ["step_00000010.abandoned", "step_00000020.2.abandoned", "step_00000020.abandoned"]
    assert (left / "__0_0.distcp").read_text() == "left"
    # The process died before its first save: the same command takes it up again, and nothing starts anew.
    assert resume_of_start(str(left), tmp_path) == str(left)
    assert resolve(str(left), run_directory=tmp_path) == left


def test_configurations_of_several_starts_at_one_step_all_stay(tmp_path: Path) -> None:
    texts = ["a: 1\n", "a: 2\n", "a: 1\n", "a: 3\n"]
    kept = [keep_configuration(tmp_path, text, step=10) for text in texts]
    assert kept == ["config.10.yaml", "config.10-2.yaml", "config.10.yaml", "config.10-3.yaml"]
    assert (tmp_path / "config.yaml").read_text() == "a: 3\n"
    assert [(tmp_path / name).read_text() for name in kept] == texts
