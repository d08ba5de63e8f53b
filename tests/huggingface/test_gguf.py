"""GGUF files are imported with the weights, tokens and template that they hold, proved by transformers' own reading."""

from pathlib import Path
from typing import Any

import pytest
import torch

gguf = pytest.importorskip("gguf")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402 - gguf is optional

from tests.huggingface.gguf_model import write_gguf  # noqa: E402 - as above
from tests.huggingface.models import SMALL, randomize, transformers  # noqa: E402 - as above
from trainer.checkpoint.companions import read_generation_config  # noqa: E402 - as above
from trainer.checkpoint.tokenizer import find_tokenizer  # noqa: E402 - as above
from trainer.checkpoint.trainer_state import read_state  # noqa: E402 - as above
from trainer.huggingface.exporting import export_model  # noqa: E402 - as above
from trainer.huggingface.gguf_files import open_gguf  # noqa: E402 - as above
from trainer.huggingface.importing import import_model  # noqa: E402 - as above
from trainer.saved_run import open_saved_run  # noqa: E402 - as above
from trireme.errors import ConfigError  # noqa: E402 - as above
from trireme.tokenizer import tokenizer as own  # noqa: E402 - as above
from trireme.tokenizer.model_files import read_chat_template  # noqa: E402 - as above

KINDS = gguf.GGMLQuantizationType
TEXTS = ["Hello, world!  It's 1234 o'clock.", "naïve café 漢字 🙂\n\ttabs", "<|begin|> is text"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A byte-level tokenizer as GPT-2's, whose first tokens are special."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["hello world it is twelve o'clock in the world of hello"] * 20, trainer)
    return made


@pytest.fixture(scope="module")
def llama(tokenizer: Tokenizer) -> Any:
    sizes = SMALL | {"vocab_size": tokenizer.get_vocab_size(), "rms_norm_eps": 1e-5}
    return randomize(transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)))


def run_import(path: Path, tmp_path: Path, *, has_gate: bool) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return import_model(open_gguf(path, folder=folder), tmp_path / "run", has_gate=has_gate).checkpoint


def test_transformers_reads_the_same_model(llama: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """With transformers' own dequantization and order of rows; matrices of 8 bits are exact in both."""
    path = tmp_path / "model.gguf"
    write_gguf(path, llama, tokenizer, kind=KINDS.Q8_0)
    run_import(path, tmp_path, has_gate=True)


@pytest.mark.parametrize(("kind", "dtype"), [(KINDS.F32, torch.float32), (KINDS.BF16, torch.bfloat16)])
def test_weights_come_back_bit_for_bit(
    kind: Any, dtype: torch.dtype, llama: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, llama, tokenizer, kind=kind)
    checkpoint = run_import(path, tmp_path, has_gate=False)
    model = read_state(checkpoint).model_config()
    assert model.norm_epsilon == 1e-5, "the decimal number, not its rounding to fp32"
    export_model(open_saved_run(checkpoint, verify=True), tmp_path / "exported", has_gate=False)
    from safetensors.torch import load_file  # noqa: PLC0415 - used here only

    found = load_file(tmp_path / "exported" / "model.safetensors")
    expected = llama.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        rounded = value.to(dtype) if value.ndim == 2 else value
        assert torch.equal(found[name], rounded), name


def test_tokenizer_and_template(llama: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, llama, tokenizer, kind=KINDS.F16)
    checkpoint = run_import(path, tmp_path, has_gate=False)
    place = find_tokenizer(checkpoint)
    assert place is not None
    found = own.Tokenizer(place)
    assert (found.bos_id, found.eos_id, found.vocab_size) == (0, 1, tokenizer.get_vocab_size())
    for text in TEXTS:
        ids = found.encode(text)
        assert 0 not in ids, "text does not become a special token"
        tokenizer.encode_special_tokens = True
        assert ids == tokenizer.encode(text, add_special_tokens=False).ids
        assert found.decode(ids) == text
    assert found.encode_with_special("<|begin|>")[0] == 0
    assert read_chat_template(checkpoint) == "{{ messages[0].content }}"
    assert read_generation_config(checkpoint) == {"bos_token_id": 0, "eos_token_id": 1}


def test_what_is_not_supported_is_refused_by_name(llama: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, llama, tokenizer, kind=KINDS.F32, **{"rope.scaling.factor": 4.0, "attention.value_length": 8.0})
    with pytest.raises(ConfigError) as found:
        open_gguf(path, folder=tmp_path)
    assert {violation.path for violation in found.value.violations} == {
        "llama.rope.scaling.factor",
        "llama.attention.value_length",
    }
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match="cannot be read"):
        open_gguf(path, folder=tmp_path)
