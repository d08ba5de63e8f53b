"""Define a family of Hugging Face models, and compare models by what they compute."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.config.model import ModelConfig, find_expert_width, find_moe_layers, find_windows
from trainer.huggingface.config_json import ConfigReader
from trainer.huggingface.families.heads import TaskHeadForm, move_base
from trainer.huggingface.tensor_map import Names

Fields = dict[str, Any]
"""Fields of ModelConfig, by name."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Hold what one model_type of transformers means: its keys and its tensors, in both directions."""

    model_type: str
    """Of config.json."""
    architecture: str
    """Class of transformers with the language-model head."""
    names: Callable[[ModelConfig], Names]
    """Returns the family's tensors of a model that predicts tokens; `names_of` those of every model."""
    read: Callable[[ConfigReader], Fields]
    """Takes the model's fields from config.json; violations stay in the reader."""
    write: Callable[[ModelConfig], Fields]
    """Returns the keys of config.json that describe a model, as well as the family can."""
    base_prefix: str = "model."
    """Prefix of all tensors but the head's; checkpoints of the model without its head lack it."""
    unused_tensors: tuple[str, ...] = ()
    """Ends of tensor names that hold no weights: buffers that older versions saved."""
    tied_copy: str = "lm_head.weight"
    """Output layer that shares the embedding, of which some files contain a copy."""
    heads: Mapping[str, TaskHeadForm] = field(default_factory=dict)
    """Classes with a task's head, or with none, by `model.head`."""
    peft_moves_mlps: bool = False
    """Whether peft takes adapters of gate_proj, up_proj and down_proj for those of routed experts, which transformers
    fuses, and so leaves none to dense MLPs and shared experts. Source: peft 0.21,
    utils/transformers_weight_conversion.py (_convert_peft_config_moe)."""
    may_have_later_layers: bool = False
    """Whether checkpoints have layers after the last one, which predict further tokens and are not imported."""

    def names_of(self, model: ModelConfig) -> Names:
        """Return the family's tensors of a model, with those of its head."""
        names = self.names(model)
        form = self.heads.get(model.head)
        if form is None:
            return names
        body = {native: mapped for native, mapped in names.items() if not native.startswith(("head.", "output_layer."))}
        if form.base_prefix is not None:
            body = dict(move_base(body, self.base_prefix, form.base_prefix))
        return {**body, **form.names}

    def read_fields(self, reader: ConfigReader, *, head: str | None = None) -> Fields:
        """Take a model's fields from config.json; `head` names one of `heads`, None the family's own."""
        fields = self.read(reader)
        if head is None:
            return fields
        form = self.heads[head]
        own = {"head": head, "vocab_bias": False, **form.read(reader)}
        if head in ("classification", "token_classification"):
            own["num_labels"] = len(reader.labels())
        return fields | own


def config_of(
    family: Family, model: ModelConfig, *, vocab_size: int, labels: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the config.json of a model in a family, without token ids.

    Args:
        labels: names of the classes; None numbers them.
    """
    form = family.heads.get(model.head)
    content = {
        "architectures": [family.architecture if form is None else form.architecture],
        "model_type": family.model_type,
        "vocab_size": vocab_size,
        **family.write(model),
    }
    if form is not None:
        content |= form.write(model)
    if model.num_scores is not None:
        names = labels if labels else [f"LABEL_{number}" for number in range(model.num_scores)]
        content["id2label"] = {str(number): name for number, name in enumerate(names)}
        content["label2id"] = {name: number for number, name in enumerate(names)}
    return content


_TRAINING_ONLY = frozenset(
    {
        "seq_length",
        "init_method_std",
        "head_dropout",
        "hidden_dropout",
        "attention_dropout",
        "vocab_size",
        "make_vocab_size_divisible_by",
        "transformer_impl",
        "torch_compile",
        "moe_router_load_balancing_type",
        "moe_aux_loss_coeff",
        "moe_z_loss_coeff",
        "moe_router_bias_update_rate",
        # Transformers computes the router's softmax in fp32.
        "moe_router_dtype",
    }
)
_ROPE = ("rotary_base", "rotary_base_local", "rope_scaling_factor")
_SCALED = ("rope_scaling_type",)
_LLAMA3 = ("rope_low_freq_factor", "rope_high_freq_factor")
_YARN = (
    "yarn_beta_fast",
    "yarn_beta_slow",
    "yarn_attention_factor",
    "yarn_mscale",
    "yarn_mscale_all_dim",
)
_LATENT = ("q_lora_rank", "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim")


def computed_values(model: ModelConfig) -> dict[str, Any]:
    """Return what determines the logits of a model besides its weights, by field, in one form.

    Fields without effect are absent, and defaults are written out, so that two models are equal if and only if these
    values are.
    """
    values = {
        entry.name: getattr(model, entry.name)
        for entry in dataclasses.fields(model)
        if entry.name not in _TRAINING_ONLY
    }
    values["kv_channels"] = model.head_size
    values["add_qkv_bias"] = model.add_qkv_bias or model.add_bias_linear
    values["max_position_embeddings"] = model.num_positions
    windows = find_windows(model)
    del values["window_attn_skip_freq"]
    values["window_size"] = windows
    values.update(_moe_values(model))
    unused: list[str] = (
        [] if model.num_moe_experts is not None else [name for name in values if name.startswith("moe_")]
    )
    if not any(windows):
        unused.append("rotary_base_local")
    if model.position_embedding_type != "rope":
        unused += _ROPE
    is_scaled = model.position_embedding_type == "rope" and model.rope_scaling_factor is not None
    kind = model.rope_scaling_type if is_scaled else None
    unused += [] if is_scaled else _SCALED
    unused += [] if kind in ("llama3", "yarn") else ["rope_original_max_position_embeddings"]
    unused += [] if kind == "llama3" else _LLAMA3
    unused += [] if kind == "yarn" else _YARN
    unused += _unused_of_head(model)
    values["num_labels"] = model.num_scores
    unused += ["kv_channels"] if model.multi_latent_attention else _LATENT
    unused += [] if model.qk_layernorm else ["qk_layernorm_width"]
    return {name: value for name, value in values.items() if name not in unused}


def _unused_of_head(model: ModelConfig) -> list[str]:
    """Return the fields without effect beside a model's head."""
    unused = [] if model.head == "classification" else ["pooling"]
    if model.has_output_layer:
        return [*unused, "num_labels", "pooler", "head_bias"]
    # Whether a model without a task has a pooler is seen in its weights, not in config.json.
    unused += ["pooler", "head_bias"] if model.head == "none" else []
    return [*unused, "untie_embeddings_and_output_weights", "vocab_bias", "final_logit_softcapping"]


def _moe_values(model: ModelConfig) -> Mapping[str, Any]:
    """Return the fields of experts in one form."""
    if model.num_moe_experts is None:
        return {}
    layers = find_moe_layers(model)
    values: dict[str, Any] = {"moe_layer_freq": layers, "moe_ffn_hidden_size": find_expert_width(model)}
    if all(layers):
        values["ffn_hidden_size"] = None  # no layer has this width
    values["moe_router_topk_scaling_factor"] = model.moe_router_topk_scaling_factor or 1.0
    return values


def find_differences(one: ModelConfig, other: ModelConfig) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two models compute different things, with both values."""
    ours, theirs = computed_values(one), computed_values(other)
    return {
        name: (ours.get(name), theirs.get(name)) for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)
    }
