"""metrics.jsonl stays one curve through resumes, crashes and values that JSON does not have."""

import json
from pathlib import Path

import pytest

from tests.metrics.records import step_record, validation_record
from trainer.metrics.jsonl import JsonlSink, read_records
from trireme.records import LayerRouting


def _train(path: Path, *, resumed_step: int, last_step: int, is_closed: bool = True) -> None:
    sink = JsonlSink(path, resumed_step=resumed_step)
    for step in range(resumed_step + 1, last_step + 1):
        sink.record_step(step_record(step))
        if step % 5 == 0:
            sink.record_validation(validation_record(step))
    if is_closed:
        sink.close()


def _curve(path: Path) -> list[tuple[str, int, float]]:
    return [(record["kind"], record["step"], record["loss"]) for record in read_records(path)]


def test_a_record_has_every_field_and_the_time(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl", resumed_step=0)
    sink.record_step(step_record(1, mfu=0.4))
    sink.record_validation(validation_record(1, loss=1.0))
    sink.close()
    train, validation = read_records(tmp_path / "metrics.jsonl")
    assert list(train) == [
        "kind",
        "step",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
        "step_time_seconds",
        "model_tflops_per_device",
        "mfu",
        "consumed_samples",
        "consumed_tokens",
        "memory_bytes",
        "is_skipped",
        "num_skipped_steps",
        "loss_scale",
        "time",
    ]
    assert (train["kind"], train["mfu"], train["time"][-6:]) == ("train", 0.4, "+00:00")
    assert validation["kind"] == "validation"
    assert validation["perplexity"] == pytest.approx(2.718281828)


def test_records_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    _train(tmp_path / "metrics.jsonl", resumed_step=0, last_step=3, is_closed=False)
    assert len(read_records(tmp_path / "metrics.jsonl")) == 3


def test_a_resumed_run_has_the_curve_of_an_uninterrupted_one(tmp_path: Path) -> None:
    _train(tmp_path / "whole.jsonl", resumed_step=0, last_step=20)
    _train(tmp_path / "resumed.jsonl", resumed_step=0, last_step=13)
    _train(tmp_path / "resumed.jsonl", resumed_step=10, last_step=20)
    assert _curve(tmp_path / "resumed.jsonl") == _curve(tmp_path / "whole.jsonl")
    assert ("validation", 10, 8.0) in _curve(tmp_path / "resumed.jsonl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["resumed.jsonl", "whole.jsonl"]


def test_a_new_run_starts_a_new_curve(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path, resumed_step=0)
    sink.record_validation(validation_record(0))
    sink.close()
    _train(path, resumed_step=0, last_step=2)
    assert _curve(path) == [("train", 1, 8.9), ("train", 2, 8.8)]


def test_a_line_cut_off_by_a_crash_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    _train(path, resumed_step=0, last_step=4)
    with path.open("a") as file:
        file.write('{"kind": "train", "st')
    assert len(read_records(path)) == 4
    _train(path, resumed_step=4, last_step=5)
    assert [step for _, step, _ in _curve(path)] == [1, 2, 3, 4, 5, 5]


def test_not_finite_values_are_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path, resumed_step=0)
    lost = float("nan")
    layer = LayerRouting(layer=1, load_balancing_loss=lost, z_loss=None, expert_load=(lost, lost))
    sink.record_step(step_record(1, loss=lost, grad_norm=float("inf"), is_skipped=True, routing=(layer,)))
    sink.record_validation(validation_record(1, loss=1e6))
    sink.close()
    text = path.read_text()
    assert "NaN" not in text and "Infinity" not in text
    first, second = map(json.loads, text.splitlines())
    assert (first["loss"], first["grad_norm"], first["is_skipped"]) == (None, None, True)
    assert (first["moe_layers"][0]["load_balancing_loss"], first["moe_layers"][0]["expert_load"]) == (None, [None] * 2)
    assert (second["loss"], second["perplexity"]) == (1e6, None)
