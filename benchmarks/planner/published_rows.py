"""Convert rows of the table of published runs to model shapes and layouts.

Everything is taken from the row, the source's documentation, or data/published_shapes.yaml; nothing is fitted.
"""

from collections.abc import Mapping
from typing import Any

from launch.plan.job import Layout, ModelShape

EXPERT_COLUMNS = ("num_experts", "experts_per_token", "expert_width", "shared_width", "num_dense_layers")
"""Optional columns for models with experts that are not in data/published_shapes.yaml."""


def model_notes(row: Mapping[str, str], extra: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the entry of a row's model in data/published_shapes.yaml; None if it has none."""
    matches = [name for name in extra["models"] if row["model"].startswith(name)]
    return extra["models"][max(matches, key=len)] if matches else None


def number_of(row: Mapping[str, str], key: str, default: float = 0.0) -> float:
    """Return a number of a row; the default if it is empty."""
    return float(row[key]) if row[key] else default


def shape_of_row(row: Mapping[str, str], extra: Mapping[str, Any]) -> ModelShape:
    """Return the shape of a row's model."""
    notes = model_notes(row, extra) or {}
    hidden = notes.get("hidden_size") or number_of(row, "hidden")
    heads = notes.get("num_attention_heads") or number_of(row, "heads")
    layers = notes.get("num_layers") or number_of(row, "layers")
    query = notes.get("query_width", hidden)
    key_value = notes.get("key_value_width") or 2 * hidden * (number_of(row, "kv_heads", heads) / heads)
    ffn = notes.get("ffn_hidden_size") or number_of(row, "ffn", 4 * hidden)
    known = {name: notes.get(name) or number_of(row, name) for name in EXPERT_COLUMNS}
    experts = known["num_experts"] if row["kind"] == "moe" or "num_experts" in notes else 0
    old = row["framework"] == "Megatron-DeepSpeed" or "Reducing" in row["source"]
    return ModelShape(
        num_layers=layers,
        hidden_size=hidden,
        seq_length=number_of(row, "seq"),
        vocab_size=notes.get("vocab_size") or number_of(row, "vocab"),
        num_attention_heads=heads,
        query_width=query,
        key_value_width=key_value,
        attention_parameters=notes.get("attention_parameters", hidden * (2 * query + key_value)),
        ffn_hidden_size=0 if experts and "ffn_hidden_size" not in notes else ffn,
        num_mlp_matrices=notes.get("num_mlp_matrices") or (3 if row["gated_mlp"] == "1.0" else 2),
        is_tied=_is_tied(row),
        # MPT's published parameter counts include position embeddings.
        position_rows=number_of(row, "seq") if row["model"].startswith("MPT") else 0,
        dropout_masks=2 if old else 0,
        num_moe_layers=layers - known["num_dense_layers"] if experts else 0,
        num_experts=experts,
        experts_per_token=known["experts_per_token"] if experts else 0,
        expert_width=known["expert_width"] if experts else 0,
        shared_width=known["shared_width"] if experts else 0,
    )


def _is_tied(row: Mapping[str, str]) -> float:
    """Return whether the output layer shares the embedding: as in GPT models, or by the number of parameters."""
    if row["gated_mlp"] == "0.0":
        return float("Nemotron" not in row["model"])
    if not row["params_b"] or not row["ffn"]:
        return 0.0
    hidden, heads = number_of(row, "hidden"), number_of(row, "heads")
    layer = 2 * hidden**2 * (1 + number_of(row, "kv_heads") / heads) + 3 * hidden * number_of(row, "ffn")
    rest = number_of(row, "params_b") * 1e9 - number_of(row, "layers") * layer
    return float(rest < 1.5 * number_of(row, "vocab") * hidden)


def layout_of_row(row: Mapping[str, str], shape: ModelShape) -> Layout:
    """Return the layout of a row, with the bytes per parameter that its framework stores."""
    tp, pp, cp, ep = (number_of(row, key, 1) for key in ("tp", "pp", "cp", "ep"))
    dp = number_of(row, "dp") or number_of(row, "n_gpus") / (tp * pp * cp)
    mbs = number_of(row, "mbs")
    framework = row["framework"]
    zero = _zero_stage(row)
    shards = {0: 1.0}.get(zero, dp * cp)
    if zero and row["shard_size"] and "dp x cp" not in row["shard"]:
        shards = number_of(row, "shard_size")
    weight, gradient, state, extra, sharded = _state_bytes(row)
    vp = number_of(row, "vp") or (shape.num_layers / pp if framework == "NeMo" and pp > 1 else 1)
    return Layout(
        tp=tp,
        pp=pp,
        vp=vp,
        cp=cp,
        ep=ep,
        etp=1.0,
        dp=dp,
        micro_batch_size=mbs,
        num_microbatches=number_of(row, "grad_accum") or number_of(row, "gbs") / (mbs * dp),
        sequence_parallel=float(tp > 1 and framework not in ("Megatron-DeepSpeed", "InternEvo")),
        recomputed_share=_recomputed_share(row, shape),
        dropped_share=_dropped_share(row, shape),
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
    """Return bytes per parameter: weights, gradients, optimizer state, unsharded extras, sharded fp32 gradients."""
    framework = row["framework"]
    if framework == "Megatron-DeepSpeed":
        # fp16: gradients in fp16, ZeRO-1 copies its shard to fp32. BF16_Optimizer: fp32 gradients and 16-bit ones.
        return (2, 2, 12, 0, 4) if row["precision"] == "FP16" else (2, 2, 12, 4, 0)
    if framework.startswith("NeMo AutoModel"):
        return 2, 4, 6, 0, 0  # moments in 16 bits, and the other 16 bits of fp32 weights
    if framework == "InternEvo":
        return 2, 2, 12, 0, 4  # gradients in 16 bits, this rank's shard copied to fp32
    if framework in ("torchtitan", "PyTorch FSDP (fms)"):
        return 2, 4, 10, 0, 0  # fp32 shards of weights without 16-bit copies: 4 + 4 + 8 in all
    if framework == "llm-foundry/Composer FSDP":
        pure = "PURE" in row["notes"]
        return (2, 2, 4, 0, 0) if pure else (2, 4, 10, 0, 0)
    if framework in ("Megatron-Bridge", "NeMo/Megatron-Core"):
        return 2, 2, 12, 0, 4  # performance recipes: grad_reduce_in_fp32=False, this rank's shard copied to fp32
    return 2, 4, 12, 0, 0


def _recomputed_share(row: Mapping[str, str], shape: ModelShape) -> float:
    """Return the share of the forward pass that is recomputed."""
    if row["recompute"] == "selective" and row["hfu_pct"] and row["mfu_pct"]:
        # Hardware FLOPs over model FLOPs are 1 + share / 3.
        return min(max(3 * (float(row["hfu_pct"]) / float(row["mfu_pct"]) - 1), 0), 1)
    if row["recompute"] == "selective(layer)":
        return 0.5  # every second layer
    if row["recompute"] == "selective(op)":
        return 0.5  # every second matrix product, and everything between them
    if row["recompute"] == "minimal_with_context":
        return 0.8  # everything except the attention output
    if "moe" in row["recompute"]:
        # Norms, routers and experts, but not attention; multiplications per token, of the causal half of the scores.
        experts = shape.experts_per_token * shape.parameters_of_expert + shape.shared_mlp_parameters
        return float(experts / (experts + shape.attention_parameters + shape.seq_length * shape.query_width))
    return float(row["recompute"].startswith("full"))


def _dropped_share(row: Mapping[str, str], shape: ModelShape) -> float:
    """Return the share of a layer's activations that is not kept."""
    return 0.8 if "moe" in row["recompute"] else _recomputed_share(row, shape)
