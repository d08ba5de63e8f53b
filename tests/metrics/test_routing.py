"""What experts did reaches every sink."""

import json
from pathlib import Path

import pytest

from tests.metrics.records import step_record
from trainer.metrics.console import step_line
from trainer.metrics.jsonl import JsonlSink
from trainer.metrics.record import fields_of
from trireme.records import LayerRouting

ROUTING = (
    LayerRouting(layer=2, load_balancing_loss=1.2, z_loss=None, expert_load=(0.5, 0.25, 0.25, 0.0)),
    LayerRouting(layer=4, load_balancing_loss=1.0, z_loss=None, expert_load=(0.25, 0.25, 0.25, 0.25)),
)


def test_a_record_has_means_and_every_layer(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "metrics.jsonl", resumed_step=0)
    sink.record_step(step_record(1, routing=ROUTING))
    sink.close()
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert record["moe_load_balancing_loss"] == pytest.approx(1.1)
    assert record["moe_z_loss"] is None
    assert record["moe_max_load_ratio"] == 2.0
    assert [layer["layer"] for layer in record["moe_layers"]] == [2, 4]
    assert record["moe_layers"][0]["expert_load"] == [0.5, 0.25, 0.25, 0.0]
    assert record["moe_layers"][0]["max_load_ratio"] == 2.0
    assert "routing" not in record


def test_a_dense_model_has_no_such_fields() -> None:
    assert not [name for name in fields_of(step_record(1)) if name.startswith("moe") or name == "routing"]
    assert "expert" not in step_line(step_record(1), total_steps=10)


def test_the_console_shows_the_most_loaded_expert() -> None:
    assert "| expert load up to  2.00x" in step_line(step_record(1, routing=ROUTING), total_steps=10)
