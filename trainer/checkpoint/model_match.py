"""Whether a checkpoint's tensors mean to this model what they meant to the one that saved them."""

import dataclasses
from pathlib import Path
from typing import Any

from trainer.checkpoint.state import TrainerState
from trainer.config.model import ModelConfig
from trainer.config.moe import find_expert_width, find_moe_layers
from trireme.errors import Violation

_MAY_DIFFER = frozenset(
    {
        "hidden_dropout",
        "attention_dropout",
        "init_method_std",
        "transformer_impl",
        "torch_compile",
        # They change what the model computes, not what its tensors are; `describe_changes` tells.
        "rotary_base",
        "rope_scaling_factor",
        "norm_epsilon",
        "moe_router_topk",
        "moe_router_score_function",
        "moe_router_pre_softmax",
        "moe_router_topk_scaling_factor",
        "moe_router_dtype",
        # They change how experts are trained.
        "moe_router_load_balancing_type",
        "moe_aux_loss_coeff",
        "moe_z_loss_coeff",
        # Compared in another form below.
        "seq_length",
        "kv_channels",
        "vocab_size",
        "make_vocab_size_divisible_by",
        "moe_layer_freq",
        "moe_ffn_hidden_size",
    }
)
_CHANGE_RESULTS = (
    "rotary_base",
    "rope_scaling_factor",
    "norm_epsilon",
    "seq_length",
    "moe_router_topk",
    "moe_router_score_function",
    "moe_router_pre_softmax",
    "moe_router_topk_scaling_factor",
)


def check_model(
    model: ModelConfig, *, padded_vocab_size: int, state: TrainerState, checkpoint: Path
) -> list[Violation]:
    """Name every field in which a model differs from a checkpoint's so that it cannot take its tensors.

    A field that the checkpoint does not know had its default value when it was saved.
    """
    ours, theirs = _identity(model, padded_vocab_size), _identity(state.model_config(), state.padded_vocab_size)
    return [
        Violation(
            path=path,
            value=value,
            rule=f"differs from the checkpoint's {theirs[path]} ({checkpoint})",
            fix=f"use {theirs[path]} to go on with it, or another run_name to train another model",
        )
        for path, value in ours.items()
        if value != theirs.get(path, value)
    ]


def describe_changes(model: ModelConfig, *, state: TrainerState) -> list[str]:
    """Tell which allowed differences make the resumed model compute something else, for the log."""
    theirs = state.model_config()
    return [
        f"model.{name} was {getattr(theirs, name)} in the checkpoint and is {getattr(model, name)} now"
        for name in _CHANGE_RESULTS
        if getattr(theirs, name) != getattr(model, name)
    ]


def _identity(model: ModelConfig, padded_vocab_size: int) -> dict[str, Any]:
    """What must be equal, by the path that a user knows it by."""
    values = {
        f"model.{entry.name}": getattr(model, entry.name)
        for entry in dataclasses.fields(model)
        if entry.name not in _MAY_DIFFER
    }
    values["model.kv_channels"] = model.head_size
    values["padded_vocab_size"] = padded_vocab_size
    if model.num_moe_experts is not None:
        values["model.moe_layer_freq"] = [int(has_experts) for has_experts in find_moe_layers(model)]
        values["model.moe_ffn_hidden_size"] = find_expert_width(model)
    if model.position_embedding_type == "learned_absolute":
        values["model.seq_length"] = model.seq_length
    return values
