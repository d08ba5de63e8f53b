"""The model of the benchmarks on CPU."""

from trainer.config.model import ModelConfig

LLAMA_32M = ModelConfig(
    num_layers=8,
    hidden_size=512,
    ffn_hidden_size=1408,
    num_attention_heads=8,
    num_query_groups=4,
    seq_length=256,
    vocab_size=8192,
)
"""31,990,272 parameters; benchmarks that need other sequences replace seq_length."""
