"""Whole preparations with a tokenizer.json, with special tokens and with balanced languages."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from data_tools.output.tables import find_documents
from data_tools.tokenizer.sample_texts import OWN_PROSE
from tests.data_tools.sample_inputs import make_text, run_inspect, run_prepare, sources_override, write_jsonl
from trainer.config.run import DataConfig, DatasetConfig
from trainer.data.checks import check_datasets
from trireme.shards.shard import ShardReader
from trireme.tokenizer.tokenizer import Tokenizer

TEXTS = [f"{make_text(seed)} <end> and </s>, spelled out: {seed}" for seed in range(60)]


def list_overrides(directory: Path, texts: list[str]) -> tuple[str, ...]:
    records = ({"text": text, "id": str(number)} for number, text in enumerate(texts))
    return (
        sources_override(("jsonl", [write_jsonl(directory / "texts.jsonl", records)])),
        "data_prep.split.validation_fraction=0.2",
        "data_prep.num_workers=1",
        "data_prep.tokenizer.num_threads=1",
    )


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE vocabulary whose documents end with <end>."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    model.train_from_iterator(
        TEXTS,
        tokenizers.trainers.BpeTrainer(
            vocab_size=500, show_progress=False, special_tokens=["<pad>", "<end>"], initial_alphabet=alphabet
        ),
    )
    path = tmp_path_factory.mktemp("given") / "tokenizer.json"
    model.save(str(path))
    return path


def test_a_given_tokenizer_json(given: Path, tmp_path: Path) -> None:
    output = tmp_path / "data"
    common = (
        *list_overrides(tmp_path, TEXTS),
        f"data_prep.output_dir={output}",
        f"data_prep.tokenizer.path={given}",
    )
    refused = run_prepare(*common)
    assert refused.returncode == 2
    assert "no end-of-document token found" in refused.stderr and "<pad>, <end>" in refused.stderr
    done = run_prepare(*common, 'data_prep.tokenizer.eos_token="<end>"')
    assert done.returncode == 0, done.stderr

    assert (output / "tokenizer.json").read_bytes() == given.read_bytes()
    library = tokenizers.Tokenizer.from_file(str(given))
    library.encode_special_tokens = True
    for prefix in (output / "train", output / "validation"):
        reader = ShardReader(prefix)
        for document in range(reader.num_documents):
            (number,) = [n for n in range(len(TEXTS)) if document in find_numbers(prefix, str(n))]
            assert reader.document(document).tolist() == [*library.encode(TEXTS[number]).ids, 1]
    assert ShardReader(output / "validation").num_documents > 0

    again = run_prepare(*common, 'data_prep.tokenizer.eos_token="<end>"')
    assert "Already up to date" in again.stdout
    other = run_prepare(*common, 'data_prep.tokenizer.eos_token="<pad>"')
    assert other.returncode == 2
    assert "contains a preparation with other inputs or settings" in other.stderr

    shown = run_inspect(output / "train", "--doc", 0, "--full")
    assert shown.returncode == 0, shown.stderr
    assert "<end> and </s>, spelled out: " in shown.stdout
    assert find_faults(output, tokenizer=output / "tokenizer.json") == []
    (tmp_path / "other.json").write_bytes(given.read_bytes().replace(b"<pad>", b"<fad>"))
    assert any("another tokenizer than" in fault for fault in find_faults(output, tokenizer=tmp_path / "other.json"))


def find_numbers(prefix: Path, identifier: str) -> list[int]:
    return find_documents(prefix.with_name(f"{prefix.name}.documents.parquet"), column="id", value=identifier)


def find_faults(output: Path, *, tokenizer: Path) -> list[str]:
    """What a training run would say of the shards."""
    data = DataConfig(train=[DatasetConfig(paths=[str(output / "train")])])
    vocab_size = Tokenizer(tokenizer).vocab_size
    return [str(v) for v in check_datasets(data, tokenizer_path=str(tokenizer), seq_length=8, vocab_size=vocab_size)]


def test_special_tokens_never_come_from_text(tmp_path: Path) -> None:
    texts = [f"{make_text(seed)} <|im_start|> is a marker, <|reserved_1|> too. === " for seed in range(60)]
    output = tmp_path / "data"
    done = run_prepare(
        *list_overrides(tmp_path, texts),
        f"data_prep.output_dir={output}",
        "data_prep.tokenizer.vocab_size=512",
        'data_prep.tokenizer.special_tokens=["<|im_start|>","<|im_end|>"]',
        'data_prep.tokenizer.user_defined_symbols=["==="]',
        "data_prep.tokenizer.num_reserved_tokens=4",
    )
    assert done.returncode == 0, done.stderr
    tokenizer = Tokenizer(output / "tokenizer.model")
    assert tokenizer.vocab_size == 512
    assert [tokenizer.token_name(token) for token in (3, 4, 5, 8, 9)] == [
        "<|im_start|>", "<|im_end|>", "<|reserved_0|>", "<|reserved_3|>", "==="
    ]  # fmt: skip
    counts = np.bincount(ShardReader(output / "train").tokens, minlength=512)
    assert not counts[3:9].any()
    assert counts[9] == counts[2] == ShardReader(output / "train").num_documents


def test_languages_can_be_balanced(tmp_path: Path) -> None:
    """Little Russian among much English: with exponent 0 its letters get pieces, without they are bytes."""
    russian = [f"{part} {number}" for number, part in enumerate(OWN_PROSE["ru"].split("\n\n") * 2)]
    texts = [*(make_text(seed) + OWN_PROSE["en"] for seed in range(60)), *russian]
    lengths = {}
    for exponent in (1.0, 0.0):
        output = tmp_path / str(exponent)
        done = run_prepare(
            *list_overrides(tmp_path, texts),
            f"data_prep.output_dir={output}",
            "data_prep.language.identify=true",
            "data_prep.tokenizer.vocab_size=512",
            "data_prep.tokenizer.character_coverage=0.99",
            "data_prep.tokenizer.sample_characters=12000",
            f"data_prep.tokenizer.sampling_exponent={exponent}",
        )
        assert done.returncode == 0, done.stderr
        assert json.loads((output / "stats.json").read_text())["vocab_size"] == 512
        lengths[exponent] = len(Tokenizer(output / "tokenizer.model").encode(OWN_PROSE["ru"]))
    assert lengths[0.0] < 0.7 * lengths[1.0]
