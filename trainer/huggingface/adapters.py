"""Translate adapters to peft's names and shapes, and back. r: rank, p: parts of a fused layer.

Each layer that Hugging Face's model has is one adapted module of peft. Where several of our parts are rows of one such
layer (GPT-2's c_attn), its adapter has p times the rank, which peft calls a rank pattern; where our layer is fused and
Hugging Face's are separate, the parts are adapters of their own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainer.checkpoint.adapters import LowRankUpdate, SavedAdapters, find_parts
from trainer.config.lora import LoraConfig, LoraTarget
from trainer.config.model import ModelConfig
from trainer.huggingface.expert_adapters import (
    TARGET_PARAMETER_ENDS,
    Factors,
    FusedParameter,
    fuse,
    fused_parameter,
    own_columns,
    take_fused,
)
from trainer.huggingface.native_tensors import NativeTensor
from trainer.huggingface.tensor_map import TensorRule
from trireme.errors import ConfigError, Violation

PREFIX = "base_model.model."
_WEIGHT = ".weight"
_TASK_TYPES = {
    "lm": "CAUSAL_LM",
    "classification": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "question_answering": "QUESTION_ANS",
}
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_TARGETS: dict[str, LoraTarget] = {
    "self_attention.linear_qkv": "linear_qkv",
    "self_attention.linear_proj": "linear_proj",
    "self_attention.linear_q_proj": "linear_q_proj",
    "self_attention.linear_q_down_proj": "linear_q_down_proj",
    "self_attention.linear_q_up_proj": "linear_q_up_proj",
    "self_attention.linear_kv_down_proj": "linear_kv_down_proj",
    "self_attention.linear_kv_up_proj": "linear_kv_up_proj",
    "mlp.linear_fc1": "linear_fc1",
    "mlp.linear_fc2": "linear_fc2",
    "mlp.experts.experts.linear_fc1": "experts.linear_fc1",
    "mlp.experts.experts.linear_fc2": "experts.linear_fc2",
    "mlp.shared_experts.linear_fc1": "linear_fc1",
    "mlp.shared_experts.linear_fc2": "linear_fc2",
}
"""Names of `lora.target_modules`, by the name of a layer's tensor."""


@dataclass(frozen=True, kw_only=True)
class PeftAdapter:
    """Hold an adapter in peft's form."""

    config: Mapping[str, Any]
    """Of adapter_config.json."""
    tensors: Mapping[str, torch.Tensor]
    """Of adapter_model.safetensors, by name."""


def target_of(tensor: NativeTensor) -> LoraTarget | None:
    """Return the name in lora.target_modules of a layer's weight; None for other tensors."""
    return _TARGETS.get(tensor.name.removesuffix(_WEIGHT)) if tensor.name.endswith(_WEIGHT) else None


def to_peft(adapters: SavedAdapters, rules: Sequence[TensorRule], *, base_name: str) -> PeftAdapter:
    """Return the adapters of a checkpoint in peft's form.

    Args:
        adapters: of the checkpoint.
        rules: of every tensor of the model, in the family that its base is exported in.
        base_name: name or path of the base model, for base_model_name_or_path of adapter_config.json.
    Raises:
        ConfigError: experts have adapters in a family whose experts transformers does not fuse.
    """
    lora, model = adapters.lora, adapters.state.model_config()
    tensors: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    experts: dict[FusedParameter, list[LowRankUpdate]] = {}
    for rule in rules:
        if rule.tensor.key in adapters.whole:
            (segment,) = rule.segments
            shape = adapters.whole_shapes[rule.tensor.key]
            tensors[PREFIX + segment.name] = adapters.read_whole(rule.tensor.key).view(shape)
        if rule.tensor.key not in adapters.adapted:
            continue
        if rule.tensor.expert is not None:
            parameter = fused_parameter(rule)
            if parameter is None:
                raise ConfigError([_has_experts(adapters)])
            experts.setdefault(parameter, []).append(adapters.read(rule.tensor.key, rule.tensor.place))
            continue
        for module, (a, b) in _split(adapters, rule).items():
            tensors[f"{PREFIX}{module}.lora_A.weight"] = a
            tensors[f"{PREFIX}{module}.lora_B.weight"] = b
            ranks[module] = a.shape[0]
    others = {segment.name for rule in rules for segment in rule.segments} - {f"{module}{_WEIGHT}" for module in ranks}
    tensors |= {PREFIX + name: tensor for name, tensor in fuse(experts).items()}
    fused = {f"mlp.experts.{parameter.name}": updates[0].a.shape[0] for parameter, updates in experts.items()}
    further = {module: rank for module, rank in (ranks | fused).items() if rank != lora.rank}
    saved = sorted({_module_of(name.removeprefix(PREFIX)) for name in tensors if ".lora_" not in name})
    config = {
        "peft_type": "LORA",
        "task_type": _TASK_TYPES.get(model.head),
        "base_model_name_or_path": base_name,
        "r": lora.rank,
        "lora_alpha": _plain(lora.alpha),
        "lora_dropout": 0.0 if fused else lora.dropout,  # peft adapts parameters without dropout only
        "use_rslora": lora.use_rslora,
        "bias": "none",
        "fan_in_fan_out": any(rule.is_transposed for rule in rules),
        "inference_mode": True,
        "target_modules": _choose_names(sorted(ranks), [name.removesuffix(_WEIGHT) for name in others]),
        "target_parameters": sorted(fused) or None,
        "modules_to_save": [name.rpartition(".")[2] for name in saved] or None,
        "rank_pattern": further,
        # The scale of every module is the same, however high its rank.
        "alpha_pattern": {
            module: _plain(lora.scale * (math.sqrt(rank) if lora.use_rslora else rank))
            for module, rank in further.items()
        },
    }
    return PeftAdapter(config=config, tensors=tensors)


def _has_experts(adapters: SavedAdapters) -> Violation:
    return Violation(
        path="lora.target_modules",
        value=", ".join(adapters.lora.target_modules),
        message="contains layers of experts, which peft cannot adapt in this family",
        fix="Merge the adapters, or leave out --adapter: then the merged model is exported.",
    )


def _plain(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def _module_of(name: str) -> str:
    """Return the name of a module, of the name of its weight or bias."""
    return name.rpartition(".")[0]


def _split(adapters: SavedAdapters, rule: TensorRule) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return A [rank, input] and B [output, rank] of each Hugging Face layer that a weight consists of."""
    update = adapters.read(rule.tensor.key, rule.tensor.place)
    rank = adapters.lora.rank
    num_parts = update.a.shape[0] // rank
    part_of_row = find_parts(
        rule.tensor.key.removesuffix(_WEIGHT),
        adapters.state.model_config(),
        num_rows=update.b.shape[0],
        num_parts=num_parts,
    )
    found = {}
    for name in dict.fromkeys(segment.name for segment in rule.segments):
        segments = [segment for segment in rule.segments if segment.name == name]
        rows = torch.cat([torch.arange(one.row, one.row + one.num_rows) for one in segments])
        order = torch.cat([torch.arange(one.source_row, one.source_row + one.num_rows) for one in segments])
        columns = torch.cat([torch.arange(part * rank, part * rank + rank) for part in part_of_row[rows].unique()])
        b = torch.zeros(len(rows), len(columns))
        b[order] = update.b[rows][:, columns]
        found[name.removesuffix(_WEIGHT)] = update.a[columns].contiguous(), b
    return found


def _choose_names(modules: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return short names that match exactly these modules, as peft matches ends of names; else the whole names."""
    for shorten in (lambda name: name.rpartition(".")[2], _within_layer):
        short = sorted({shorten(name) for name in modules})
        if not any(other == name or other.endswith(f".{name}") for other in others for name in short):
            return short
    return list(modules)


def _within_layer(name: str) -> str:
    """Return what follows the number of the layer."""
    parts = name.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[-1] + 1 :]) if numbers else name


_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "use_dora": (False, None),
    "layers_pattern": (None, []),
    "trainable_token_indices": (None,),
    "layer_replication": (None,),
    "use_qalora": (False, None),
    "alora_invocation_tokens": (None,),
    "lora_bias": (False, None),
    "use_bdlora": (None, False),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
    "exclude_modules": (None, []),
}
"""Settings that change what an adapter computes, and the values with which they do not."""


def check_config(config: Mapping[str, Any]) -> list[Violation]:
    """Return every setting of an adapter_config.json that cannot be represented."""
    found = []
    if config.get("peft_type") != "LORA":
        message = "is not supported: adapters are of kind LORA"
        found.append(_violation("peft_type", config.get("peft_type"), message))
    for name, values in _DEFAULTS.items():
        if name in config and config[name] not in values:
            found.append(_violation(name, config[name], "is not supported"))
    parameters = config.get("target_parameters") or []
    known = isinstance(parameters, list) and all(str(one).endswith(TARGET_PARAMETER_ENDS) for one in parameters)
    if not known:
        message = "is not supported: parameters must be gate_up_proj or down_proj of experts"
        found.append(_violation("target_parameters", parameters, message))
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1:
        found.append(_violation("r", rank, "must be an integer of at least 1"))
    if not isinstance(alpha, int | float) or not alpha > 0:
        found.append(_violation("lora_alpha", alpha, "must be greater than 0"))
    return found


def _violation(name: str, value: Any, message: str) -> Violation:
    fix = "Merge the adapter with peft's merge_and_unload, and import the model."
    return Violation(path=f"{CONFIG_FILE}: {name}", value=value, message=message, fix=fix)


@dataclass(frozen=True, kw_only=True)
class NativeAdapter:
    """Hold an adapter in this project's form."""

    lora: LoraConfig
    tensors: Mapping[str, torch.Tensor]
    """By name in a checkpoint, with stacked layers."""


def from_peft(adapter: PeftAdapter, rules: Sequence[TensorRule], *, model: ModelConfig) -> NativeAdapter:
    """Return an adapter of peft in this project's form, with an A for every part of a fused layer.

    Modules of lower rank, and layers without an adapter, are padded with zeros, which training leaves at zero where a
    whole adapter is missing. Scales that differ between modules become factors of B.

    Args:
        adapter: its configuration has passed `check_config`.
        rules: of every tensor of the model.
        model: of the base checkpoint, with the head of the adapter.
    Raises:
        ConfigError: a tensor belongs to no layer that can have an adapter.
    """
    remaining = dict(adapter.tensors)
    found: dict[tuple[str, tuple[int, ...]], list[tuple[torch.Tensor, torch.Tensor, float] | None]] = {}
    by_key: dict[str, NativeTensor] = {}
    experts = take_fused(remaining, rules, prefix=PREFIX)
    whole: dict[str, torch.Tensor] = {}
    for rule in rules:
        if rule.tensor.name.startswith("head.") and len(rule.segments) == 1:
            value = _take_saved(remaining, rule.segments[0].name)
            if value is not None:
                whole[rule.tensor.key] = value.float().view(rule.tensor.shape)
        if target_of(rule.tensor) is None:
            continue
        parts = _take_parts(remaining, rule, adapter.config, model=model)
        parameter = fused_parameter(rule)
        if parameter is not None and rule.tensor.expert is not None:
            factors = experts.get((parameter, rule.tensor.expert))
            parts = parts if factors is None else _split_fused(factors, parameter, rule, adapter.config, model=model)
        if any(part is not None for part in parts):
            found[rule.tensor.key, rule.tensor.place] = parts
            by_key[rule.tensor.key] = rule.tensor
    if remaining:
        raise ConfigError([_unknown(name) for name in sorted(remaining)[:8]])
    if not by_key:
        message = "holds no adapter of a layer of the base model"
        raise ConfigError([Violation(path=WEIGHTS_FILE, value="", message=message, fix="Give the adapter's base.")])
    lora = _settings(adapter.config, found.values(), targets={target_of(tensor) for tensor in by_key.values()})
    tensors = dict(whole)
    # Every layer of a target gets an adapter, as the model has it.
    for rule in rules:
        if target_of(rule.tensor) in lora.target_modules:
            _place(tensors, rule.tensor, found.get((rule.tensor.key, rule.tensor.place), ()), lora=lora, model=model)
    return NativeAdapter(lora=lora, tensors=tensors)


def _unknown(name: str) -> Violation:
    message = "belongs to no layer of the base model that can have an adapter"
    fix = "Give the base that the adapter was trained on; adapters of embeddings and output layers must be"
    return Violation(path=name, value="", message=message, fix=f"{fix} merged with peft's merge_and_unload.")


def _take_saved(remaining: dict[str, torch.Tensor], name: str) -> torch.Tensor | None:
    """Take a tensor that peft stores whole."""
    module, _, kind = name.rpartition(".")
    for spelled in (f"{PREFIX}{name}", f"{PREFIX}{module}.modules_to_save.default.{kind}"):
        if spelled in remaining:
            return remaining.pop(spelled)
    return None


def _take_parts(
    remaining: dict[str, torch.Tensor], rule: TensorRule, config: Mapping[str, Any], *, model: ModelConfig
) -> list[tuple[torch.Tensor, torch.Tensor, float] | None]:
    """Take the adapters of a weight: for each of its parts A, B of all rows (zero elsewhere) and the scale."""
    num_parts = num_parts_of(rule.tensor, model)
    part_of_row = find_parts(
        rule.tensor.key.removesuffix(_WEIGHT), model, num_rows=rule.tensor.shape[0], num_parts=num_parts
    )
    parts: list[tuple[torch.Tensor, torch.Tensor, float] | None] = [None] * num_parts
    for name in dict.fromkeys(segment.name for segment in rule.segments):
        module = name.removesuffix(_WEIGHT)
        a = remaining.pop(f"{PREFIX}{module}.lora_A.weight", None)
        b = remaining.pop(f"{PREFIX}{module}.lora_B.weight", None)
        if a is None or b is None:
            continue
        segments = [segment for segment in rule.segments if segment.name == name]
        rows = torch.cat([torch.arange(one.row, one.row + one.num_rows) for one in segments])
        order = torch.cat([torch.arange(one.source_row, one.source_row + one.num_rows) for one in segments])
        if a.shape[1] != rule.tensor.shape[1] or b.shape != (len(rows), a.shape[0]):
            message = (
                f"has shapes {list(a.shape)} and {list(b.shape)}, which do not fit the layer {list(rule.tensor.shape)}"
            )
            raise ConfigError([Violation(path=module, value="", message=message, fix="Give the adapter's base.")])
        wide = torch.zeros(rule.tensor.shape[0], a.shape[0])
        wide[rows] = b.float()[order]
        for part in part_of_row[rows].unique().tolist():
            parts[part] = a.float(), wide * (part_of_row == part)[:, None], _scale_of(module, a.shape[0], config)
    return parts


def _split_fused(
    factors: Factors, parameter: FusedParameter, rule: TensorRule, config: Mapping[str, Any], *, model: ModelConfig
) -> list[tuple[torch.Tensor, torch.Tensor, float] | None]:
    """Return the parts of an expert's weight, as `_take_parts` does: gate and up of an adapter of both."""
    a, b = factors
    num_parts = num_parts_of(rule.tensor, model)
    name = rule.tensor.key.removesuffix(_WEIGHT)
    part_of_row = find_parts(name, model, num_rows=b.shape[0], num_parts=num_parts)
    scale = _scale_of(parameter.path, a.shape[0], config)
    parts: list[tuple[torch.Tensor, torch.Tensor, float] | None] = []
    for part in range(num_parts):
        is_of_part = part_of_row == part
        columns = own_columns(b, is_of_part, num_parts=num_parts)
        parts.append((a[columns], (b * is_of_part[:, None])[:, columns], scale))
    return parts


def num_parts_of(tensor: NativeTensor, model: ModelConfig) -> int:
    """Return the parts of a layer that have an A each."""
    if tensor.name.endswith("linear_qkv.weight"):
        return 3
    return 2 if tensor.name.endswith("linear_fc1.weight") and model.is_gated else 1


def _scale_of(module: str, rank: int, config: Mapping[str, Any]) -> float:
    alpha = float(config["lora_alpha"])
    for name, value in (config.get("alpha_pattern") or {}).items():
        if module == name or module.endswith(f".{name}"):
            alpha = float(value)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _settings(
    config: Mapping[str, Any],
    found: Any,
    *,
    targets: set[LoraTarget | None],
) -> LoraConfig:
    """Return settings with the highest rank, at which the scale of most modules stays as it is."""
    taken = [part for parts in found for part in parts if part is not None]
    rank = max(a.shape[0] for a, _, _ in taken)
    scales = [scale for _, _, scale in taken]
    scale = max(set(scales), key=scales.count)
    use_rslora = bool(config.get("use_rslora"))
    return LoraConfig(
        rank=rank,
        alpha=scale * (math.sqrt(rank) if use_rslora else rank),
        dropout=float(config.get("lora_dropout") or 0.0),
        use_rslora=use_rslora,
        target_modules=sorted(target for target in targets if target is not None),
    )


def _place(
    tensors: dict[str, torch.Tensor],
    tensor: NativeTensor,
    parts: Sequence[tuple[torch.Tensor, torch.Tensor, float] | None],
    *,
    lora: LoraConfig,
    model: ModelConfig,
) -> None:
    """Write the adapter of one layer into the stacked tensors, which begin as zeros."""
    num_parts, rank = num_parts_of(tensor, model), lora.rank
    name = tensor.key.removesuffix(_WEIGHT)
    rows, columns = tensor.shape
    a = tensors.setdefault(f"{name}.lora_a", torch.zeros(*tensor.stacked_shape, num_parts * rank, columns))
    b = tensors.setdefault(f"{name}.lora_b", torch.zeros(*tensor.stacked_shape, rows, rank))
    for index, part in enumerate(parts):
        if part is None:
            continue
        own_a, own_b, scale = part
        size = own_a.shape[0]
        a[tensor.place][index * rank : index * rank + size] = own_a
        b[tensor.place][:, :size] += own_b * (scale / lora.scale)
