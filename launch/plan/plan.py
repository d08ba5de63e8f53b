"""Make a plan: predictions for the configured layout, the best layouts, and rejected ones with their reasons."""

import dataclasses
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from launch.plan.advice import advise
from launch.plan.coefficients import Coefficients
from launch.plan.from_config import DATA_PATHS, PlannerInput, check_planner_input, engine_choice, planner_input_of
from launch.plan.hardware import load_devices
from launch.plan.layouts import RECOMPUTE_NAMES, Sizes
from launch.plan.predict import Prediction, predict, predict_timeline
from launch.plan.ranking import FULL_SHARE, Candidate, Ranking, Refusal, describe_layout
from launch.plan.timeline import Work
from trainer.config.derived import count_processes, find_dp_size
from trainer.config.parallel import ParallelConfig
from trainer.config.schema import TrainConfig
from trainer.config.validate import validate
from trireme.config.fields import overlaps
from trireme.errors import Violation, raise_if_any
from trireme.progress import format_number

LAYOUT_PATHS = ("parallel.", "engine.", "training.micro_batch_size", "training.global_batch_size", "world_size")
"""Rules on these paths concern the layout: other layouts may satisfy them."""
NUM_SHOWN_REFUSALS = 8
MAX_POINTS = 3000
ERROR_BARS_FILE = Path(__file__).parent / "data" / "error_bars.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Hold the content of a plan."""

    title: str
    notes: tuple[str, ...]
    """Remarks on the configuration and on the evidence for the predictions."""
    num_devices: int
    device_memory_bytes: float
    configured_layout: str
    """Parallel sizes, micro batch, recomputation and engine of the configured layout."""
    prediction: Prediction | None
    """For the configured layout; None if it is invalid."""
    timeline: tuple[Work, ...]
    """Pipeline schedule of the configured layout; empty if it is invalid."""
    configured_refusal: Refusal | None
    num_valid: int
    num_fitting: int
    best: tuple[Candidate, ...]
    pareto_front: tuple[Candidate, ...]
    all_points: tuple[tuple[float, float], ...]
    """(bytes, tokens per second) of layouts, for the chart."""
    refusals: tuple[Refusal, ...]
    num_shown_refusals: int
    error_bars: tuple[str, ...]
    """Errors of such predictions on published figures."""


def make_plan(
    config: TrainConfig,
    coefficients: Coefficients,
    *,
    num_best: int,
    num_tokens: float | None = None,
    calibration_note: str = "",
) -> Plan:
    """Plan for a configuration.

    Raises:
        ConfigError: settings other than the layout are invalid, so that no layout could be used.
    """
    others, about_layout = _sort_errors(config)
    raise_if_any(others)
    setting = planner_input_of(config)
    ranking = Ranking(config, setting, coefficients)
    prediction = None if about_layout else predict(config, coefficients, num_tokens=num_tokens)
    timeline = () if about_layout else tuple(predict_timeline(config, coefficients))
    return Plan(
        title=_title(config, setting),
        notes=(*advise(config, ranking, coefficients), *_notes(config, setting, coefficients, calibration_note)),
        num_devices=setting.world_size,
        device_memory_bytes=float(setting.machine.memory_bytes),
        configured_layout=_describe_configured(config),
        prediction=prediction,
        timeline=timeline,
        configured_refusal=_refuse_configured(config, ranking, about_layout, prediction),
        num_valid=ranking.num_valid,
        num_fitting=ranking.num_fitting,
        best=tuple(ranking.best(num_best)),
        pareto_front=tuple(ranking.pareto_front()),
        all_points=tuple(ranking.all_points(MAX_POINTS)),
        refusals=tuple(ranking.refusals()),
        num_shown_refusals=NUM_SHOWN_REFUSALS,
        error_bars=tuple(_error_bars()),
    )


def check_plan(config: TrainConfig, ignore: Collection[str]) -> list[Violation]:
    """Return what prevents a plan whatever the layout; it needs neither data nor a run directory.

    Args:
        ignore: paths whose values are known to be invalid; what depends on them is not reported.
    """
    return _sort_errors(config, ignore)[0]


def _sort_errors(config: TrainConfig, ignore: Collection[str] = frozenset()) -> tuple[list[Violation], list[Violation]]:
    """Return the errors that no layout can mend, and those of the configured layout."""
    problems = list(check_planner_input(config, ignore=ignore))
    is_unknown = problems or overlaps("parallel", ignore) or overlaps("cluster", ignore)
    world_size = None if is_unknown else count_processes(config)
    skipped = {*DATA_PATHS, *ignore}
    from_rules = validate(config, world_size=world_size, ignore=skipped)
    # Some layout rules name a setting of the model, such as model.num_layers for the pipeline size.
    unsplit = dataclasses.replace(config, parallel=ParallelConfig())
    lasting = validate(unsplit, world_size=world_size, ignore=skipped) if from_rules else []
    about_layout = [
        problem
        for problem in from_rules
        if (problem.path.startswith(LAYOUT_PATHS) or problem not in lasting) and not _is_no_size(problem.value)
    ]
    return problems + [problem for problem in from_rules if problem not in about_layout], about_layout


def _is_no_size(value: object) -> bool:
    """Return whether a value cannot be a number of ranks or samples, so that no layout is near to it."""
    return re.fullmatch(r"0|-\d+", str(value)) is not None


def _title(config: TrainConfig, setting: PlannerInput) -> str:
    model = config.model
    layers = format_number(model.num_layers, "layer")
    kind = f"{layers}, hidden size {model.hidden_size}, sequence length {model.seq_length}"
    hosts = format_number(config.cluster.num_nodes, "host")
    count = f"{setting.world_size} x {setting.device.name} on {hosts}"
    return (
        f"{kind}; {format_number(setting.global_batch_size, 'sequence')} per step in {setting.number_format}; {count}"
    )


def _notes(
    config: TrainConfig, setting: PlannerInput, coefficients: Coefficients, calibration_note: str
) -> Iterable[str]:
    formats = setting.device.tflops
    if setting.number_format == "fp32" and formats.get("bf16", 0) > formats["fp32"]:
        yield (
            f"Use precision=bf16: this device has a peak of {formats['bf16']:g} TFLOP/s in it, and of"
            f" {formats['fp32']:g} in precision=fp32."
        )
    if setting.device.name != "cpu":
        yield from _evidence(setting, coefficients)
    if setting.device.name == "cpu" and not calibration_note:
        yield "The CPU rates are those of two cores of a typical server. Measure this host with calibrate=true."
    per_device = config.training.global_batch_size / setting.world_size
    if per_device < 1 and config.training.global_batch_size < 64:
        yield (
            f"training.global_batch_size={config.training.global_batch_size} is only {per_device:.3g} sequences per"
            " device. A larger batch uses the devices better."
        )
    if calibration_note:
        yield calibration_note


def _evidence(setting: PlannerInput, coefficients: Coefficients) -> Iterable[str]:
    """Note if no published run supports the predictions for this device, number format and kind of model."""
    device, number_format = setting.device, setting.number_format
    kind = "moe" if setting.model.num_moe_experts else "dense"
    if coefficients.knows(device.fitted_as, number_format, kind=kind) and not device.efficiency_of:
        return
    run = f"No published run of {'an MoE' if kind == 'moe' else 'a dense'} model on {device.name}"
    if device.efficiency_of:
        share = f"{device.efficiency:g} times " if device.efficiency != 1 else ""
        yield (
            f"{run} is available: the planner assumes {share}the efficiency of {device.efficiency_of}"
            " (launch/plan/data/devices.yaml)."
        )
        return
    siblings = [
        each.name
        for each in load_devices().values()
        if each.die == device.die and not each.efficiency_of and each is not device
        if coefficients.knows(each.name, number_format, kind=kind)
    ]
    known = f"of {', '.join(siblings)} with the same die" if siblings else "that all device types have in common"
    yield f"{run} in {number_format} is available: the planner assumes the efficiency {known}."


def _refuse_configured(
    config: TrainConfig, ranking: Ranking, problems: list[Violation], prediction: Prediction | None
) -> Refusal | None:
    if problems:
        reason = "; ".join(str(problem) for problem in problems)
    elif prediction is not None and prediction.peak_bytes > FULL_SHARE * prediction.device_memory_bytes:
        need, have = prediction.peak_bytes / 2**30, prediction.device_memory_bytes / 2**30
        reason = (
            f"stage {prediction.fullest_stage} needs {need:.1f} GiB of memory, but only {FULL_SHARE:.0%} of"
            f" {have:.0f} GiB can be used"
        )
    else:
        return None
    recompute = {"full": "full", "selective": "core_attn"}.get(config.parallel.recompute_granularity or "", "none")
    assert recompute in RECOMPUTE_NAMES
    sizes, micro_batch_size = _configured_sizes(config), config.training.micro_batch_size
    near = ranking.nearest(sizes, micro_batch_size=micro_batch_size, recompute=recompute)
    return Refusal(layout=_describe_configured(config), reason=reason, nearest=near)


def _configured_sizes(config: TrainConfig) -> Sizes:
    parallel = config.parallel
    return Sizes(
        tp=parallel.tensor_model_parallel_size,
        pp=parallel.pipeline_model_parallel_size,
        cp=parallel.context_parallel_size,
        ep=parallel.expert_model_parallel_size,
        dp=find_dp_size(config, world_size=count_processes(config)) or 1,
    )


def _describe_configured(config: TrainConfig) -> str:
    parallel = config.parallel
    recompute = parallel.recompute_granularity
    return describe_layout(
        _configured_sizes(config),
        vp=parallel.virtual_pipeline_model_parallel_size or 1,
        micro_batch_size=config.training.micro_batch_size,
        recompute="+".join(parallel.recompute_modules) if recompute == "selective" else recompute or "none",
        engine=engine_choice(config.engine).name_and_sharding,
    )


def _error_bars() -> Iterable[str]:
    """Summarize the results of benchmarks.planner.validate."""
    bars: dict[str, dict[str, str]] = json.loads(ERROR_BARS_FILE.read_text(encoding="utf-8"))

    def describe(figures: dict[str, str]) -> str:
        return (
            f"step time: dense 16-bit {figures['dense 16-bit']}, dense fp8/fp4 {figures['dense fp8/fp4']}, MoE"
            f" {figures['moe']}; memory {figures['memory']}"
        )

    yield (
        f"Errors on held-out sources (median, 90th percentile): {describe(bars['source'])}. Spearman rank correlation"
        f" of throughput within a sweep: {bars['source']['spearman']}."
    )
    yield (
        f"Errors on held-out projects: {describe(bars['publisher'])}. All are published runs of other frameworks;"
        " expect similar errors for Trireme on your cluster."
    )
