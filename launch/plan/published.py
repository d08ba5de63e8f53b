"""Published runs as jobs: the table's conventions, undone.

The table (data/published_throughput.README.md) mixes what its sources count and measure. Here every row becomes a `Job`
in the planner's own terms, with the measured seconds per step and bytes per device beside it, or a reason why it says
nothing that can be compared:

- Seconds per step, or tokens per second, are taken as they are. Where a source tells only TFLOP/s, they are turned back
  into seconds by the convention that the table names; without a named one the row's time is not compared.
- LoRA rows train no weights of the model. Models whose layers are not transformers (Mamba hybrids) have no shape here.
- What a source does not tell is filled in as `data/published_shapes.yaml` and `_LayoutNotes` say.
"""

import csv
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from launch.plan.frameworks import load_frameworks
from launch.plan.hardware import load_devices
from launch.plan.job import Framework, Job, Layout, Machine, ModelShape

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
    if not row["layers"] and _model_notes(row, extra) is None:
        return "shape of the model not published"
    if not row["mbs"]:
        return "micro batch size not published"
    return ""


def _model_notes(row: Mapping[str, str], extra: Mapping[str, Any]) -> dict[str, Any] | None:
    matches = [name for name in extra["models"] if row["model"].startswith(name)]
    return extra["models"][max(matches, key=len)] if matches else None


def _number(row: Mapping[str, str], key: str, default: float = 0.0) -> float:
    return float(row[key]) if row[key] else default


def _shape(row: Mapping[str, str], extra: Mapping[str, Any]) -> ModelShape:
    notes = _model_notes(row, extra) or {}
    hidden = notes.get("hidden_size") or _number(row, "hidden")
    heads = notes.get("num_attention_heads") or _number(row, "heads")
    layers = notes.get("num_layers") or _number(row, "layers")
    query = notes.get("query_width", hidden)
    key_value = notes.get("key_value_width") or 2 * hidden * (_number(row, "kv_heads", heads) / heads)
    ffn = notes.get("ffn_hidden_size") or _number(row, "ffn", 4 * hidden)
    experts = notes.get("num_experts", 0)
    old = row["framework"] == "Megatron-DeepSpeed" or "Reducing" in row["source"]
    return ModelShape(
        num_layers=layers,
        hidden_size=hidden,
        seq_length=_number(row, "seq"),
        vocab_size=notes.get("vocab_size") or _number(row, "vocab"),
        num_attention_heads=heads,
        query_width=query,
        key_value_width=key_value,
        attention_parameters=notes.get("attention_parameters", hidden * (2 * query + key_value)),
        ffn_hidden_size=0 if experts and "ffn_hidden_size" not in notes else ffn,
        num_mlp_matrices=notes.get("num_mlp_matrices") or (3 if row["gated_mlp"] == "1.0" else 2),
        is_tied=_is_tied(row),
        position_rows=0,
        dropout_masks=2 if old else 0,
        num_moe_layers=layers - notes.get("num_dense_layers", 0) if experts else 0,
        num_experts=experts,
        experts_per_token=notes.get("experts_per_token", 0),
        expert_width=notes.get("expert_width", 0),
        shared_width=notes.get("shared_width", 0),
    )


def _is_tied(row: Mapping[str, str]) -> float:
    """Whether the output layer shares the embedding: as GPT models do, and as the count of parameters tells."""
    if row["gated_mlp"] == "0.0":
        return float("Nemotron" not in row["model"])
    if not row["params_b"] or not row["ffn"]:
        return 0.0
    hidden, heads = _number(row, "hidden"), _number(row, "heads")
    layer = 2 * hidden**2 * (1 + _number(row, "kv_heads") / heads) + 3 * hidden * _number(row, "ffn")
    rest = _number(row, "params_b") * 1e9 - _number(row, "layers") * layer
    return float(rest < 1.5 * _number(row, "vocab") * hidden)


def _layout(row: Mapping[str, str], shape: ModelShape) -> Layout:
    tp, pp, cp, ep = (_number(row, key, 1) for key in ("tp", "pp", "cp", "ep"))
    dp = _number(row, "dp") or _number(row, "n_gpus") / (tp * pp * cp)
    mbs = _number(row, "mbs")
    framework = row["framework"]
    zero = _zero_stage(row)
    shards = {0: 1.0}.get(zero, dp * cp)
    if zero and row["shard_size"] and "dp x cp" not in row["shard"]:
        shards = _number(row, "shard_size")
    weight, gradient, state, extra, sharded = _state_bytes(row)
    vp = _number(row, "vp") or (shape.num_layers / pp if framework == "NeMo" and pp > 1 else 1)
    return Layout(
        tp=tp,
        pp=pp,
        vp=vp,
        cp=cp,
        ep=ep,
        etp=1.0,
        dp=dp,
        micro_batch_size=mbs,
        num_microbatches=_number(row, "grad_accum") or _number(row, "gbs") / (mbs * dp),
        sequence_parallel=float(tp > 1 and framework not in ("Megatron-DeepSpeed", "InternEvo")),
        recomputed_share=_recomputed_share(row),
        recomputes_core=float("Reducing" in row["source"]),
        zero_stage=zero,
        optimizer_shards=shards,
        weight_bytes=weight,
        gradient_bytes=gradient,
        optimizer_bytes=state,
        extra_unsharded_bytes=extra,
        sharded_gradient_bytes=sharded,
    )


def _zero_stage(row: Mapping[str, str]) -> int:
    shard = row["shard"]
    if "zero3" in shard or "hsdp" in shard:
        return 3
    if "zero2" in shard:
        return 2
    return 0 if shard in ("zero0", "none", "ddp(zero0)") else 1


def _state_bytes(row: Mapping[str, str]) -> tuple[float, float, float, float, float]:
    """Bytes per parameter: weights, gradients, optimizer state, unsharded extras, sharded fp32 gradients."""
    framework = row["framework"]
    if framework == "Megatron-DeepSpeed":
        # fp16: gradients in fp16, ZeRO-1 copies its part to fp32. BF16_Optimizer: fp32 gradients beside 16-bit ones.
        return (2, 2, 12, 0, 4) if row["precision"] == "FP16" else (2, 2, 12, 4, 0)
    if framework.startswith("NeMo AutoModel"):
        return 2, 4, 6, 0, 0  # moments in 16 bits, and the 16 bits that make fp32 weights of the others
    if framework == "InternEvo":
        return 2, 2, 12, 0, 4  # gradients in 16 bits, this rank's part copied to fp32
    if framework in ("torchtitan", "PyTorch FSDP (fms)"):
        return 2, 4, 10, 0, 0  # fp32 shards of weights, no 16-bit ones beside them: 4 + 4 + 8 in all
    if framework == "llm-foundry/Composer FSDP":
        pure = "PURE" in row["notes"]
        return (2, 2, 4, 0, 0) if pure else (2, 4, 10, 0, 0)
    return 2, 4, 12, 0, 0


def _recomputed_share(row: Mapping[str, str]) -> float:
    """Share of the forward pass that is computed again."""
    if row["recompute"] == "selective" and row["hfu_pct"]:
        # Hardware over model operations: 1 + share / 3.
        return min(max(3 * (float(row["hfu_pct"]) / float(row["mfu_pct"]) - 1), 0), 1)
    if row["recompute"] == "selective(layer)":
        return 0.5  # every second layer
    if row["recompute"] == "selective(op)":
        return 0.5  # every second matrix product, and all that lies between
    if row["recompute"] == "minimal_with_context":
        return 0.8  # all but attention's output
    if "moe" in row["recompute"]:
        return 0.8  # norms, routers and experts: most of a layer
    return float(row["recompute"].startswith("full"))


def _machine(row: Mapping[str, str], extra: Mapping[str, Any], number_format: str) -> Machine:
    device = load_devices()[DEVICES[row["gpu"]]]
    notes = extra["sources"][row["source"]]
    machine = device.machine(number_format=number_format)
    values = dict(vars(machine))
    factor = notes.get("flops", 1.0)
    values["flops"] *= factor
    values["attention_flops"] *= factor
    values["memory_bytes"] = (96 if "96GB" in row["notes"] else _number(row, "gpu_mem_gb")) * 2**30
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
    shape = _shape(row, extra)
    job = Job(
        model=shape,
        layout=_layout(row, shape),
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
