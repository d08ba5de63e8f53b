"""Lines that stand in several documents: found across batches, in any number of passes, and removed by the command."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_tools.dedup.lines import LINES_NAME, BatchLines, find_repeated_lines, hash_lines, remove_lines
from data_tools.work.spool import SpoolWriter
from tests.data_tools.sample_inputs import make_text, run_prepare, sources_override, write_jsonl
from trireme.tokenizer.tokenizer import Tokenizer

NOTICE = "Subscribe to our newsletter now."


def test_what_is_alike() -> None:
    def hash_one(line: str) -> int:
        return int(hash_lines(line, min_characters=5)[0])

    assert hash_one("Posted on 12 May, 2019!") == hash_one("posted on 31 MAY 2020") != 0
    assert hash_one("Posted on 12 May") != hash_one("Posted on 12 June")
    assert hash_one("a - b") == hash_one("") == 0, "too short to be compared"
    assert len(hash_lines("a\n\nb", min_characters=1)) == 3


@pytest.mark.parametrize("lines_at_once", [2, 5, 1000])
def test_the_first_one_stays_whatever_the_number_of_passes(tmp_path: Path, lines_at_once: int) -> None:
    batches = [
        ["one long line\ntwo\none long line"],
        ["gone long line"],
        ["two\nother line", "one long line\ngone long line"],
    ]
    kept = [[True], [False], [True, True]]
    expected = [[False, False, True], [False], [False, False, True, False]]
    writer = SpoolWriter(tmp_path, spool="x", name=LINES_NAME)
    refs = [writer.append([hash_lines(text, min_characters=4) for text in texts]) for texts in batches]
    asked = [BatchLines(blob_ref=blob_ref, is_kept=np.array(flags)) for blob_ref, flags in zip(refs, kept, strict=True)]
    found = find_repeated_lines(tmp_path, asked, lines_at_once=lines_at_once)
    for bits, flags in zip(found, expected, strict=True):
        assert np.unpackbits(bits)[: len(flags)].astype(bool).tolist() == flags
    assert find_repeated_lines(tmp_path, []) == []


def test_removing_leaves_paragraphs() -> None:
    text = "A.\n\nMenu\n\nB.\nC."
    assert remove_lines(text, np.array([False, False, True, False, False, False])) == "A.\n\nB.\nC."
    assert remove_lines(text, np.zeros(6, bool)) == text
    assert remove_lines("x\ny", np.ones(2, bool)) == ""


def test_the_command_removes_them_in_all_files(tmp_path: Path) -> None:
    texts = [make_text(seed) + f"\n{NOTICE}" for seed in range(24)]
    only_repeated = texts[2]
    shuffled = "\n".join(reversed(only_repeated.split("\n")))
    files = [
        write_jsonl(tmp_path / "a.jsonl", ({"text": text} for text in texts[:12])),
        write_jsonl(tmp_path / "b.jsonl", ({"text": text, "id": "b"} for text in [*texts[12:], shuffled])),
    ]
    outputs = []
    for num_workers in (1, 3):
        output = tmp_path / f"data{num_workers}"
        done = run_prepare(
            sources_override(("jsonl", files)),
            f"data_prep.output_dir={output}",
            f"data_prep.num_workers={num_workers}",
            "data_prep.line_duplicates.is_enabled=true",
            "data_prep.split.validation_fraction=0.2",
            "data_prep.tokenizer.vocab_size=384",
            "data_prep.tokenizer.num_threads=1",
            "data_prep.batch_bytes=1500",
        )
        assert done.returncode == 0, done.stderr
        outputs.append(
            {path.name: path.read_bytes() for path in output.iterdir() if path.suffix in (".bin", ".parquet")}
        )
    assert outputs[0] == outputs[1]
    ledger = json.loads((output / "ledger.json").read_text(encoding="utf-8"))
    assert ledger["totals"]["dropped"] == {"repeated_lines": 1}
    tokenizer = Tokenizer(output / "tokenizer.model")
    shown = ""
    for split in ("train", "validation"):
        tokens = np.fromfile(output / f"{split}.bin", np.uint16)
        shown += tokenizer.decode(tokens.tolist())
    assert shown.count(NOTICE) == 1
    assert all(f"Item {seed} ends here." in shown for seed in range(24))
