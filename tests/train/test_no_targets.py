"""The real command on data whose loss mask leaves nothing: no update, no loss of 0, no best checkpoint."""

from pathlib import Path

import numpy as np

from tests.data.shards import write_shard
from tests.train.commands import SMALL, launch
from trainer.checkpoint.trainer_state import read_state
from trainer.metrics.jsonl import read_records


def test_steps_without_targets_are_skipped_and_counted_and_no_validation_loss_is_made_up(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "ends", [np.zeros(4000, dtype=np.int64)], with_manifest=True)
    other = write_shard(tmp_path / "more_ends", [np.zeros(2000, dtype=np.int64)], with_manifest=True)
    done = launch(
        *SMALL,
        f"data.train=[{{paths:['{shard}']}}]",
        f"data.validation=[{{paths:['{other}']}}]",
        f"output_dir='{tmp_path}'",
        "data.eod_token_id=0",
        "data.eod_mask_loss=true",
        "parallel=dp2",
        "training.train_iters=4",
        "training.eval_interval=2",
        "checkpoint.keep_best=1",
        "recovery.max_skipped_steps=2",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("has no target tokens: the loss mask covers all of them. Its update is skipped.") == 4
    assert done.stderr.count("data.validation has no target tokens: the loss mask covers all of them.") == 2
    records = read_records(tmp_path / "default" / "metrics.jsonl")
    assert [record["kind"] for record in records] == ["train"] * 4, "and no validation with a loss of 0"
    assert [record["loss"] for record in records] == [None] * 4
    assert [record["num_skipped_steps"] for record in records] == [1, 2, 3, 4]
    state = read_state(tmp_path / "default" / "checkpoints" / "step_00000004")
    assert (state.num_updates, state.validation_loss) == (0, None)
