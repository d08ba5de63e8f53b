"""A step is saved before it is validated; its checkpoint learns the loss later, and retention keeps the best by it."""

from pathlib import Path

import pytest

from tests.checkpoint.fragments import fragments_of, layout_in, open_world
from tests.checkpoint.saving import ONE, Saving, open_saving, progress_of
from trainer.checkpoint.discovery import check_checkpoint
from trainer.checkpoint.load import load_checkpoint
from trainer.checkpoint.manager import ResumeSource
from trainer.checkpoint.manifest import read_manifest
from trainer.checkpoint.trainer_state import TrainProgress
from trainer.config.run import CheckpointConfig

BOTH = pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])


def due(step: int) -> TrainProgress:
    progress = progress_of(step)
    progress.is_validation_due = True
    return progress


def validate(saving: Saving, step: int, loss: float | None, basis: str | None = None) -> None:
    progress = progress_of(step, validation_loss=loss)
    progress.validation_basis = basis
    saving.saver.note_validation(progress)


def load(checkpoint: Path) -> TrainProgress:
    with open_world(ONE) as world:
        return load_checkpoint(
            checkpoint, fragments=fragments_of(ONE, world, fill=False), layout=layout_in(ONE, world_size=1)
        ).progress


@BOTH
def test_a_validation_loss_is_added_to_a_saved_checkpoint(tmp_path: Path, is_async: bool) -> None:
    with open_saving(tmp_path, CheckpointConfig(async_save=is_async)) as saving:
        saving.saver.save(due(10))
        validate(saving, 10, 2.5)
        saving.saver.save(due(20))
        saving.saver.finish()
    first, second = (saving.run / "checkpoints" / f"step_000000{step}" for step in (10, 20))
    assert (read_manifest(first).validation_loss, read_manifest(second).validation_loss) == (2.5, None)
    assert check_checkpoint(first, verify_hashes=True) == []
    for checkpoint, loss, is_due in ((first, 2.5, False), (second, None, True)):
        progress = load(checkpoint)
        assert (progress.validation_loss, progress.is_validation_due) == (loss, is_due)


@BOTH
def test_an_evaluation_is_noted_in_a_saved_checkpoint(tmp_path: Path, is_async: bool) -> None:
    with open_saving(tmp_path, CheckpointConfig(async_save=is_async)) as saving:
        for step in (10, 20):
            progress = progress_of(step)
            progress.is_evaluation_due = True
            saving.saver.save(progress)
            if step == 10:
                saving.saver.note_evaluation(step)
    first, second = (saving.run / "checkpoints" / f"step_000000{step}" for step in (10, 20))
    assert check_checkpoint(first, verify_hashes=True) == []
    assert [load(checkpoint).is_evaluation_due for checkpoint in (first, second)] == [False, True]


@BOTH
def test_the_best_are_kept_although_their_losses_come_later(tmp_path: Path, is_async: bool) -> None:
    losses = {10: 3.0, 20: 2.0, 30: 2.5, 40: 2.2, 50: 2.6, 60: 2.7, 70: None}
    with open_saving(tmp_path, CheckpointConfig(async_save=is_async, keep_last=1, keep_best=2)) as saving:
        for step, loss in losses.items():
            saving.saver.save(due(step))
            validate(saving, step, loss)
    assert saving.names() == ["step_00000020", "step_00000040", "step_00000070"]


def test_the_best_are_those_of_the_rows_of_the_latest_validation(tmp_path: Path) -> None:
    with open_saving(tmp_path, CheckpointConfig(async_save=False, keep_last=1, keep_best=1)) as saving:
        for step, (loss, basis) in {10: (1.0, "a"), 20: (3.0, "b"), 30: (2.0, "b"), 40: (2.5, "b")}.items():
            saving.saver.save(due(step))
            validate(saving, step, loss, basis)
    assert saving.names() == ["step_00000030", "step_00000040"]


def test_the_checkpoint_of_another_run_is_left_as_it_is(tmp_path: Path) -> None:
    with open_saving(tmp_path, CheckpointConfig(async_save=False), run_name="first") as saving:
        saving.saver.save(due(10))
    source = saving.run / "checkpoints" / "step_00000010"
    before = (source / "manifest.json").read_bytes()
    origin = ResumeSource(checkpoint=source)
    with open_saving(tmp_path, CheckpointConfig(), run_name="fork", origin=origin, step=10) as fork:
        validate(fork, 10, 2.5)
    assert (source / "manifest.json").read_bytes() == before
