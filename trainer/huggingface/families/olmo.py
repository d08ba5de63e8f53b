"""Map OLMo 2: norms on the outputs of attention and MLP, and of all queries or keys of a token together."""

from typing import Any

from trainer.config.model import ModelConfig
from trainer.huggingface.config_json import ConfigReader
from trainer.huggingface.families.decoder import LAYER, decoder_names, read_decoder, write_decoder
from trainer.huggingface.families.family import Family, Fields
from trainer.huggingface.tensor_map import Names, Same


def _read(reader: ConfigReader) -> Fields:
    fields = read_decoder(reader, epsilon=1e-5, num_positions=2048)
    reader.must_be("attention_bias", False, reason="it would also give the output projection a bias")
    return fields | {"norm_placement": "branch", "qk_layernorm": True, "qk_layernorm_width": "all"}


def _write(model: ModelConfig) -> dict[str, Any]:
    keys = {**write_decoder(model), "attention_bias": False}
    del keys["head_dim"]
    return keys


def _names(model: ModelConfig) -> Names:
    return {
        **decoder_names(model),
        "post_self_attn_layernorm.weight": Same(name=LAYER + "post_attention_layernorm.weight"),
        "post_mlp_layernorm.weight": Same(name=LAYER + "post_feedforward_layernorm.weight"),
    }


OLMO2 = Family(model_type="olmo2", architecture="Olmo2ForCausalLM", names=_names, read=_read, write=_write)
