"""Read the table of published runs, and normalize its conventions.

The table (data/published_throughput.README.md) mixes the conventions of its sources. Every row becomes a `TrainingJob`
with the measured seconds per step and bytes per device, or is skipped with a reason:

- Seconds per step and tokens per second are used as they are. TFLOP/s are converted to seconds by the convention that
  the table names (`published_flops`); without one, the row's time is not compared.
- LoRA rows, which do not train the model's weights, and hybrid models (Mamba) are skipped.
- Data missing in a source is completed from data/published_shapes.yaml and `published_rows`.
- Other tables may contain unknown sources, devices, frameworks and models. An unknown source or framework has default
  properties; a row with an unknown device, number format, model or layout is skipped.
"""

import csv
import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from benchmarks.planner.published_flops import flops_of_step
from benchmarks.planner.published_rows import EXPERT_COLUMNS, layout_of_row, model_notes, number_of, shape_of_row
from launch.plan.hardware import find_device, load_devices, load_frameworks
from launch.plan.job import Framework, Machine, TrainingJob
from trireme.errors import ConfigError, Violation

DATA = Path(__file__).parent / "data"
PUBLISHED_CSV = DATA / "published_throughput.csv"

DEVICES = {"V100-16": "v100_16gb", "V100-32": "v100_32gb", "A100-40": "a100_40gb", "A100-80": "a100_80gb"}
"""Names of devices in the table that the planner's patterns do not match."""
NEEDED_COLUMNS = ("source", "framework", "model", "kind", "gpu", "precision", "n_gpus", "seq", "mbs", "gbs")
"""Required columns; other missing columns are treated as empty."""
_SIZES = ("n_gpus", "seq", "mbs", "gbs", "tp", "pp", "vp", "cp", "ep", "dp", "layers", "hidden", "heads", "vocab")
_NUMBERS = (*_SIZES, *EXPERT_COLUMNS, "ffn", "kv_heads", "params_b", "gpu_mem_gb", "shard_size", "grad_accum")
_MEASURED = ("step_time_s", "tokens_per_s_per_gpu", "tflops_per_gpu", "mem_gb", "mfu_pct", "hfu_pct")


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """Hold one comparable row."""

    row: Mapping[str, str]
    job: TrainingJob
    device: str
    number_format: str
    framework: str
    seconds: float | None
    """Step time; None if it is not compared."""
    memory_bytes: float | None
    memory_kind: str
    is_out_of_memory: bool
    states_recompute: bool
    """Whether the source states which activations are recomputed."""

    @property
    def sees_device(self) -> bool:
        """Return whether the memory figure, if any, is of the whole device and not of torch's allocator."""
        return self.memory_bytes is None or not self.memory_kind.startswith(("max reserved", "peak"))

    @property
    def source(self) -> str:
        """Return the source of the row."""
        return self.row["source"]

    @property
    def publisher(self) -> str:
        """Return the project that published it, which may have several sources from one cluster."""
        return _load_extra()["sources"].get(self.source, {}).get("publisher", self.source)

    @property
    def kind(self) -> str:
        """Return the kind of run: dense 16-bit, dense fp8/fp4, or moe."""
        if self.row["kind"] == "moe":
            return "moe"
        return "dense 16-bit" if self.number_format in ("bf16", "fp16", "fp32") else "dense fp8/fp4"


@dataclass(frozen=True, kw_only=True)
class SkippedRun:
    """Hold a skipped row with the reason."""

    row: Mapping[str, str]
    reason: str


def load_published(path: Path) -> tuple[list[PublishedRun], list[SkippedRun]]:
    """Read the table.

    Returns:
        Comparable runs, and skipped rows with their reasons.
    Raises:
        ConfigError: the file is not a table of this form.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = [_complete(row) for row in reader]
            missing = [name for name in NEEDED_COLUMNS if name not in (reader.fieldnames or ())]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _not_a_table(path, f"cannot read this file as a CSV table: {error}") from error
    if missing:
        raise _not_a_table(path, f"columns are missing: {', '.join(missing)}")
    extra = _load_extra()
    runs: list[PublishedRun] = []
    skipped: list[SkippedRun] = []
    for row in rows:
        reason = _reason_to_skip(row, extra)
        run = None if reason else _read_run(row, extra)
        if run is None or run.job.layout.num_microbatches < 1:
            reason = reason or "layout: parallel sizes, micro batch and global batch do not match"
            skipped.append(SkippedRun(row=row, reason=reason))
        else:
            runs.append(run)
    return runs, skipped


def _load_extra() -> dict[str, Any]:
    return _EXTRA


_EXTRA: dict[str, Any] = yaml.safe_load((DATA / "published_shapes.yaml").read_text(encoding="utf-8"))


def _not_a_table(path: Path, rule: str) -> ConfigError:
    fix = f"Use a table like {PUBLISHED_CSV}; {PUBLISHED_CSV.stem}.README.md describes its columns."
    return ConfigError([Violation(path="CSV", value=str(path), message=rule, fix=fix)])


def _complete(row: Mapping[str | None, Any]) -> dict[str, str]:
    """Return the row with all columns that are read, and without surplus cells."""
    known = dict.fromkeys((*_NUMBERS, *_MEASURED, "gated_mlp", "status", "task", "shard", "recompute", "notes"), "")
    known |= dict.fromkeys(("mem_kind", "tflops_kind", "flops_convention", "source_locator"), "")
    return known | {name: (value or "").strip() for name, value in row.items() if name is not None}


def _reason_to_skip(row: Mapping[str, str], extra: Mapping[str, Any]) -> str:
    if row["task"] == "lora":
        return "LoRA: the model's weights are not trained"
    if row["kind"] == "hybrid-moe":
        return "hybrid model with layers that are not transformers (Mamba)"
    wrong = [name for name in (*_NUMBERS, *_MEASURED) if row[name] and not _is_positive(row[name])]
    if wrong:
        return f"not a positive number: {wrong[0]}"
    notes = model_notes(row, extra)
    if row["kind"] == "moe" and notes is None and not all(row[name] for name in EXPERT_COLUMNS[:3]):
        return f"experts of the model unknown (published_shapes.yaml, or columns {', '.join(EXPERT_COLUMNS[:3])})"
    if not (row["layers"] and row["hidden"] and row["heads"]) and notes is None:
        return "shape of the model not published"
    if not (row["vocab"] or (notes or {}).get("vocab_size")):
        return "vocabulary of the model not published"
    if not row["mbs"]:
        return "micro batch size not published"
    if not (row["n_gpus"] and row["seq"] and (row["gbs"] or row["grad_accum"])):
        return "number of devices, sequence length or batch size not published"
    device, number_format = _device_name(row["gpu"]), _number_format(row["precision"])
    if device is None:
        return "device unknown to the planner (launch/plan/data/devices.yaml)"
    if number_format is None or number_format not in load_devices()[device].tflops:
        return "number format unknown, or not supported by the device"
    parallel = [number_of(row, key, 1) for key in ("tp", "pp", "cp")]
    if number_of(row, "n_gpus") % (parallel[0] * parallel[1] * parallel[2]):
        return "layout: parallel sizes do not divide the number of devices"
    return ""


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < 1e30
    except ValueError:
        return False


def _device_name(gpu: str) -> str | None:
    name = DEVICES.get(gpu, gpu.casefold())
    if name in load_devices():
        return name
    found = find_device(gpu)
    return None if found is None else found.name


def _number_format(precision: str) -> str | None:
    text = precision.upper()
    for ending, number_format in (("FP4", "fp4"), ("BF16", "bf16"), ("FP16", "fp16"), ("FP32", "fp32")):
        if text.endswith(ending):
            return number_format
    return "fp8" if "FP8" in text else None


def _machine(row: Mapping[str, str], extra: Mapping[str, Any], device: str, number_format: str) -> Machine:
    notes = extra["sources"].get(row["source"], {})
    machine = load_devices()[device].machine(number_format=number_format)
    values = dict(vars(machine))
    factor = notes.get("flops", 1.0)
    values["flops"] *= factor
    values["attention_flops"] *= factor
    if row["gpu_mem_gb"]:
        values["memory_bytes"] = (96 if "96GB" in row["notes"] else number_of(row, "gpu_mem_gb")) * 2**30
    if "network" in notes:
        values["network_rate"] = notes["network"] * 1e9
    if "domain" in notes:
        values["link_domain"] = notes["domain"]
    if "link" in notes:
        values["link_rate"] = notes["link"] * 1e9
    return Machine(**values)


def _read_run(row: Mapping[str, str], extra: Mapping[str, Any]) -> PublishedRun:
    number_format, device = _number_format(row["precision"]), _device_name(row["gpu"])
    assert number_format is not None and device is not None
    framework = extra["sources"].get(row["source"], {}).get("framework", row["framework"])
    shape = shape_of_row(row, extra)
    job = TrainingJob(
        model=shape,
        layout=layout_of_row(row, shape),
        machine=_machine(row, extra, device, number_format),
        framework=_framework(row, framework, extra),
    )
    return PublishedRun(
        row=row,
        job=job,
        device=device,
        number_format=number_format,
        framework=framework,
        seconds=_seconds(row, job, extra),
        memory_bytes=float(row["mem_gb"]) * 2**30 if row["mem_gb"] else None,
        memory_kind=row["mem_kind"],
        is_out_of_memory=row["status"] == "OOM",
        states_recompute=row["recompute"] not in ("", "none/selective (not stated)", "selective"),
    )


def _framework(row: Mapping[str, str], name: str, extra: Mapping[str, Any]) -> Framework:
    frameworks = load_frameworks()
    traits = frameworks.get(name, frameworks["other"])
    for recipe in extra["recipes"].get(row["source"], []):
        if _is_of_recipe(row, recipe):
            known = {key: recipe[key] for key in ("cuda_graphs", "fuses_experts") if key in recipe}
            traits = dataclasses.replace(traits, **known)
    # Without autocast, the loss is computed in 16 bits, too.
    return dataclasses.replace(traits, logit_bytes=6) if "PURE" in row["notes"] else traits


def _is_of_recipe(row: Mapping[str, str], recipe: Mapping[str, Any]) -> bool:
    container = re.search(r"container (\d+\.\d+)", row["notes"])
    return (
        row["model"].startswith(recipe.get("model", ""))
        and row["gpu"] in recipe.get("gpu", [row["gpu"]])
        and row["precision"].endswith(recipe.get("precision", ""))
        and all(number_of(row, key) == value for key, value in recipe.get("sizes", {}).items())
        and (container[1] if container else "") >= recipe.get("container", "")
    )


def _seconds(row: Mapping[str, str], job: TrainingJob, extra: Mapping[str, Any]) -> float | None:
    if row["step_time_s"]:
        return float(row["step_time_s"])
    if row["tokens_per_s_per_gpu"]:
        return float(job.tokens_per_step / (float(row["tokens_per_s_per_gpu"]) * job.layout.num_devices))
    convention = row["flops_convention"] or extra["sources"].get(row["source"], {}).get("convention", "")
    flops = flops_of_step(job, kind=row["tflops_kind"], convention=convention)
    if not row["tflops_per_gpu"] or flops is None:
        return None
    return flops / (float(row["tflops_per_gpu"]) * 1e12 * float(job.layout.num_devices))
