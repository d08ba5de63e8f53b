"""The real command: a run that one engine began in fp16 goes on with the other, with its loss scale."""

from pathlib import Path

from tests.data.shards import write_shard
from tests.train.commands import SMALL, counting_documents, launch, losses_of
from trainer.checkpoint.discovery import find_latest
from trainer.checkpoint.trainer_state import read_state
from trainer.metrics.jsonl import read_records


def test_an_fp16_run_changes_its_engine(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "counting", counting_documents(), with_manifest=True)
    overrides = [
        *SMALL,
        f"data.train=[{{paths:['{shard}']}}]",
        f"output_dir='{tmp_path}'",
        "parallel=dp2",
        "precision=fp16",
        # The first step overflows; from then on the scale fits, and grows after six steps.
        "precision.initial_loss_scale=8388608",
        "precision.loss_scale_hysteresis=1",
        "precision.loss_scale_window=6",
    ]
    for engine, last_step in (("megatron", 10), ("deepspeed", 14)):
        result = launch(*overrides, f"engine={engine}", f"training.stop_after_step={last_step}")
        assert result.returncode == 0, result.stderr
        checkpoint = find_latest(tmp_path / "default")
        assert checkpoint is not None
        state = read_state(checkpoint)
        assert (state.step, state.layout.engine) == (last_step, engine)
        records = list(read_records(tmp_path / "default" / "metrics.jsonl"))
        assert len(records) == last_step
        assert state.num_updates == last_step - records[-1]["num_skipped_steps"]
        assert state.loss_scale is not None
    scales = [record["loss_scale"] for record in records]
    skipped = [record["is_skipped"] for record in records]
    assert skipped[0] and not all(skipped)
    for step in range(len(records) - 1):
        if skipped[step]:
            assert scales[step + 1] == scales[step] / 2
        else:
            assert scales[step + 1] in (scales[step], 2 * scales[step])
    losses = losses_of(tmp_path / "default")
    assert losses[14] < losses[1]
