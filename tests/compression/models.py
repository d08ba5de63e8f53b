"""A tiny imported model with a tokenizer, and what its checkpoints hold."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.huggingface.models import SMALL, randomize, transformers
from trainer.checkpoint.trainer_state import read_state
from trainer.huggingface.importing import import_model, open_source
from trainer.huggingface.native_tensors import list_native_tensors
from trainer.huggingface.native_weights import NativeWeights
from trainer.huggingface.tensor_map import TensorRule

VOCAB_SIZE = 280


def make_tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = ["hello", "world", "twelve", "o'clock", "wonderful", "many", "merge", "where"]
    made.train_from_iterator([" ".join(words[i:] + words[:i]) for i in range(len(words))] * 5, trainer)
    return made


def make_model(tokenizer: Tokenizer) -> Any:
    sizes = SMALL | {"vocab_size": tokenizer.get_vocab_size(), "rms_norm_eps": 1e-5, "num_hidden_layers": 4}
    return randomize(transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, tie_word_embeddings=True)))


def make_run(folder: Path) -> Path:
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    model.save_pretrained(folder / "source")
    tokenizer.save(str(folder / "source" / "tokenizer.json"))
    import_model(open_source(folder / "source"), folder / "run", has_gate=False)
    return folder / "run"


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, by key and place."""
    state, weights = read_state(checkpoint), NativeWeights(checkpoint)
    tensors = list_native_tensors(state.model_config(), padded_vocab_size=state.padded_vocab_size)
    return {
        f"{one.key} {one.place}": weights.read(TensorRule(tensor=one, segments=()), 0, one.shape[0]) for one in tensors
    }
