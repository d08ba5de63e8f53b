"""All problems of all shards at once, each with its place, rule and fix."""

import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.shards import make_documents, write_shard
from trainer.config.run import DataConfig, DatasetConfig
from trainer.data.checks import check_datasets


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"a tokenizer")
    return path


def _make(prefix: Path, *, tokenizer: Path | None = None, seed: int = 0, **manifest: Any) -> str:
    if tokenizer:
        manifest["tokenizer_sha256"] = hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    return str(write_shard(prefix, make_documents(num_tokens=2000, seed=seed), **manifest))


def _check(*train: str, validation: tuple[str, ...] = (), **changes: Any) -> list[str]:
    data = DataConfig(
        train=[DatasetConfig(paths=[path]) for path in train],
        validation=[DatasetConfig(paths=[path]) for path in validation],
        verify=changes.pop("verify", "size"),
    )
    settings = {"tokenizer_path": None, "seq_length": 16, "vocab_size": 1000, **changes}
    return [str(violation) for violation in check_datasets(data, **settings)]


@pytest.mark.parametrize("verify", ["none", "size", "checksum", "full"])
def test_good_shards(tmp_path: Path, tokenizer: Path, verify: str) -> None:
    shard = _make(tmp_path / "s", tokenizer=tokenizer, vocab_size=1000)
    assert _check(shard, validation=(shard,), verify=verify, tokenizer_path=str(tokenizer)) == []


def test_everything_at_once(tmp_path: Path, tokenizer: Path) -> None:
    cut, flipped = _make(tmp_path / "cut"), _make(tmp_path / "flipped", vocab_size=1000)
    os.truncate(f"{cut}.bin", 10)
    content = bytearray(Path(f"{flipped}.bin").read_bytes())
    content[7] ^= 4
    Path(f"{flipped}.bin").write_bytes(content)
    other = _make(tmp_path / "other", tokenizer_sha256="f" * 64, vocab_size=2000)
    messages = _check(
        cut, str(tmp_path / "gone"), flipped, validation=(other,), verify="checksum", tokenizer_path=str(tokenizer)
    )
    expected = [
        f"{cut}.bin: truncated",
        f"data.train[1].paths[0]: no such shard: neither its .bin nor its .idx file exists (got {tmp_path}/gone)",
        f"{flipped}.bin: corrupted: its manifest records sha256",
        f"{other}.manifest.json: names another tokenizer than tokenizer.path=",
        f"{other}.manifest.json: exceeds the model's vocabulary of 1000 tokens (got vocab_size 2000)",
    ]
    assert len(messages) == len(expected)
    for message, start in zip(messages, expected, strict=True):
        assert message.startswith(start)


def test_the_nearest_prefix_is_offered(tmp_path: Path) -> None:
    shard = _make(tmp_path / "wiki_train")
    _make(tmp_path / "other")
    (message,) = _check(str(tmp_path / "wiki_trian"))
    assert message == (
        f"data.train[0].paths[0]: no such shard: neither its .bin nor its .idx file exists"
        f" (got {tmp_path}/wiki_trian). Use {shard}."
    )


def test_patterns_are_not_expanded_but_shown(tmp_path: Path) -> None:
    shards = [_make(tmp_path / f"part.{i}") for i in range(5)]
    (message,) = _check(f"{tmp_path}/part.*")
    assert "patterns are not expanded" in message
    assert f"Use {shards[0]} or {shards[1]} or {shards[2]} (or 2 more)" in message


def test_other_wrong_prefixes(tmp_path: Path) -> None:
    shard = _make(tmp_path / "shards" / "s")
    cases = {
        f"{shard}.bin": f"must be the prefix of a shard, not one of its files (got {shard}.bin). Use {shard}.",
        f"{tmp_path}/shards": f"must be the prefix of a shard, not a directory (got {tmp_path}/shards). Use {shard}.",
        f"{tmp_path}/shards/zzz": f"Use {shard}.",
        f"{tmp_path}/nowhere/s": f"There is no directory {tmp_path}/nowhere.",
        f"{tmp_path}/s": f"{tmp_path} contains no shards",
    }
    messages = _check(*cases)
    assert len(messages) == len(cases)
    for message, expected in zip(messages, cases.values(), strict=True):
        assert expected in message


def test_one_of_the_two_files_is_missing(tmp_path: Path) -> None:
    shard = _make(tmp_path / "s")
    Path(f"{shard}.bin").unlink()
    (message,) = _check(shard)
    assert message.startswith(f"{shard}.bin: no such file")


def test_too_few_tokens_for_a_window(tmp_path: Path) -> None:
    shard = _make(tmp_path / "s")
    assert _check(shard, seq_length=1999) == []
    (message,) = _check(shard, validation=(), seq_length=2000)
    assert message.startswith("data.train[0]: is shorter than one window of model.seq_length=2000")
    assert "at most 1999" in message


def test_tokens_of_all_shards_of_a_data_set_count(tmp_path: Path) -> None:
    data = DataConfig(train=[DatasetConfig(paths=[_make(tmp_path / "a"), _make(tmp_path / "b")])])
    assert check_datasets(data, tokenizer_path=None, seq_length=3999, vocab_size=None) == []
    assert len(check_datasets(data, tokenizer_path=None, seq_length=4000, vocab_size=None)) == 1


def test_shards_without_manifest_are_allowed_and_noted(
    tmp_path: Path, tokenizer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard = str(write_shard(tmp_path / "s", make_documents(num_tokens=100)))
    with caplog.at_level(logging.INFO):
        assert _check(shard, tokenizer_path=str(tokenizer), verify="checksum") == []
    assert "1 shard without a manifest" in caplog.text and shard in caplog.text and "sampled" not in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert _check(shard, str(write_shard(tmp_path / "t", make_documents(num_tokens=100)))) == []
    assert "2 shards without a manifest" in caplog.text
    assert "token ids are sampled (data.verify=full reads them all)" in caplog.text


def _write_with_bad_id(prefix: Path, *, num_tokens: int, at: int, **manifest: Any) -> str:
    tokens = np.zeros(num_tokens, dtype=np.uint16)
    tokens[at] = 1000
    return str(write_shard(prefix, [tokens], **manifest))


@pytest.mark.parametrize("group", ["train", "validation"])
def test_ids_that_no_manifest_vouches_for_are_looked_at(tmp_path: Path, group: str) -> None:
    good = _make(tmp_path / "good")
    shards = {
        "a small shard": _write_with_bad_id(tmp_path / "small", num_tokens=260_000, at=123_457),
        "the end of a large one": _write_with_bad_id(tmp_path / "end", num_tokens=300_000, at=299_999),
        "a manifest that is silent": _write_with_bad_id(tmp_path / "silent", num_tokens=90, at=3, with_manifest=True),
    }
    for what, shard in shards.items():
        train, validation = ((shard,), ()) if group == "train" else ((good,), (shard,))
        (message,) = _check(*train, validation=validation)
        assert message.startswith(f"{shard}.bin: token "), what
        assert "is outside of the model's vocabulary of 1000 (got token id 1000)" in message
        assert _check(*train, validation=validation, verify="none") == []
        assert _check(*train, validation=validation, vocab_size=None) == []


def test_a_single_id_of_a_large_shard_takes_a_look_at_all(tmp_path: Path) -> None:
    # Between two of the pieces that are sampled.
    unknown = _write_with_bad_id(tmp_path / "unknown", num_tokens=1_000_000, at=20_000)
    vouched = _write_with_bad_id(tmp_path / "vouched", num_tokens=1000, at=20, vocab_size=1000)
    assert _check(unknown, validation=(vouched,), verify="size") == []
    (message,) = _check(unknown, validation=(vouched,), verify="checksum")
    assert message.startswith(f"{unknown}.bin: token 20000 is outside of the model's vocabulary")
    _, message = _check(unknown, validation=(vouched,), verify="full")
    assert message.startswith(f"{vouched}.bin: token 20 is outside of the model's vocabulary of 1000")


def test_a_shard_of_training_and_validation_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shard, other = _make(tmp_path / "s", vocab_size=1000), _make(tmp_path / "other", seed=1)
    assert _check(shard, validation=(other,)) == []
    assert "is also used for training" not in caplog.text
    (tmp_path / "link").symlink_to(tmp_path)
    copy = str(tmp_path / "copy")
    for suffix in (".bin", ".idx", ".manifest.json"):
        shutil.copy(f"{shard}{suffix}", f"{copy}{suffix}")
    for name in (shard, f"{tmp_path}/link/s", copy):
        caplog.clear()
        assert _check(other, shard, validation=(name,)) == []
        assert (
            f"data.validation[0].paths[0]={name} is also used for training (data.train[1].paths[0]={shard})"
            in caplog.text
        )
    caplog.clear()
    assert _check(shard, shard, validation=(other, other)) == []
    assert "is also used for training" not in caplog.text


def test_a_larger_model_vocabulary_is_fine(tmp_path: Path) -> None:
    shard = _make(tmp_path / "s", vocab_size=1000)
    assert _check(shard, vocab_size=1024) == []
    assert _check(shard, vocab_size=None) == []
    assert len(_check(shard, vocab_size=999)) == 1


def test_damaged_manifest(tmp_path: Path) -> None:
    shard = _make(tmp_path / "s", vocab_size=1000)
    Path(f"{shard}.manifest.json").write_text("{}")
    for verify in ("none", "size"):
        (message,) = _check(shard, verify=verify)
        assert "must have manifest version" in message


def test_missing_tokenizer_file_is_left_to_the_tokenizer(tmp_path: Path) -> None:
    shard = _make(tmp_path / "s", tokenizer_sha256="f" * 64)
    assert _check(shard, tokenizer_path=str(tmp_path / "gone.model")) == []


def test_a_validation_set_that_nothing_was_held_out_for_is_not_the_training_set(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "train", make_documents(num_tokens=2000, vocab_size=64), with_manifest=True)
    data = DataConfig(
        train=[DatasetConfig(paths=[str(shard)])],
        validation=[DatasetConfig(paths=[str(tmp_path / "validation")])],
    )
    (violation,) = check_datasets(data, tokenizer_path=None, seq_length=16, vocab_size=64)
    assert "held out no document for validation: raise data_prep.split.validation_fraction" in violation.fix
    assert "train" not in violation.fix
