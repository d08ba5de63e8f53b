"""Published runs as jobs, the fit, and the error bars that go with it."""

import csv
import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.planner.error_bars import error_bar, parallel_kind, sweeps
from benchmarks.planner.fit import MemoryModel, TimeModel, fit_step_time, write_coefficients
from benchmarks.planner.published import PUBLISHED_CSV, load_published
from benchmarks.planner.validate import SCHEMES, check_goals, fold_masks, hold_out, judge, run
from launch.plan.coefficients import load_coefficients, prior_of, upper_bound_of
from launch.plan.hardware import find_device, load_devices
from launch.plan.plan import ERROR_BARS_FILE
from trainer.common.errors import ConfigError

RESULTS = Path(__file__).parents[3] / "benchmarks/results/planner.json"


@pytest.fixture(scope="module")
def runs():
    return load_published(PUBLISHED_CSV)[0]


def test_every_row_is_compared_or_left_out_for_a_reason(runs):
    _, skipped = load_published(PUBLISHED_CSV)
    with PUBLISHED_CSV.open(encoding="utf-8", newline="") as file:
        num_rows = sum(1 for _ in csv.DictReader(file))
    assert len(runs) + len(skipped) == num_rows == 583
    assert Counter(each.reason.split(":")[0].split(" not ")[0] for each in skipped) == {
        "layers that are": 38,
        "LoRA": 12,
        "micro batch size": 9,
        "shape of the model": 2,
    }
    assert sum(each.is_out_of_memory for each in runs) == 1


def test_sizes_of_published_layouts_multiply_to_their_devices(runs):
    for each in runs:
        assert each.job.layout.num_devices == pytest.approx(float(each.row["n_gpus"])), each.row["source_locator"]
        assert each.job.layout.num_sequences == pytest.approx(float(each.row["gbs"])), each.row["source_locator"]


def test_parameters_are_those_that_are_published(runs):
    for each in runs:
        if not each.row["params_b"] or "layer" in each.row["notes"] or each.source.startswith("InternEvo"):
            continue
        model = each.job.model
        dense = model.attention_parameters + (1 - model.share_of_moe_layers) * model.dense_mlp_parameters
        experts = model.num_experts * model.parameters_of_expert + model.shared_mlp_parameters
        total = model.num_layers * (dense + model.share_of_moe_layers * experts)
        total += model.hidden_size * (model.vocab_size * (2 - model.is_tied) + model.position_rows)
        published = float(each.row["params_b"])
        # Whole billions are names more than counts: the 20 B of BLOOM's one-node runs leave the embedding out.
        tolerance = 0.2 if published.is_integer() else 0.06
        assert total == pytest.approx(published * 1e9, rel=tolerance), each.row["model"]


@pytest.mark.parametrize(
    ("source", "seconds", "tolerance"),
    [("NVIDIA DGX Cloud benchmarking recipes", "8.408", 0.01), ("NeMo Framework Launcher examples", "3.9271", 0.02)],
)
def test_operations_are_turned_back_into_seconds_by_their_convention(tmp_path, source, seconds, tolerance):
    # Rows that tell both their TFLOP/s and their seconds: without these, those follow from the operations.
    with PUBLISHED_CSV.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == source and row["step_time_s"] == seconds]
    table = tmp_path / "table.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "step_time_s": ""} for row in rows)
    (again,), _ = load_published(table)
    assert again.seconds == pytest.approx(float(seconds), rel=tolerance)


@pytest.mark.parametrize(
    ("driver_name", "device"),
    [
        ("NVIDIA H100 80GB HBM3", "h100_sxm"),
        ("NVIDIA H100 PCIe", "h100_pcie"),
        ("NVIDIA A100-SXM4-40GB", "a100_40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100_80gb"),
        ("Tesla V100-SXM2-32GB", "v100_32gb"),
        ("Tesla V100-SXM2-16GB", "v100_16gb"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA H200", "h200"),
        ("AMD Instinct MI300X", "mi300x"),
        ("AMD Instinct MI250X", "mi250x"),
        ("cpu", "cpu"),
    ],
)
def test_devices_are_found_by_their_drivers_names(driver_name, device):
    found = find_device(driver_name)
    assert found is not None and found.name == device
    assert found.fitted_as in load_devices()


def test_the_fit_finds_the_coefficients_that_made_the_times(runs):
    few = [each for each in runs if each.source == "NVIDIA DGX Cloud benchmarking recipes"]
    names = TimeModel(few).lookup.names
    truth = {name: prior_of(name).centre for name in names} | {"gemm.h100_sxm.bf16": 0.6, "gemm.h100_sxm.fp8": 0.5}
    made = np.exp(TimeModel(few).log_seconds(truth))
    fitted = fit_step_time([dataclasses.replace(each, seconds=float(s)) for each, s in zip(few, made, strict=True)])
    again = np.exp(TimeModel(few).log_seconds(fitted))
    assert again == pytest.approx(made, rel=0.02)
    # The prior, 0.72, pulls a little.
    assert fitted["gemm.h100_sxm.bf16"] == pytest.approx(0.6, rel=0.08)


def test_shipped_coefficients_are_those_of_the_fit(runs, tmp_path):
    write_coefficients(tmp_path / "coefficients.yaml", runs)
    fitted, shipped = load_coefficients(tmp_path / "coefficients.yaml"), load_coefficients()
    timed = [each for each in runs if each.seconds]
    assert np.allclose(
        TimeModel(timed).log_seconds(fitted.step_time), TimeModel(timed).log_seconds(shipped.step_time), atol=0.01
    )
    assert np.allclose(
        MemoryModel(runs).log_bytes(fitted.memory), MemoryModel(runs).log_bytes(shipped.memory), atol=0.01
    )
    assert all(value <= upper_bound_of(name) * 1.001 for name, value in shipped.step_time.items())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_row_is_judged_by_coefficients_that_have_seen_it(runs, scheme):
    masks = fold_masks(runs, scheme)
    assert np.array_equal(np.sum(masks, axis=0), np.ones(len(runs)))
    if scheme == "row":
        return
    for mask in masks:
        place = slice(None) if scheme == "model" else slice(1)
        held, seen = (
            {each.group[place] for each, is_held in zip(runs, mask, strict=True) if is_held == wanted}
            for wanted in (True, False)
        )
        assert not held & seen


def test_figures_of_a_part_of_the_table(runs):
    few = [each for each in runs if each.source in ("BLOOM/BigScience topology sweep", "InternEvo throughput table")]
    held = hold_out(few, scheme="row")
    figures = judge(held)
    assert figures["step_time"]["dense 16-bit"]["all"]["count"] == len(held.timed)
    assert figures["step_time"]["dense 16-bit"]["all"]["median_percent"] < 10
    assert figures["memory"]["all"]["median_percent"] < 10
    assert figures["out_of_memory"] == 1 and figures["out_of_memory_judged_to_fit"] == 0
    assert len(figures["sweeps"]) == 5


def test_error_bar_counts_both_directions():
    bar = error_bar(np.log(np.array([1.1, 0.9, 1.0, 1.2])))
    assert (bar.count, bar.median_percent, bar.bias_percent) == (4, 10.0, 5.0)


def test_a_perfect_prediction_orders_every_sweep(runs):
    timed = [each for each in runs if each.seconds]
    found = sweeps(timed, np.log([each.seconds for each in timed]))
    assert len(found) >= 8
    assert all(sweep.spearman == pytest.approx(1.0) for sweep in found)


def test_parallel_kinds_are_named(runs):
    kinds = {parallel_kind(each) for each in runs}
    assert {"tp+pp", "tp+pp+cp", "fsdp", "dp", "pp+ep"} <= kinds


def test_recorded_error_bars_reach_their_goals():
    report = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert report["goals"] == check_goals(report["schemes"]["model"])
    assert {name: goal["value"] for name, goal in report["goals"].items() if not goal["is_reached"]} == {}
    shown = json.loads(ERROR_BARS_FILE.read_text(encoding="utf-8"))
    recorded = report["schemes"]["model"]["memory"]["all"]
    assert shown["memory"] == f"{recorded['median_percent']}%, {recorded['p90_percent']}%"


def test_validate_names_a_table_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="is no table"):
        run([str(tmp_path / "none.csv")])
