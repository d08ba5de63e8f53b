"""trireme plan, as a user starts it."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launch.plan import calibrate
from launch.plan.__main__ import run
from launch.plan.coefficients import load_coefficients
from launch.plan.hardware import load_devices
from launch.plan.plan import make_plan
from launch.plan.predict import predict
from launch.plan.table import copyable, describe
from trainer.config.load import load_config
from trireme.errors import ConfigError

LARGE = ("model=llama_70b", "cluster=h100", "cluster.num_nodes=64")
TRAINED = (*LARGE, "precision=bf16", "training.global_batch_size=1024")
CLUSTERS = Path(__file__).parents[3] / "conf/cluster"
SMALL = ("model=quickstart", "model.vocab_size=512")


def test_a_large_model_is_planned_for_in_seconds_without_torch():
    # CPU time, since other tests may hold the cores.
    program = (
        "import resource, sys; from launch.plan.__main__ import run; run(sys.argv[1:]);"
        "used = resource.getrusage(resource.RUSAGE_SELF);"
        "print('torch' in sys.modules, 'scipy' in sys.modules, used.ru_utime + used.ru_stime, file=sys.stderr)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, *LARGE], capture_output=True, text=True, timeout=300, check=True
    )
    has_torch, has_scipy, seconds = finished.stderr.split()
    assert (has_torch, has_scipy) == ("False", "False")
    assert float(seconds) < 5
    assert "cannot be used" in finished.stdout and "Best layouts" in finished.stdout


def test_a_page_and_all_figures_are_written(tmp_path, capsys):
    page, figures = tmp_path / "plan.html", tmp_path / "plan.json"
    assert run([*TRAINED, "parallel=tp8_pp4", "tokens=15e12", "top=3", f"html={page}", f"json={figures}"]) == 0
    out = capsys.readouterr().out
    assert "computation" in out and "Configured layout: tp8 pp4 dp16, micro batch 1, deepspeed zero1" in out
    plan = json.loads(figures.read_text(encoding="utf-8"))
    prediction = plan["prediction"]
    assert len(prediction["stages"]) == 4
    for part in (prediction["step_time"], *prediction["stages"]):
        assert part["total"] == pytest.approx(sum(value for name, value in part.items() if name != "total"))
    assert prediction["tokens_per_second"] == pytest.approx(1024 * 8192 / prediction["step_time"]["total"])
    assert prediction["days"] == pytest.approx(15e12 / prediction["tokens_per_second"] / 86400)
    assert prediction["cost"] == pytest.approx(prediction["days"] * 24 * 512 * 3.0)
    # 12.005 bytes of 70.55 billion parameters: docs/training/checkpoints.md.
    assert prediction["checkpoint_bytes"] == pytest.approx(70.55e9 * 12.005, rel=1e-3)
    assert len(plan["best"]) == 3 and plan["configured_refusal"] is None
    assert all(refusal["nearest"] for refusal in plan["refusals"])
    hours = f"{15e12 / prediction['tokens_per_second'] / 3600:,.0f} hours"
    assert hours in out and f"{prediction['cost']:,.0f} USD, at 3.00 USD per device and hour" in out
    html = page.read_text(encoding="utf-8")
    assert "<p>tp8 pp4 dp16, micro batch 1, deepspeed zero1</p>" in html and hours in html
    assert not re.search(r"https?://|<script|src=", html)
    for title in ("Memory per pipeline stage", "Pipeline schedule", "Throughput against memory", "Rejected layouts"):
        assert title in html
    assert html.count('<rect class="backward"') == html.count('<rect class="forward"') == 4 * 24
    assert html.count("<rect") > 4 * 48 + 4 * 6


def test_the_best_layout_can_be_copied(capsys, tmp_path):
    page = tmp_path / "plan.html"
    assert run([*LARGE, "training.global_batch_size=1024", f"html={page}", "top=1"]) == 0
    out = capsys.readouterr().out.splitlines()
    line = out[out.index("Overrides of the best layout, to copy:") + 1]
    assert copyable(["parallel.recompute_modules=[core_attn]"]) == "'parallel.recompute_modules=[core_attn]'"
    config = load_config([*LARGE, "training.global_batch_size=1024", *shlex.split(line)])
    plan = make_plan(config, load_coefficients(), num_best=1)
    assert plan.configured_refusal is None
    assert plan.configured_layout in describe(plan.best[0])
    assert line in page.read_text(encoding="utf-8").replace("&#39;", "'")
    assert any(note.startswith("Use precision=bf16") for note in plan.notes)


def test_each_stage_of_an_interleaved_pipeline_is_drawn(tmp_path):
    page = tmp_path / "plan.html"
    interleaved = ("parallel=tp8_pp4", "parallel.virtual_pipeline_model_parallel_size=5", "engine=megatron")
    assert run([*TRAINED, *interleaved, f"html={page}"]) == 0
    html = page.read_text(encoding="utf-8")
    assert html.count('<rect class="forward') == 4 * 24 * 5
    assert "stage 3, chunk 4, micro batch 23, backward" in html


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        # Rules of the trainer, and memory.
        ((*TRAINED, "parallel.tensor_model_parallel_size=3"), "must divide model.num_attention_heads=64"),
        ((*TRAINED, "parallel=tp2"), "GiB of memory"),
        ((*LARGE, "precision=bf16"), "global_batch_size: must be a multiple"),
        # A rule that names the model and not the layout.
        ((*TRAINED, "parallel.pipeline_model_parallel_size=3"), "model.num_layers: must be a multiple"),
    ],
)
def test_a_refused_layout_comes_with_the_nearest_valid_ones(overrides, reason):
    plan = make_plan(load_config(overrides), load_coefficients(), num_best=1)
    refusal = plan.configured_refusal
    assert refusal is not None and reason in refusal.reason
    assert len(refusal.nearest) == 3
    assert len({near.sizes for near in refusal.nearest}) == 3


def test_errors_that_no_layout_can_solve_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        make_plan(
            load_config(
                [
                    *("model=quickstart", "cluster.device=h100", "optimizer.lr=-1"),
                    *("parallel.tensor_model_parallel_size=0", "training.micro_batch_size=0"),
                ]
            ),
            load_coefficients(),
            num_best=1,
        )
    by_path = {violation.path: violation for violation in caught.value.violations}
    sizes = {"parallel.tensor_model_parallel_size", "training.micro_batch_size"}
    assert set(by_path) == {"cluster.device", "model.vocab_size", "optimizer.lr", *sizes}
    assert "Did you mean h100_sxm?" in by_path["cluster.device"].fix


def test_errors_of_form_come_with_all_that_planning_needs_and_nothing_about_data():
    with pytest.raises(ConfigError) as caught:
        run(["model=quickstart", "cluster.device=h100", "optimizer.lr=-1", "training.seeds=1", "parallel=tp2"])
    paths = [violation.path for violation in caught.value.violations]
    assert paths == ["training.seeds", "cluster.device", "model.vocab_size", "optimizer.lr"]
    with pytest.raises(ConfigError) as caught:  # what depends on a wrong value is not reported
        run([*LARGE, "precision=bf17", "model.num_layers=many", "cluster.device=h101", "output_dir=/dev/null"])
    paths = [violation.path for violation in caught.value.violations]
    assert paths == ["precision", "model.num_layers", "cluster.device"]


def test_a_number_format_that_the_device_lacks_is_named():
    config = load_config(["model=llama_8b", "cluster=v100", "precision=bf16"])
    with pytest.raises(
        ConfigError,
        match=r"precision\.params_dtype: not supported by cluster\.device=v100_32gb \(got bf16\)\. Use fp32 or fp16\.",
    ):
        make_plan(config, load_coefficients(), num_best=1)


def test_all_wrong_words_are_named_at_once(tmp_path):
    words = ["tokens=many", "top=0", "calibrate=yes", "calibration=none.yaml", f"html={tmp_path}/no/plan.html", "--top"]
    words += [*SMALL, "optimizer.lr=-1"]
    with pytest.raises(ConfigError) as caught:
        run(words)
    paths = [violation.path for violation in caught.value.violations]
    assert sorted(paths) == ["--top", "calibrate", "calibration", "html", "optimizer.lr", "tokens", "top"]


@pytest.mark.parametrize("cluster", sorted(path.stem for path in CLUSTERS.glob("*.yaml")))
def test_every_cluster_has_a_device_and_a_plan(cluster):
    precision = {"v100": "fp16", "local": "fp32"}.get(cluster, "bf16")
    model = SMALL if cluster == "local" else ("model=llama_8b", "training.global_batch_size=256", "cluster.num_nodes=2")
    config = load_config([*model, f"cluster={cluster}", f"precision={precision}"])
    plan = make_plan(config, load_coefficients(), num_best=5)
    assert plan.best
    speeds = [candidate.tokens_per_second for candidate in plan.best]
    assert speeds == sorted(speeds, reverse=True)


def test_a_process_on_a_cpu_has_no_driver_in_its_memory():
    # Resident memory of this run's only process was 0.71 GiB, of which the libraries have 0.55.
    overrides = [
        *SMALL,
        "model.num_layers=8",
        "model.vocab_size=8192",
        "training.micro_batch_size=2",
        "engine=megatron",
    ]
    prediction = make_plan(load_config(overrides), load_coefficients(), num_best=1).prediction
    assert prediction is not None
    assert prediction.peak_bytes / 2**30 == pytest.approx(0.71, rel=0.15)


def test_faster_devices_are_faster():
    speeds = {}
    for cluster in ("a100", "h100", "h200", "b200", "b300"):
        overrides = ("model=llama_8b", f"cluster={cluster}", "precision=bf16", "training.global_batch_size=128")
        speeds[cluster] = make_plan(load_config(overrides), load_coefficients(), num_best=1).best[0].tokens_per_second
    assert speeds["a100"] < speeds["h100"] <= speeds["h200"] < speeds["b200"] <= speeds["b300"]


def test_every_preset_names_a_device_of_the_planner():
    named = {path.stem: load_config([f"cluster={path.stem}"]).cluster for path in CLUSTERS.glob("*.yaml")}
    assert {"b300", "gb300", "gh200", "mi325x", "mi355x"} <= set(named)
    for name, cluster in named.items():
        if name == "local":
            continue
        device = load_devices()[cluster.device]
        sixteen = device.tflops.get("bf16", device.tflops["fp16"])
        assert cluster.device_peak_tflops == pytest.approx(sixteen, rel=2e-3), name
        assert cluster.device_price_per_hour == device.price_per_hour, name


def test_an_mi300x_is_as_much_slower_than_an_h200_as_was_measured():
    # github.com/alpharomercoma/MI300X-vs-H200, REPORT.md: an 8B model in bf16 on one device, 1.32 to 1.40 times.
    one = ("model=llama_8b", "precision=bf16", "cluster.gpus_per_node=1", "training.global_batch_size=16")
    one = (*one, "model.seq_length=4096", "training.micro_batch_size=2")
    seconds = {
        name: float(predict(load_config([*one, f"cluster={name}"]), load_coefficients()).step_time.total)
        for name in ("h200", "mi300x")
    }
    assert 1.32 <= seconds["mi300x"] / seconds["h200"] <= 1.40


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        (("cluster=h100", "precision=bf16"), None),
        (("cluster=gb200", "precision=bf16"), "No published run of a dense model on gb200 in bf16 is available"),
        (("cluster=b200", "precision=bf16"), "No published run of a dense model on b200 in bf16 is available"),
        (("cluster=h200", "precision=bf16"), "assumes the efficiency of h100_sxm"),
        (("cluster=mi300x", "precision=bf16"), "assumes 0.53 times the efficiency of h100_sxm"),
    ],
)
def test_a_device_without_dense_runs_is_named(overrides, note):
    config = load_config(["model=llama_8b", "training.global_batch_size=64", *overrides])
    notes = make_plan(config, load_coefficients(), num_best=1).notes
    if note is None:
        assert not any("No published run" in each for each in notes)
    else:
        assert any(note in each for each in notes)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        # 7 hosts: no size of the pipeline or of data parallelism takes the 7.
        (
            ("cluster.num_nodes=7",),
            ("No layout is valid", "cluster.num_nodes=6 or 8", "global_batch_size=1008 or 1064"),
        ),
        # A host: 70 B do not fit it.
        (
            ("model=llama_70b", "cluster.num_nodes=1"),
            ("No layout fits: of ", "cluster.num_nodes=3 has layouts"),
        ),
    ],
)
def test_without_a_valid_layout_other_sizes_are_advised_at_the_top(overrides, told, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    base = ("model=llama_8b", "cluster=h100", "precision=bf16", "training.global_batch_size=1024")
    assert run([*base, *overrides]) == 0
    out = capsys.readouterr().out
    head = out.split("┏")[0]
    for part in told:
        assert part in head
    assert "Best layouts" not in out


def test_advised_batch_sizes_have_layouts():
    base = ("model=llama_8b", "cluster=h100", "precision=bf16", "cluster.num_nodes=7")
    for size in (1008, 1064):
        plan = make_plan(load_config([*base, f"training.global_batch_size={size}"]), load_coefficients(), num_best=1)
        assert plan.best and not any("No layout" in note for note in plan.notes)


def test_that_a_layout_does_not_fit_is_stated_before_time_and_cost(capsys, tmp_path):
    page = tmp_path / "plan.html"
    assert run([*TRAINED, "parallel=tp2", f"html={page}"]) == 0
    out = capsys.readouterr().out
    assert 0 < out.index("cannot be used") < out.index("if it fit") < out.index("cost of")
    html = page.read_text(encoding="utf-8")
    assert 0 < html.index("cannot be used") < html.index("cost of")


def test_piped_output_is_not_truncated(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert run([*TRAINED, "parallel=tp8_pp4", "top=3"]) == 0
    out = capsys.readouterr().out
    assert "…" not in out and "megatron dist-opt" in out
    assert any(len(line) > 80 for line in out.splitlines())


def test_many_replicas_of_a_small_model_share_the_optimizer():
    config = load_config(
        [
            *("model=llama_8b", "cluster=h200", "cluster.num_nodes=256", "precision=bf16"),
            "training.global_batch_size=2048",
        ]
    )
    plan = make_plan(config, load_coefficients(), num_best=5)
    assert all("dist-opt" in candidate.engine or "zero" in candidate.engine for candidate in plan.best)


def test_experts_are_planned_for():
    config = load_config(
        [
            "model=mixtral_8x7b",
            "cluster=h100",
            "cluster.num_nodes=4",
            "precision=bf16",
            "training.global_batch_size=256",
        ]
    )
    plan = make_plan(config, load_coefficients(), num_best=20)
    assert any(candidate.sizes.ep > 1 for candidate in plan.best)


def test_a_calibration_is_measured_saved_and_used(tmp_path, capsys):
    own = (*SMALL, f"output_dir={tmp_path}")
    assert run([*own, "calibrate=true"]) == 0
    path = tmp_path / calibrate.CALIBRATION_NAME
    measured = calibrate.load(path)
    assert (measured.device, measured.num_devices, measured.gemm_format) == ("cpu", 1, "fp32")
    assert measured.gemm_tflops > 0 and measured.memory_gb_per_second > 0 and measured.link_gb_per_second is None
    capsys.readouterr()
    assert run([*own]) == 0
    assert "Using the rates measured" in capsys.readouterr().out
    assert run([*own, "calibration=none"]) == 0
    assert "Using the rates measured" not in capsys.readouterr().out
    other = (
        "model=llama_8b",
        "cluster=h100",
        "precision=bf16",
        f"output_dir={tmp_path}",
        "training.global_batch_size=64",
    )
    assert run(list(other)) == 0
    assert "not on h100_sxm" in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_measured_rates_replace_fitted_ones():
    device, fitted = load_devices()["h100_sxm"], load_coefficients()
    ranks = [
        {
            "device": "NVIDIA H100 80GB HBM3",
            "gemm_tflops": tflops,
            "memory_gb_per_second": 2900.0,
            "host_allreduce_gb_per_second": 400.0,
            "neighbour_gb_per_second": None,
        }
        for tflops in (700.0, 650.0)
    ]
    found = calibrate.summarize({"ranks": ranks})
    assert found.gemm_tflops == 650.0  # the slowest: a step waits for it
    applied = calibrate.apply(found, fitted, device)
    for number_format in ("bf16", "fp8"):
        asked = {"device": "h100_sxm", "number_format": number_format, "framework": "trireme-megatron"}
        before, after = fitted.rates(**asked), applied.rates(**asked)
        sixteen = fitted.rates(**(asked | {"number_format": "bf16"}))
        assert after.gemm / before.gemm == pytest.approx((650 / 989.4) / sixteen.gemm)
        assert after.memory == pytest.approx(2900 / 3352)
        assert after.link == pytest.approx(400 / 450)
        assert after.network == before.network


def test_an_invalid_calibration_file_is_refused(tmp_path):
    path = Path(tmp_path, "calibration.yaml")
    path.write_text("speed: 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not a calibration file"):
        run([*SMALL, f"output_dir={tmp_path}"])
