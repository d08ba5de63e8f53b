"""What a mixture of experts makes of a model's shape: which layers have experts, and how wide they are."""

from trainer.config.model import ModelConfig


def find_moe_layers(model: ModelConfig) -> list[bool]:
    """Whether each layer, from the first, has experts: `moe_layer_freq` repeated over the layers."""
    if model.num_moe_experts is None:
        return [False] * model.num_layers
    pattern = model.moe_layer_freq
    return [bool(pattern[layer % len(pattern)]) for layer in range(model.num_layers)]


def find_expert_width(model: ModelConfig) -> int:
    """Width inside one expert."""
    return model.ffn_hidden_size if model.moe_ffn_hidden_size is None else model.moe_ffn_hidden_size
