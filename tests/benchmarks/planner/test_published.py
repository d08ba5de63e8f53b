"""Published runs as jobs, the fit, and the error bars that go with it."""

import csv
import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.planner.error_bars import error_bar, parallel_kind, sweeps
from benchmarks.planner.fit import MemoryModel, TimeModel, fit_step_time, source_weights, write_coefficients
from benchmarks.planner.published import PUBLISHED_CSV, load_published
from benchmarks.planner.validate import SCHEMES, check_goals, fit_without, fold_masks, hold_out, judge, run
from launch.plan.coefficients import Coefficients, load_coefficients, prior_of, upper_bound_of
from launch.plan.hardware import find_device, load_devices
from launch.plan.plan import ERROR_BARS_FILE
from trireme.errors import ConfigError

RESULTS = Path(__file__).parents[3] / "benchmarks/results/planner.json"


@pytest.fixture(scope="module")
def runs():
    return load_published(PUBLISHED_CSV)[0]


def test_every_row_is_compared_or_left_out_for_a_reason(runs):
    _, skipped = load_published(PUBLISHED_CSV)
    with PUBLISHED_CSV.open(encoding="utf-8", newline="") as file:
        num_rows = sum(1 for _ in csv.DictReader(file))
    assert len(runs) + len(skipped) == num_rows == 583
    assert Counter(each.reason.split(":")[0].split(" not ")[0].split(" unknown")[0] for each in skipped) == {
        "hybrid model with layers that are": 38,
        "LoRA": 12,
        "micro batch size": 9,
        "experts of the model": 2,
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


def test_operations_are_turned_back_into_seconds_by_their_convention(tmp_path):
    # Rows that tell both their TFLOP/s and their seconds: without these, those follow from the operations. One row of
    # each convention: causal attention halved or not, 6 N, and hardware operations, where all is computed again.
    with PUBLISHED_CSV.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["step_time_s"] and row["tflops_per_gpu"]]
    rows = [row for row in rows if row["flops_convention"] and "older estimate" not in row["tflops_kind"]]
    by_convention = {(row["flops_convention"], row["tflops_kind"], row["kind"], row["recompute"]): row for row in rows}
    assert len(by_convention) >= 12
    untimed = [{**row, "step_time_s": "", "tokens_per_s_per_gpu": ""} for row in by_convention.values()]
    again, _ = load_published(write_table(tmp_path, untimed))
    told, _ = load_published(write_table(tmp_path, list(by_convention.values())))
    assert len(again) == len(told) >= 10
    for counted, measured in zip(again, told, strict=True):
        # Nemotron rows of DGX Cloud count attention without groups of heads: 3%; multi-token prediction: 13%.
        assert counted.seconds == pytest.approx(measured.seconds, rel=0.14), measured.row["source_locator"]
    ratios = [counted.seconds / measured.seconds for counted, measured in zip(again, told, strict=True)]
    assert np.median(np.abs(np.log(ratios))) < 0.01


def test_hardware_operations_are_not_read_a_third_too_fast(tmp_path):
    with PUBLISHED_CSV.open(encoding="utf-8", newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["tflops_kind"] == "hardware(full-recompute,96BslH^2)")
    ((run,), _) = load_published(write_table(tmp_path, [{**row, "step_time_s": "", "tokens_per_s_per_gpu": ""}]))
    assert run.seconds == pytest.approx(float(row["step_time_s"]), rel=0.005)


def write_table(directory: Path, rows: list[dict[str, str]]) -> Path:
    table = directory / "table.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return table


STRANGE = {
    "source": "a new blog",
    "framework": "a new framework",
    "model": "NewModel-8B",
    "kind": "dense",
    "layers": "32",
    "hidden": "4096",
    "ffn": "14336",
    "gated_mlp": "1.0",
    "heads": "32",
    "kv_heads": "8",
    "vocab": "128256",
    "seq": "4096",
    "gpu": "NVIDIA H200",
    "precision": "BF16",
    "n_gpus": "8",
    "mbs": "1",
    "gbs": "64",
    "tokens_per_s_per_gpu": "12000",
    "num_experts": "",
    "experts_per_token": "",
    "expert_width": "",
    "step_time_s": "",
    "tflops_per_gpu": "",
    "mem_gb": "",
    "notes": "",
    "tp": "",
}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"gpu": "mi355x", "precision": "MXFP8"}, ""),
        ({"gpu": "A100-80", "precision": "FP8"}, "number format"),
        ({"precision": "INT3"}, "number format"),
        ({"gpu": "TPU v9"}, "device unknown"),
        ({"kind": "moe"}, "experts of the model unknown"),
        ({"kind": "moe", "num_experts": "8", "experts_per_token": "2", "expert_width": "14336"}, ""),
        ({"mbs": "0"}, "not a positive number: mbs"),
        ({"gbs": "many"}, "not a positive number: gbs"),
        ({"tokens_per_s_per_gpu": "0"}, "not a positive number: tokens_per_s_per_gpu"),
        ({"tp": "3"}, "do not divide"),
        ({"gbs": "4"}, "do not match"),
        ({"n_gpus": ""}, "number of devices"),
        ({"vocab": ""}, "vocabulary"),
        ({"layers": ""}, "shape of the model"),
        ({"framework": "Megatron-Bridge", "notes": "container 26.0"}, ""),
    ],
)
def test_a_table_of_somebody_else_is_read_row_by_row(tmp_path, changes, reason):
    runs, skipped = load_published(write_table(tmp_path, [{**STRANGE, **changes}]))
    assert [each.reason for each in skipped if reason not in each.reason] == []
    assert (len(runs), len(skipped)) == ((0, 1) if reason else (1, 0))
    if runs:
        assert runs[0].seconds == pytest.approx(64 * 4096 / 12000 / 8)
        assert runs[0].job.model.num_moe_layers == (32 if changes.get("kind") == "moe" else 0)


def test_a_file_that_is_no_such_table_is_named(tmp_path):
    with pytest.raises(ConfigError, match="columns are missing: framework"):
        load_published(write_table(tmp_path, [{"source": "a blog"}]))
    (tmp_path / "table.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read this file"):
        load_published(tmp_path / "table.csv")


@pytest.mark.parametrize("options", [[], ["--coefficients"]])
def test_a_table_is_judged_by_what_has_not_seen_it(tmp_path, options, runs):
    # A row of a known source and one of a new one; the first is far off, and nothing is fitted to it.
    with PUBLISHED_CSV.open(encoding="utf-8", newline="") as file:
        known = next(row for row in csv.DictReader(file) if row["source"].startswith("InternEvo throughput"))
    slow = {**known, "step_time_s": str(10 * float(known["step_time_s"])), "mem_gb": "20"}
    table = write_table(
        tmp_path, [slow, {**dict.fromkeys(known, ""), **{k: v for k, v in STRANGE.items() if k in known}}]
    )
    assert run([str(table), *options, "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    ((scheme, figures),) = report["schemes"].items()
    assert scheme == ("coefficients" if options else "table")
    assert report["rows whose sources are in the fit"] == (1 if options else 0)
    assert figures["step_time"]["dense 16-bit"]["by source"][known["source"]]["median_percent"] == pytest.approx(
        90, abs=3
    )
    assert figures["step_time"]["dense 16-bit"]["by source"]["a new blog"]["count"] == 1
    assert figures["memory"]["all"]["count"] == 1
    if not options:
        seen = fit_without([each for each in runs if each.source == known["source"]]).sources
        assert known["source"] not in seen and len(seen) > 15


def test_an_empty_table_has_no_figures(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(",".join(STRANGE) + "\n", encoding="utf-8")
    assert run([str(table), "--coefficients"]) == 0


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
        ("NVIDIA GH200 120GB", "gh200"),
        ("NVIDIA B300 SXM6 AC", "b300"),
        ("NVIDIA GB300", "gb300"),
        ("AMD Instinct MI325X", "mi325x"),
        ("AMD Instinct MI355X", "mi355x"),
        ("AMD Instinct MI300X", "mi300x"),
        ("AMD Instinct MI250X", "mi250x"),
        ("cpu", "cpu"),
    ],
)
def test_devices_are_found_by_their_drivers_names(driver_name, device):
    found = find_device(driver_name)
    assert found is not None and found.name == device
    assert load_devices()[found.fitted_as].die == found.die


def test_the_fit_finds_the_coefficients_that_made_the_times(runs):
    few = [each for each in runs if each.source == "NVIDIA DGX Cloud benchmarking recipes"]
    names = TimeModel(few).lookup.names
    truth = {name: prior_of(name).centre for name in names} | {"gemm.bf16": 0.6, "gemm.fp8": 0.5}
    made = np.exp(TimeModel(few).log_seconds(truth))
    fitted = fit_step_time([dataclasses.replace(each, seconds=float(s)) for each, s in zip(few, made, strict=True)])
    again = np.exp(TimeModel(few).log_seconds(fitted))
    assert again == pytest.approx(made, rel=0.03)
    # What is general and what is Hopper's cannot be told apart on one device; their product can.
    found = Coefficients(step_time=fitted, memory={}).rates(
        device="h100_sxm", number_format="bf16", framework="NeMo/Megatron-Core"
    )
    assert found.gemm / found.framework == pytest.approx(0.6 / 1.05, rel=0.08)


def test_a_source_of_many_rows_does_not_outvote_the_others(runs):
    weights = source_weights(runs)
    of_source = {each.source: weight for each, weight in zip(runs, weights, strict=True)}
    counts = Counter(each.source for each in runs)
    for source, weight in of_source.items():
        assert counts[source] * weight**2 == pytest.approx(counts[source] ** 0.5)


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
    assert shipped.runs == fitted.runs and shipped.sources == fitted.sources
    for device in load_devices().values():
        for number_format in device.tflops:
            rates = shipped.rates(device=device.name, number_format=number_format, framework="trireme-megatron")
            assert all(value <= upper_bound_of(name) * 1.001 for name, value in vars(rates).items())


def test_what_is_known_of_a_die_speaks_for_all_types_of_it():
    # B200's products in fp8 are known from models with experts alone, GB200's and GB300's from dense ones.
    shipped = load_coefficients()
    assert not shipped.knows("b200", "fp8", kind="dense") and shipped.knows("gb200", "fp8", kind="dense")
    gemm = {
        name: shipped.rates(device=name, number_format="fp8", framework="trireme-megatron").gemm
        for name in ("b200", "gb200", "gb300")
    }
    assert gemm["b200"] == pytest.approx(gemm["gb200"], rel=0.1)
    assert gemm["b200"] == pytest.approx(gemm["gb300"], rel=0.1)


@pytest.mark.parametrize(("scheme", "key"), [("source", "source"), ("publisher", "publisher")])
def test_no_row_is_judged_by_coefficients_that_have_seen_its_source(runs, scheme, key):
    masks = fold_masks(runs, scheme)
    assert np.array_equal(np.sum(masks, axis=0), np.ones(len(runs)))
    for mask in masks:
        held, seen = (
            {getattr(each, key) for each, is_held in zip(runs, mask, strict=True) if is_held == wanted}
            for wanted in (True, False)
        )
        assert len(held) == 1 and not held & seen


def test_sources_of_one_project_have_one_publisher(runs):
    by_publisher = {}
    for each in runs:
        by_publisher.setdefault(each.publisher, set()).add(each.source)
    assert len(by_publisher["BigScience"]) == 3 and len(by_publisher["torchtitan"]) == 3
    assert len(by_publisher["MosaicML llm-foundry benchmarks"]) == 1


def test_figures_of_a_part_of_the_table(runs):
    few = [each for each in runs if each.source in ("BLOOM/BigScience topology sweep", "InternEvo throughput table")]
    held = hold_out(few, scheme="source")
    figures = judge(held)
    assert figures["step_time"]["dense 16-bit"]["all"]["count"] == len(held.timed)
    assert figures["step_time"]["dense 16-bit"]["all"]["median_percent"] < 20
    assert figures["memory"]["all"]["median_percent"] < 20
    assert figures["out_of_memory"] == 1 and figures["out_of_memory_judged_to_fit"] == 0
    assert len(figures["sweeps"]) == 5


def test_error_bar_counts_both_directions():
    bar = error_bar(np.log(np.array([1.1, 0.9, 1.0, 1.2])))
    assert (bar.count, bar.median_percent, bar.bias_percent) == (4, 10.0, 5.0)


def test_what_recipes_state_is_read_with_their_rows(runs):
    stated = {
        (each.row["model"], each.row["gpu"], each.row["mbs"], each.row["notes"][15:20]): each.job.framework
        for each in runs
        if each.source == "Megatron-Bridge perf summary" and each.row["precision"] == "MXFP8"
    }
    graphs = {key: (float(traits.cuda_graphs), float(traits.fuses_experts)) for key, traits in stated.items()}
    assert graphs["Qwen3_30B_a3B", "GB200", "4.0", "26.06"] == (1, 1)
    assert graphs["Qwen3_30B_a3B", "GB200", "4.0", "26.04"] == (0.25, 0)
    assert graphs["Qwen3_30B_a3B", "B200", "4.0", "26.02"] == (0.65, 0)
    assert graphs["Qwen3_235B_a22B", "B200", "1.0", "26.04"] == (0, 0)
    assert graphs["DeepSeekV3", "B200", "1.0", "26.04"] == (0.65, 0)
    dropped = [each for each in runs if each.row["model"] == "Qwen3_30B_a3B (tokendrop)"]
    assert dropped and all(each.job.framework.cuda_graphs == 1 for each in dropped)
    dense = [each.job.framework for each in runs if each.kind != "moe"]
    assert all(traits.cuda_graphs == traits.fuses_experts == 0 for traits in dense)


def test_recomputed_experts_are_a_smaller_share_of_long_sequences(runs):
    shares = {
        float(each.row["seq"]): (float(each.job.layout.recomputed_share), float(each.job.layout.dropped_share))
        for each in runs
        if each.source.startswith("Megatron-MoE-ModelZoo") and "moe" in each.row["recompute"]
    }
    # 8 experts of 3 x 4096 x 1536 and the router, projections of 4096 x (2 x 8192 + 1024), scores of 64 heads of 128.
    experts, projections = 8 * 3 * 4096 * 1536 + 4096 * 128, 4096 * (2 * 8192 + 1024)
    for length, (repeated, dropped) in shares.items():
        assert repeated == pytest.approx(experts / (experts + projections + length * 8192))
        assert dropped == 0.8
    assert len(shares) == 4


def test_a_perfect_prediction_orders_every_sweep(runs):
    timed = [each for each in runs if each.seconds]
    found = sweeps(timed, np.log([each.seconds for each in timed]))
    assert len(found) >= 8
    assert all(sweep.spearman == pytest.approx(1.0) for sweep in found)


def test_parallel_kinds_are_named(runs):
    kinds = {parallel_kind(each) for each in runs}
    assert {"tp+pp", "tp+pp+cp", "fsdp", "dp", "pp+ep"} <= kinds


def test_what_is_told_of_error_bars_is_what_was_recorded():
    report = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert list(report["schemes"]) == list(SCHEMES)
    assert report["goals"] == check_goals(report["schemes"]["source"])
    shown = json.loads(ERROR_BARS_FILE.read_text(encoding="utf-8"))
    document = (RESULTS.parents[2] / "docs/launch/before_you_launch.md").read_text(encoding="utf-8")
    assert "on sources that it has not seen" in document
    for scheme, figures in report["schemes"].items():
        for kind, part in {**figures["step_time"], "memory": figures["memory"]}.items():
            told = f"{part['all']['median_percent']}%, {part['all']['p90_percent']}%"
            assert shown[scheme][kind] == told
            assert told in document, (scheme, kind)
    for name, goal in report["goals"].items():
        if not goal["is_reached"]:
            assert name in document, name


def test_an_option_that_is_not_known_is_named():
    with pytest.raises(ConfigError, match="--coeficients"):
        run(["--coeficients"])
    with pytest.raises(ConfigError, match="requires the default table"):
        run(["--publish", "--coefficients"])


def test_validate_names_a_table_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        run([str(tmp_path / "none.csv")])


def test_experts_without_a_pipeline_are_not_too_fast_by_half(runs):
    # Small products of many experts wait for the host; with a micro batch of 1 nothing else hides it.
    shipped = load_coefficients()
    alone = [
        each
        for each in runs
        if each.seconds and each.kind == "moe" and each.job.layout.ep > 1 and each.job.layout.pp == 1
    ]
    assert len(alone) > 20
    ratio = np.exp(TimeModel(alone).log_seconds(shipped.step_time)) / np.array([each.seconds for each in alone])
    assert np.median(ratio) == pytest.approx(1, abs=0.1)
    assert ratio.min() > 0.6
