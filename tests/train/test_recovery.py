"""Training that goes wrong in the real command: undone without the samples of that stretch, and told so that it can be
replayed. Five runs on a small model are shared by the tests of this file.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.faulty import run_faulty, samples_of
from tests.data.shards import write_shard
from tests.train.commands import SMALL, counting_documents, losses_of, tensors_of
from trainer.metrics.jsonl import read_records

# 20 steps of 8 samples, whose loss falls fast; samples 88 to 111 are those of steps 12 to 14.
SPIKE = (
    "recovery=act",
    "recovery.spike_window=8",
    "recovery.spike_threshold=2",
    "recovery.spike_patience=2",
    "recovery.skip_steps_before=1",
    "recovery.skip_steps_after=1",
    "checkpoint.save_interval=5",
    "optimizer.lr=1e-2",
)
BAD_SAMPLES = {"kind": "bad_samples", "rank": None, "first": 88, "end": 112}
DROPOUT = ("parallel=dp2", "model.hidden_dropout=0.1")


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shard(tmp_path_factory.mktemp("data") / "counting", counting_documents(), with_manifest=True)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def train(
    output: Path, name: str, shard: Path, *further: str, num_processes: int, faults: list[dict[str, Any]], code: int = 0
) -> Path:
    overrides = [*SMALL, f"data.train=[{{paths:['{shard}']}}]", f"output_dir='{output}'", f"run_name={name}", *further]
    result = run_faulty(overrides, num_processes=num_processes, directory=output / f"{name}-faults", faults=faults)
    assert result.returncode == code, result.stderr
    (output / f"{name}.err").write_text(result.stderr)
    return output / name


@pytest.fixture(scope="module")
def spiked(output: Path, shard: Path) -> Path:
    """Two copies of the model with dropout, which meet samples with wrong labels."""
    return train(output, "spiked", shard, *SPIKE, *DROPOUT, num_processes=2, faults=[BAD_SAMPLES])


@pytest.fixture(scope="module")
def halted(output: Path, shard: Path) -> Path:
    """One process of the other engine; ends after going back, before it has saved again."""
    stop = ("training.stop_after_step=14", "checkpoint.save_at_end=false")
    return train(output, "halted", shard, "engine=megatron", *SPIKE, *stop, num_processes=1, faults=[BAD_SAMPLES])


def decisions(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "recovery.jsonl").read_text().splitlines()]


def test_a_spike_is_undone_and_the_samples_of_that_stretch_are_left_out(spiked: Path, output: Path) -> None:
    (decision,) = decisions(spiked)
    assert (decision["kind"], decision["trouble"]) == ("rollback", "loss_spike")
    assert (decision["first_step"], decision["step"], decision["to_step"]) == (12, 13, 10)
    assert decision["skipped_samples"] == [[80, 112]], "one step before, the bad ones, one step after"
    assert [left["first_sample"] for left in decision["left_steps"]] == [80, 88, 96]
    assert "Samples 80 to 111 are skipped." in (output / "spiked.err").read_text()
    losses = losses_of(spiked)
    assert list(losses) == list(range(1, 21))
    assert max(losses[step] for step in range(11, 21)) < losses[10], "no wrong label was learned"
    assert max(left["loss"] for left in decision["left_steps"]) > 1.5 * losses[10]


def test_metrics_tell_which_steps_were_taken_again(spiked: Path) -> None:
    records = read_records(spiked / "metrics.jsonl")
    (rollback,) = (record for record in records if record["kind"] == "rollback")
    assert (rollback["step"], rollback["from_step"], rollback["skipped_samples"]) == (10, 13, [[80, 112]])
    assert records[records.index(rollback) - 1]["step"] == 10
    assert records[records.index(rollback) + 1]["step"] == 11


def test_each_sample_is_seen_once_and_those_left_out_are_not(spiked: Path, output: Path) -> None:
    steps = samples_of(output / "spiked-faults")
    seen = [sample for step in range(1, 21) for sample in steps[step]]
    assert sorted(seen) == [sample for sample in range(192) if not 80 <= sample < 112]
    state = json.loads((spiked / "checkpoints" / "step_00000020" / "trainer_state.json").read_text())
    assert state["left_out_samples"] == [[80, 112]]
    assert state["consumed_samples"] == 192
    assert state["consumed_tokens"] == 160 * 32


def test_a_fresh_run_that_replays_the_decisions_is_the_same_bit_for_bit(
    spiked: Path, output: Path, shard: Path
) -> None:
    replay = train(
        output,
        "replay",
        shard,
        *SPIKE,
        *DROPOUT,
        f"recovery.replay='{spiked}'",
        num_processes=2,
        faults=[BAD_SAMPLES],
    )
    assert not (replay / "recovery.jsonl").exists(), "nothing went wrong"
    assert losses_of(replay) == losses_of(spiked)
    tensors, others = (tensors_of(run / "checkpoints" / "step_00000020") for run in (replay, spiked))
    assert [key for key in tensors if not bool((tensors[key] == others[key]).all())] == []


def test_updates_that_were_skipped_for_a_fault_that_does_not_come_back_are_skipped_at_a_replay(
    output: Path, shard: Path
) -> None:
    """Not the one of step 8, which the run took again after its end and then could update with."""
    faults = [
        {"kind": "nan_gradient", "step": 7},
        {"kind": "inf_loss", "step": 3},
        {"kind": "nan_gradient", "step": 8},
        {"kind": "nan_gradient", "step": 13},
    ]
    settings = ("checkpoint.save_interval=7", "model.hidden_dropout=0.1", "training.train_iters=15")
    stop = ("training.stop_after_step=9", "checkpoint.save_at_end=false")
    train(output, "transient", shard, *settings, *stop, num_processes=1, faults=faults)
    run = train(output, "transient", shard, *settings, num_processes=1, faults=faults)
    assert [(decision["kind"], decision["step"]) for decision in decisions(run)] == [
        *(("skipped_update", step) for step in (3, 7, 8)),
        ("resumed", 7),
        ("skipped_update", 13),
    ]
    assert decisions(run)[3]["tried_again"] == [8]
    replay = train(output, "again", shard, *settings, f"recovery.replay='{run}'", num_processes=1, faults=[])
    assert [(decision["step"], decision["is_replayed"]) for decision in decisions(replay)] == [
        (step, True) for step in (3, 7, 13)
    ]
    losses, expected = losses_of(replay), losses_of(run)
    assert expected.pop(3) is None and math.isfinite(losses.pop(3)), "nothing went wrong this time"
    assert losses == expected, "bit for bit"
    tensors, others = (tensors_of(path / "checkpoints" / "step_00000015") for path in (replay, run))
    assert [key for key in tensors if not bool((tensors[key] == others[key]).all())] == []


def test_a_run_that_ended_before_its_next_save_goes_on_with_the_same_samples_under_another_layout(
    halted: Path, output: Path, shard: Path
) -> None:
    before = losses_of(halted)
    assert list(before) == list(range(1, 15))
    assert sorted(path.name for path in (halted / "checkpoints").glob("step_*0"))[-1] == "step_00000010"
    train(output, "halted", shard, *SPIKE, "parallel=pp2", num_processes=2, faults=[BAD_SAMPLES])
    losses = losses_of(halted)
    assert list(losses) == list(range(1, 21))
    assert max(abs(losses[step] / before[step] - 1) for step in before) <= 1e-6, "fp32, summed in another order"
    (decision,) = decisions(halted)
    assert decision["skipped_samples"] == [[80, 112]]
    steps = samples_of(output / "halted-faults")
    seen = [sample for step in range(1, 21) for sample in steps[step]]
    assert sorted(seen) == [sample for sample in range(192) if not 80 <= sample < 112]


def test_a_run_that_stays_non_finite_exits_with_its_own_code(output: Path, shard: Path) -> None:
    fault = {"kind": "nan_gradient", "step": 8, "last_step": 20, "times": 100}
    run = train(
        output,
        "endless",
        shard,
        "recovery.max_skipped_steps=2",
        "recovery.max_rollbacks=2",
        "recovery.skip_steps_before=1",
        "checkpoint.save_interval=3",
        "training.train_iters=20",
        num_processes=1,
        faults=[fault],
        code=82,
    )
    assert [decision["kind"] for decision in decisions(run) if decision["kind"] != "skipped_update"] == [
        "rollback",
        "rollback",
        "gave_up",
    ]
    first, second = (decision for decision in decisions(run) if decision["kind"] == "rollback")
    assert (first["step"], first["to_step"], first["skipped_samples"]) == (9, 6, [])
    assert (second["step"], second["to_step"], second["skipped_samples"]) == (9, 6, [[48, 72]])
    said = (output / "endless.err").read_text()
    assert "The run stops at step 9 without saving it. Loss or gradient was not finite in steps 8 to 9" in said
    assert "has rolled back 2 times without getting past it" in said
    assert "Traceback" not in said
    assert [path.name for path in sorted((run / "checkpoints").glob("step_*"))] == ["step_00000003", "step_00000006"]
