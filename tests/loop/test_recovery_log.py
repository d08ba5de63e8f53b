"""What a run's decisions leave out in the end."""

import json
from pathlib import Path

import pytest

from trainer.loop.recovery_log import Replay, read_replay, skipped_updates_of
from trireme.errors import ConfigError


def skipped(step: int) -> dict[str, object]:
    return {
        "kind": "skipped_update",
        "step": step,
        "samples": [[8 * step - 8, 8 * step]],
        "loss": 1.5,
        "grad_norm": None,
    }


def test_updates_of_steps_that_were_taken_again_are_not_skipped_for_good() -> None:
    records = [
        *map(skipped, (3, 8, 9)),
        {"kind": "rollback", "step": 9, "to_step": 5},
        *map(skipped, (8, 12)),
        {"kind": "warning", "step": 12},
        {"kind": "resumed", "step": 10, "to_step": 10},
        skipped(14),
    ]
    assert [update.step for update in skipped_updates_of(records)] == [3, 8, 14]


def test_a_step_is_identified_by_its_samples() -> None:
    (update,) = skipped_updates_of([skipped(3)])
    replay = Replay(skipped_updates={(update.first_sample, update.end_sample): update})
    assert replay.find_skipped(16, 24) == update and not replay.is_cut(16, 24)
    assert replay.find_skipped(16, 20) is None and replay.is_cut(16, 20) and replay.is_cut(0, 32)
    assert not replay.is_cut(8, 16) and not replay.is_cut(24, 32)


def test_a_file_of_another_kind_is_not_replayed(tmp_path: Path) -> None:
    (tmp_path / "recovery.jsonl").write_text(json.dumps(skipped(3)) + "\n")
    assert read_replay(str(tmp_path)).find_skipped(16, 24) is not None
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(json.dumps({"kind": "train", "step": 1, "loss": 2.0}) + "\n")
    with pytest.raises(ConfigError, match="it holds records of kind train .*Set it to the recovery.jsonl of a run"):
        read_replay(str(metrics))
