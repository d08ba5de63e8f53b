"""Published runs as jobs: the table's conventions, undone.

The table (data/published_throughput.README.md) mixes what its sources count and measure. Here every row becomes a `Job`
in the planner's own terms, with the measured seconds per step and bytes per device beside it, or a reason why it says
nothing that can be compared:

- Seconds per step, or tokens per second, are taken as they are. Where a source tells only TFLOP/s, they are turned back
  into seconds by the convention that the table names; without a named one the row's time is not compared.
- LoRA rows train no weights of the model. Models whose layers are not transformers (Mamba hybrids) have no shape here.
- What a source does not tell is filled in as data/published_shapes.yaml and `published_rows` say.
"""

import csv
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from benchmarks.planner.published_rows import layout_of_row, model_notes, number_of, shape_of_row
from launch.plan.frameworks import load_frameworks
from launch.plan.hardware import load_devices
from launch.plan.job import Framework, Job, Machine

DATA = Path(__file__).parent / "data"
PUBLISHED_CSV = DATA / "published_throughput.csv"

DEVICES = {
    "V100-16": "v100_16gb",
    "V100-32": "v100_32gb",
    "A100-40": "a100_40gb",
    "A100-80": "a100_80gb",
    "H100": "h100_sxm",
    "B200": "b200",
    "B300": "b300",
    "GB200": "gb200",
    "GB300": "gb300",
}
FORMATS = {"BF16": "bf16", "FP16": "fp16", "NVFP4": "fp4"}


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """One row."""

    row: Mapping[str, str]
    job: Job
    device: str
    number_format: str
    framework: str
    seconds: float | None
    """Of a step; None where it is not compared."""
    memory_bytes: float | None
    memory_kind: str
    is_out_of_memory: bool
    states_recompute: bool
    """Whether the source says which activations are computed again."""

    @property
    def sees_device(self) -> bool:
        """Whether the memory figure, if any, is of the whole device and not of torch's allocator."""
        return self.memory_bytes is None or not self.memory_kind.startswith(("max reserved", "peak"))

    @property
    def source(self) -> str:
        """Where it was published."""
        return self.row["source"]

    @property
    def group(self) -> tuple[str, str]:
        """Rows of one group are judged by coefficients fitted without all of them."""
        return self.row["framework"], self.row["model"].split("_(")[0].split(" (")[0].casefold()

    @property
    def kind(self) -> str:
        """dense 16-bit, dense fp8/fp4, or moe."""
        if self.row["kind"] == "moe":
            return "moe"
        return "dense 16-bit" if self.number_format in ("bf16", "fp16", "fp32") else "dense fp8/fp4"


@dataclass(frozen=True, kw_only=True)
class SkippedRun:
    """A row that is not compared, and why."""

    row: Mapping[str, str]
    reason: str


def load_published(path: Path) -> tuple[list[PublishedRun], list[SkippedRun]]:
    """Read the table.

    Returns:
        Comparable runs, and the others with a reason.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    extra = yaml.safe_load((DATA / "published_shapes.yaml").read_text(encoding="utf-8"))
    runs: list[PublishedRun] = []
    skipped: list[SkippedRun] = []
    for row in rows:
        reason = _reason_to_skip(row, extra)
        if reason:
            skipped.append(SkippedRun(row=row, reason=reason))
        else:
            runs.append(_read_run(row, extra))
    return runs, skipped


def _reason_to_skip(row: Mapping[str, str], extra: Mapping[str, Any]) -> str:
    if row["task"] == "lora":
        return "LoRA: the model's weights are not trained"
    if row["kind"] == "hybrid-moe":
        return "layers that are not those of a transformer (Mamba)"
    if not row["layers"] and model_notes(row, extra) is None:
        return "shape of the model not published"
    if not row["mbs"]:
        return "micro batch size not published"
    return ""


def _machine(row: Mapping[str, str], extra: Mapping[str, Any], number_format: str) -> Machine:
    device = load_devices()[DEVICES[row["gpu"]]]
    notes = extra["sources"][row["source"]]
    machine = device.machine(number_format=number_format)
    values = dict(vars(machine))
    factor = notes.get("flops", 1.0)
    values["flops"] *= factor
    values["attention_flops"] *= factor
    values["memory_bytes"] = (96 if "96GB" in row["notes"] else number_of(row, "gpu_mem_gb")) * 2**30
    if "network" in notes:
        values["network_rate"] = notes["network"] * 1e9
    if "domain" in notes:
        values["link_domain"] = notes["domain"]
    if "link" in notes:
        values["link_rate"] = notes["link"] * 1e9
    return Machine(**values)


def _read_run(row: Mapping[str, str], extra: Mapping[str, Any]) -> PublishedRun:
    number_format = FORMATS.get(row["precision"], "fp8")
    framework = "Megatron-LM (2022)" if "Reducing" in row["source"] else row["framework"]
    if framework == "Megatron-Bridge" and "container 26.0" in row["notes"] and row["notes"].split("26.")[1][:2] >= "06":
        framework = "Megatron-Bridge 26.06"
    shape = shape_of_row(row, extra)
    job = Job(
        model=shape,
        layout=layout_of_row(row, shape),
        machine=_machine(row, extra, number_format),
        framework=_framework(row, framework),
    )
    return PublishedRun(
        row=row,
        job=job,
        device=DEVICES[row["gpu"]],
        number_format=number_format,
        framework=framework,
        seconds=_seconds(row, job),
        memory_bytes=float(row["mem_gb"]) * 2**30 if row["mem_gb"] else None,
        memory_kind=row["mem_kind"],
        is_out_of_memory=row["status"] == "OOM",
        states_recompute=row["recompute"] not in ("", "none/selective (not stated)", "selective"),
    )


def _framework(row: Mapping[str, str], name: str) -> Framework:
    traits = load_frameworks()[name]
    # Without autocast the loss is computed in 16 bits as well.
    return dataclasses.replace(traits, logit_bytes=6) if "PURE" in row["notes"] else traits


def _seconds(row: Mapping[str, str], job: Job) -> float | None:
    if row["step_time_s"]:
        return float(row["step_time_s"])
    convention = row["flops_convention"]
    if not row["tflops_per_gpu"] or (not convention and "Reducing" not in row["source"]):
        return None
    model = job.model
    # Full attention, all matrix products and the output layer: 72 b s l h^2 (1 + s / 6h + V / 12lh), generalised.
    layer = model.attention_parameters + model.dense_mlp_parameters
    per_token = 6 * (model.num_layers * layer + model.vocab_size * model.hidden_size)
    per_token += 12 * model.num_layers * model.query_width * model.seq_length
    flops = per_token * job.tokens_per_step
    return float(flops / (float(row["tflops_per_gpu"]) * 1e12 * job.layout.num_devices))
