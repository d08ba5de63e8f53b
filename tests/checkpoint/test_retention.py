"""The last, every N-th for ever, and the best; the last good one always."""

from pathlib import Path

from tests.checkpoint.test_directory import commit_small
from trainer.checkpoint.directory import list_checkpoints, retain


def _steps(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in list_checkpoints(run))


def _train(run: Path, *, losses: dict[int, float | None], keep_last: int, keep_interval: int = 0, keep_best: int = 0):
    """Save the steps one after the other, as a run does."""
    for step, loss in losses.items():
        commit_small(run, step=step, validation_loss=loss)
        retain(run, keep_last=keep_last, keep_interval=keep_interval, keep_best=keep_best)


def test_every_nth_is_kept_for_ever(tmp_path: Path) -> None:
    _train(tmp_path, losses=dict.fromkeys(range(10, 110, 10)), keep_last=2, keep_interval=40)
    assert _steps(tmp_path) == [40, 80, 90, 100]


def test_the_best_by_validation_loss_are_kept(tmp_path: Path) -> None:
    losses = {10: 3.0, 20: 2.0, 30: 2.5, 40: 2.2, 50: 2.6, 60: 2.7, 70: None}
    _train(tmp_path, losses=losses, keep_last=1, keep_best=2)
    assert _steps(tmp_path) == [20, 40, 70]


def test_of_several_checkpoints_with_one_validation_loss_the_nearest_is_kept(tmp_path: Path) -> None:
    _train(tmp_path, losses={100: 2.0, 150: 2.0, 200: 2.1, 250: 2.1}, keep_last=1, keep_best=1)
    assert _steps(tmp_path) == [100, 250]


def test_a_damaged_one_does_not_count_among_the_last(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        commit_small(tmp_path, step=step)
    (tmp_path / "checkpoints" / "step_00000030" / "data").write_bytes(b"")
    retain(tmp_path, keep_last=1)
    assert _steps(tmp_path) == [20], "the last good one stays"


def test_nothing_is_deleted_while_too_few_are_whole(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        commit_small(tmp_path, step=step)
        (tmp_path / "checkpoints" / f"step_{step:08d}" / "data").unlink()
    retain(tmp_path, keep_last=1)
    assert _steps(tmp_path) == [10, 20, 30]
