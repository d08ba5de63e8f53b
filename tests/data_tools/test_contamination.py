"""`trireme contamination`: texts that occur in shards are found, by their words alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.shards import write_shard
from tests.train.small_run import run_command
from tests.trireme.examples.small_tokenizers import save_byte_tokenizer
from trireme.tokenizer.tokenizer import Tokenizer

SENTENCE = "The quick brown fox jumps over the lazy dog while seven small mice watch from the old wooden fence"
CHINESE = "春天来了小草从地里钻出来花园里开满了红色和黄色的花小鸟在树上唱歌"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("shards")
    tokenizer = Tokenizer(save_byte_tokenizer(place))
    texts = [
        "Nothing of interest is in this document, which has more than thirteen words and shares no run of them.",
        f"Before. {SENTENCE.upper()}! After.",
        f"一篇文章：{CHINESE}。",
        " ".join(SENTENCE.split()[:15]),
    ]
    write_shard(
        place / "train",
        [np.array([*tokenizer.encode(text), tokenizer.eos_id]) for text in texts],
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
    )
    rows = [
        {"question": SENTENCE, "choices": ["yes", "no"]},
        {"question": "A completely different question that has surely not been seen by anybody in any training set"},
        {"question": CHINESE},
        {"question": "Too short"},
    ]
    (place / "texts.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return place


def test_texts_in_the_shard_are_named_with_their_documents(folder: Path) -> None:
    done = run_command(
        "data_tools.contamination", str(folder / "train"), "--texts", str(folder / "texts.jsonl"), cwd=folder
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    counts = ("num_documents", "num_texts", "num_short_texts", "num_contaminated")
    assert [report[name] for name in counts] == [4, 3, 1, 2]
    chinese, english = sorted(report["texts"], key=lambda text: text["num_documents"])
    assert (chinese["line"], chinese["share_found"]) == (3, 1.0)
    assert [one["document"] for one in chinese["examples"]] == [2]
    # The words of the choices follow, so the runs that reach into them are not found: 19 words and 2 have 9 runs.
    assert (english["line"], english["share_found"]) == (1, pytest.approx(7 / 9))
    assert [(one["document"], one["num_ngrams"]) for one in english["examples"]] == [(1, 7), (3, 3)]


def test_wrong_input_is_named(folder: Path, tmp_path: Path) -> None:
    def refuse(*arguments: str) -> str:
        done = run_command("data_tools.contamination", str(folder / "train"), *arguments, cwd=folder)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        return done.stderr

    assert "--texts: cannot be read" in refuse("--texts", str(tmp_path / "none.txt"))
    (tmp_path / "bad.jsonl").write_text("{}\nnothing\n")
    assert "bad.jsonl, line 2: is no JSON" in refuse("--texts", str(tmp_path / "bad.jsonl"))
    # Python reads 990 levels, and has not enough left to walk through them.
    for depth in (990, 100_000):
        (tmp_path / "deep.jsonl").write_text("[" * depth + "]" * depth)
        assert "deep.jsonl, line 1: is no JSON that can be read: nested" in refuse(
            "--texts", str(tmp_path / "deep.jsonl")
        )
    twice = refuse(str(folder / "train.bin"), "--texts", str(folder / "texts.jsonl"))
    assert f"PREFIX: is listed twice (got {folder / 'train'})" in twice
    for name, content in (("empty.jsonl", ""), ("short.txt", "two words")):
        (tmp_path / name).write_text(content)
        assert "--texts: have no text of at least 13 words" in refuse("--texts", str(tmp_path / name))
    assert "--ngram-words: must be at least 1" in refuse("--texts", str(folder / "texts.jsonl"), "--ngram-words", "0")
