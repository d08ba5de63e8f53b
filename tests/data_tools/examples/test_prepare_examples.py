"""`trireme prepare-examples`: formats, rows, splits, the report, and that nothing is written by halves."""

import contextlib
import fcntl
import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data_tools.commands import REPOSITORY, run_command, run_process
from tests.trireme.examples.small_tokenizers import CHATML, save_bert_tokenizer, save_byte_tokenizer
from trireme.examples.rows import check_rows
from trireme.shards.examples import (
    LABELS_SUFFIX,
    NO_LABEL,
    TOKEN_TYPES_SUFFIX,
    ExamplesRecord,
    decode_labels,
    decode_values,
    read_examples,
)
from trireme.shards.manifest import check_shard, read_manifest
from trireme.shards.shard import ShardReader
from trireme.tokenizer.tokenizer import Tokenizer

DIALOGS = [
    [("user", f"Question {number}{' why' * (number % 7)}?"), ("assistant", f"Answer {number}{' so' * (number % 5)}.")]
    for number in range(40)
]
MESSAGES = [[{"role": role, "content": text} for role, text in dialog] for dialog in DIALOGS]
SEQ_LENGTH = 256


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_byte_tokenizer(folder, pad_token="<|im_end|>")
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


def prepare(
    model: Path,
    path: Path | tuple[Path, ...],
    output: Path,
    *options: object,
    task: str = "sft",
    seq_length: int = SEQ_LENGTH,
) -> Any:
    paths = path if isinstance(path, tuple) else (path,)
    fixed = ("--task", task, "--input", *paths, "--tokenizer", model, "--output", output, "--seq-length", seq_length)
    done = run_command("data_tools.prepare_examples", *fixed, *options)
    assert done.returncode == 0, done.stderr
    return done


class Rows:
    """A shard of examples, read."""

    def __init__(self, prefix: Path) -> None:
        assert check_shard(prefix, verify="checksum") == []
        record = read_examples(prefix)
        assert record is not None
        self.record: ExamplesRecord = record
        reader = ShardReader(prefix)
        self.tokens = np.array(reader.tokens).reshape(reader.num_documents, record.seq_length)
        self.codes = np.array(ShardReader(f"{prefix}{LABELS_SUFFIX}").tokens).reshape(self.tokens.shape)
        self.labels, self.starts = decode_labels(self.codes)
        self.prefix = prefix

    def documents(self) -> list[tuple[list[int], list[int]]]:
        """Tokens and labels of all documents but padding."""
        found = []
        for tokens, labels, starts in zip(self.tokens, self.labels, self.starts, strict=True):
            borders = [*np.flatnonzero(starts).tolist(), len(tokens)]
            for begin, end in itertools.pairwise(borders):
                if (labels[begin:end] != NO_LABEL).any():
                    found.append((tokens[begin:end].tolist(), labels[begin:end].tolist()))
        return found


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def answers_of(rows: Rows, model: Path) -> list[str]:
    tokenizer = Tokenizer(model / "tokenizer.json")
    return sorted(tokenizer.decode([t for t in labels if t != NO_LABEL]) for _, labels in rows.documents())


@pytest.mark.parametrize("form", ["messages", "sharegpt", "alpaca", "completion", "array", "gzip", "parquet"])
def test_formats_of_conversations_give_the_same_answers(model: Path, tmp_path: Path, form: str) -> None:
    records = {
        "messages": [{"messages": messages} for messages in MESSAGES],
        "sharegpt": [
            {"conversations": [{"from": "human", "value": d[0][1]}, {"from": "gpt", "value": d[1][1]}]} for d in DIALOGS
        ],
        "alpaca": [{"instruction": d[0][1], "input": "", "output": d[1][1]} for d in DIALOGS],
        "completion": [{"prompt": messages[:1], "completion": messages[1:]} for messages in MESSAGES],
    }
    path = tmp_path / "examples"
    if form == "array":
        path.write_text(json.dumps(records["messages"], indent=2))
    elif form == "gzip":
        path.write_bytes(gzip.compress(write_lines(path, records["messages"]).read_bytes()))
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(records["messages"]), path)
    else:
        write_lines(path, records[form])
    prepare(model, path, tmp_path / "rows")
    rows = Rows(tmp_path / "rows")
    assert answers_of(rows, model) == sorted(dialog[1][1] for dialog in DIALOGS)
    assert rows.record.num_examples == len(DIALOGS)


def test_rows_report_and_manifest(model: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "chats.jsonl", [{"messages": messages} for messages in MESSAGES])
    bad = [{"messages": MESSAGES[0][:1]}, {"messages": [{"role": "narrator", "content": "x"}]}]
    bad_path = write_lines(
        tmp_path / "bad.jsonl", [*bad, {"messages": [*MESSAGES[0][:1], {"role": "assistant", "content": "y" * 300}]}]
    )
    done = prepare(model, (path, bad_path), tmp_path / "rows")
    rows = Rows(tmp_path / "rows")
    report = json.loads((tmp_path / "rows.report.json").read_text())
    assert report["rejected"] == {"no_target": 1, "unknown_role": 1, "too_long": 1}
    assert f"{bad_path}, line 2: message 1 has role 'narrator'" in done.stdout
    rejected = [json.loads(line) for line in (tmp_path / "rows.rejected.jsonl").read_text().splitlines()]
    assert [(Path(entry["file"]).name, entry["line"]) for entry in rejected] == [("bad.jsonl", n) for n in (1, 2, 3)]
    split = report["splits"]["train"]
    num_tokens = sum(len(tokens) for tokens, _ in rows.documents())
    assert split["num_tokens"] == num_tokens
    assert split["packing_efficiency"] == num_tokens / rows.tokens.size
    assert split["packing_gain"] == len(DIALOGS) / len(rows.tokens)
    assert split["packing_gain"] > 2  # documents have 60 to 110 tokens of 256
    assert split["num_targets"] == (rows.labels != NO_LABEL).sum()
    assert split["num_compared_answers"] == len(DIALOGS)
    assert set(split["faults"].values()) == {0}
    # The pad token of the tokenizer ends answers: another one fills rows up, and it is no target.
    tokenizer = Tokenizer(model / "tokenizer.json")
    assert rows.record.pad_token_id == tokenizer.bos_id
    assert rows.record.pad_token_id not in rows.labels
    assert "the tokenizer's pad_token <|im_end|> ends answers, and so is a target" in done.stdout
    manifest = read_manifest(tmp_path / "rows")
    assert manifest is not None
    assert set(manifest.files) == {".bin", ".idx", ".labels.bin", ".labels.idx"}
    assert check_rows(rows.tokens, rows.codes, record=rows.record, tokenizer=tokenizer) == []
    assert list(tmp_path.glob("*.partial")) + list(tmp_path.glob(".rows*")) == []
    # A damaged label is found as a damaged token is.
    content = bytearray((tmp_path / "rows.labels.bin").read_bytes())
    content[8] ^= 1
    (tmp_path / "rows.labels.bin").write_bytes(content)
    (violation,) = check_shard(tmp_path / "rows", verify="checksum")
    assert violation.path.endswith("rows.labels.bin")


def test_one_example_a_row_and_equal_input_gives_equal_files(model: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "chats.jsonl", [{"messages": messages} for messages in MESSAGES])
    prepare(model, path, tmp_path / "single", "--no-pack")
    rows = Rows(tmp_path / "single")
    assert len(rows.tokens) == len(DIALOGS)
    assert (rows.starts.sum(axis=1) == 2).all()  # the example and the padding
    prepare(model, path, tmp_path / "a" / "rows", "--num-workers", 1)
    prepare(model, path, tmp_path / "b" / "rows", "--num-workers", 2)
    for suffix in (".bin", ".idx", ".labels.bin", ".labels.idx"):
        assert (tmp_path / f"a/rows{suffix}").read_bytes() == (tmp_path / f"b/rows{suffix}").read_bytes()


def test_held_out_examples_are_disjoint_and_equal_ones_stay_together(model: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "chats.jsonl", [{"messages": messages} for messages in MESSAGES * 3])
    done = prepare(model, path, tmp_path / "rows", "--validation-share", 0.3)
    train, validation = Rows(tmp_path / "rows"), Rows(tmp_path / "rows.validation")
    learned, held_out = answers_of(train, model), answers_of(validation, model)
    assert sorted(learned + held_out) == sorted([dialog[1][1] for dialog in DIALOGS] * 3)
    assert held_out
    assert not set(learned) & set(held_out)
    assert "80 equal to an earlier one" in done.stdout
    again = write_lines(tmp_path / "validation.jsonl", [{"messages": messages} for messages in MESSAGES[:3]])
    prepare(model, path, tmp_path / "rows", "--validation", again, "--overwrite")
    assert len(Rows(tmp_path / "rows.validation").documents()) == 3
    # Without validation examples, those of the former preparation are gone.
    done = prepare(model, path, tmp_path / "rows", "--overwrite", "--drop-duplicates")
    assert f"{path}, line 41: equal to {path}, line 1\n" in done.stdout
    assert len(Rows(tmp_path / "rows").documents()) == len(DIALOGS)
    assert not (tmp_path / "rows.validation.bin").exists()


def test_nothing_is_overwritten_silently(model: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "chats.jsonl", [{"messages": messages} for messages in MESSAGES])
    prepare(model, path, tmp_path / "rows")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    fixed = ("--task", "sft", "--input", path, "--output", tmp_path / "rows", "--seq-length", 64)
    done = run_command("data_tools.prepare_examples", *fixed, "--tokenizer", model)
    assert done.returncode == 2
    assert "rows.bin already exists" in done.stderr
    other = save_bert_tokenizer(tmp_path / "other")
    done = run_command("data_tools.prepare_examples", *fixed, "--tokenizer", other, "--overwrite")
    assert done.returncode == 2
    assert "another tokenizer is in the directory" in done.stderr
    # No example fits: the former shard stays.
    fixed = (*fixed[:-1], 8)
    done = run_command("data_tools.prepare_examples", *fixed, "--tokenizer", model, "--overwrite")
    assert done.returncode == 2
    assert "no example is left to train on: too_long 40" in done.stderr
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before


def test_two_commands_do_not_prepare_one_prefix(model: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "chats.jsonl", [{"messages": messages} for messages in MESSAGES])
    work = tmp_path / ".rows.preparing"
    (work / "train").mkdir(parents=True)  # a killed command leaves this
    descriptor = os.open(work, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    fixed = ("--task", "sft", "--input", path, "--tokenizer", model, "--seq-length", SEQ_LENGTH)
    done = run_command("data_tools.prepare_examples", *fixed, "--output", tmp_path / "rows")
    assert done.returncode == 2
    assert "--output: another command is preparing it" in done.stderr
    os.close(descriptor)
    prepare(model, path, tmp_path / "rows")
    assert not work.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_stopped_command(model: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Workers would wait for work for ever, and keep a pipeline of shell commands open."""
    path = write_lines(tmp_path / "chats.jsonl", [{"messages": messages} for messages in MESSAGES] * 500)
    fixed = ("--task", "sft", "--input", path, "--tokenizer", model, "--seq-length", SEQ_LENGTH)
    command = [sys.executable, "-m", "data_tools.prepare_examples", *fixed, "--output", tmp_path / "rows"]
    process = subprocess.Popen(
        [*map(str, command), "--num-workers", "2"],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    spooled = tmp_path / ".rows.preparing" / "train" / "tokens"
    deadline = time.monotonic() + 60
    while not (spooled.exists() and spooled.stat().st_size):  # the workers have begun
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    try:
        process.communicate(timeout=20)  # until the last process has closed stderr
        assert process.returncode == (143 if number == signal.SIGTERM else -number)
        assert spooled.exists() == (number == signal.SIGKILL)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


KILLED_AT = """
import os, signal, sys
import data_tools.prepare_examples as command
import data_tools.examples.preparation as preparation
def dying(module, name, number):
    real, left = getattr(module, name), [number]
    def call(*arguments, **named):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return real(*arguments, **named)
    setattr(module, name, call)
name, number = sys.argv[1:3]
del sys.argv[1:3]
if name == "replace":
    real = preparation.finish_exchange
    preparation.finish_exchange = lambda *arguments: (dying(os, "replace", int(number)), real(*arguments))
else:
    dying(preparation, name, int(number))
sys.exit(command.main())
"""


@pytest.mark.parametrize(
    ("place", "is_decided"),
    [
        (("write_manifest", 1), False),  # the training rows are written, those for validation are not
        (("list_exchange", 0), False),
        (("finish_exchange", 0), True),
        (("replace", 0), True),  # the former files are removed
        (("replace", 7), True),  # those of training have their names, those of validation have not
    ],
)
def test_a_killed_replacement_is_the_former_set_or_the_new_one(
    model: Path, tmp_path: Path, place: tuple[str, int], is_decided: bool
) -> None:
    """Killed at any place: never rows of one set with the others of another, and nothing lost."""
    former = write_lines(tmp_path / "former.jsonl", [{"messages": messages} for messages in MESSAGES])
    new = write_lines(tmp_path / "new.jsonl", [{"messages": messages} for messages in MESSAGES[:20]])
    folder = tmp_path / "data"
    options = ("--task", "sft", "--tokenizer", model, "--seq-length", SEQ_LENGTH, "--output", folder / "rows")
    share = ("--validation-share", "0.3")

    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    done = run_command("data_tools.prepare_examples", *options, *share, "--input", new)
    assert done.returncode == 0, done.stderr
    after = contents()
    done = run_command("data_tools.prepare_examples", *options, *share, "--input", former, "--overwrite")
    assert done.returncode == 0, done.stderr
    before = contents()
    assert before.keys() == after.keys()
    killed = run_process(sys.executable, "-c", KILLED_AT, *place, *options, *share, "--input", new, "--overwrite")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    if not is_decided:
        assert contents() == before
    elif place[0] == "replace":
        # A reader refuses what is not complete.
        assert not (folder / "rows.manifest.json").exists()
        assert not (folder / "rows.validation.manifest.json").exists()
    # The next start finishes what was decided, even if it then refuses to replace it, and clears up.
    refused = run_command("data_tools.prepare_examples", *options, *share, "--input", former)
    assert refused.returncode == 2, refused.stderr
    assert "already exists" in refused.stderr
    assert contents() == (after if is_decided else before)
    done = run_command("data_tools.prepare_examples", *options, *share, "--input", former, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert contents() == before
    assert not (folder / ".rows.preparing").exists()


def test_completions_without_a_template_end_with_eos(tmp_path: Path) -> None:
    model = save_byte_tokenizer(tmp_path / "plain").parent
    path = write_lines(tmp_path / "a.jsonl", [{"instruction": "Add.", "input": "1 2", "output": "3"}])
    prepare(model, path, tmp_path / "rows", seq_length=512)
    ((tokens, labels),) = Rows(tmp_path / "rows").documents()
    tokenizer = Tokenizer(model / "tokenizer.json")
    assert [t for t in labels if t != NO_LABEL] == [tokenizer.token_id("3"), tokenizer.eos_id]
    assert "### Input:\n1 2\n\n### Response:\n3" in tokenizer.decode(tokens)
    chats = write_lines(tmp_path / "b.jsonl", [{"messages": MESSAGES[0]}])
    fixed = ("--task", "sft", "--input", chats, "--output", tmp_path / "chats", "--seq-length", 64)
    done = run_command("data_tools.prepare_examples", *fixed, "--tokenizer", model)
    assert done.returncode == 2
    assert "line 1: has messages, and the model has no chat template" in done.stderr


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert_tokenizer(tmp_path_factory.mktemp("bert")).parent


def test_classes_sets_of_classes_and_numbers(bert: Path, tmp_path: Path) -> None:
    path = tmp_path / "films.csv"
    path.write_text(
        'text,label,topics,score\n"Good, long",pos,"a,b",2.5\nBad film,neg,,-1\nThe film is good,pos,b,0.75\n'
    )
    done = prepare(bert, path, tmp_path / "one", task="classify", seq_length=16)
    assert "labels: pos 2, neg 1" in done.stdout
    rows = Rows(tmp_path / "one")
    assert rows.record.labels == ("neg", "pos")
    assert sorted(labels[0] for _, labels in rows.documents()) == [0, 1, 1]
    assert rows.record.pad_token_id == Tokenizer(bert / "tokenizer.json").token_id("[PAD]")
    prepare(
        bert, path, tmp_path / "set", "--target", "multi", "--label-column", "topics", task="classify", seq_length=16
    )
    rows = Rows(tmp_path / "set")
    assert rows.record.labels == ("a", "b")
    assert sorted(labels[0] for _, labels in rows.documents()) == [0b00, 0b10, 0b11]
    prepare(bert, path, tmp_path / "number", "--target", "value", task="classify", seq_length=16)
    rows = Rows(tmp_path / "number")
    assert rows.record.value_range == (-1.0, 2.5)
    found = decode_values(np.array([labels[0] for _, labels in rows.documents()]), value_range=rows.record.value_range)
    assert sorted(found.tolist()) == pytest.approx([-1, 0.75, 2.5], abs=1e-8)


def test_two_texts_have_token_types_beside_the_rows(bert: Path, tmp_path: Path) -> None:
    records = [{"sentence1": "good", "sentence2": "film is long", "label": n} for n in (1, 0)]
    path = write_lines(tmp_path / "pairs.jsonl", records)
    prepare(bert, path, tmp_path / "pairs", task="classify", seq_length=20)
    types = ShardReader(f"{tmp_path / 'pairs'}{TOKEN_TYPES_SUFFIX}").tokens.tolist()
    assert types == [0, 0, 0, 1, 1, 1, 1] * 2 + [0] * 6  # [CLS] good [SEP] film is long [SEP], twice, and padding
    manifest = read_manifest(tmp_path / "pairs")
    assert manifest is not None
    assert {".token_types.bin", ".token_types.idx"} <= set(manifest.files)


def test_tags_and_questions(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "tags.txt").write_text("John B-PER\nflows O\nin O\nBerlin B-LOC\n\nRhine B-LOC\nRiver I-LOC\n")
    prepare(bert, tmp_path / "tags.txt", tmp_path / "tags", task="tag", seq_length=16)
    rows = Rows(tmp_path / "tags")
    assert rows.record.labels == ("B-LOC", "B-PER", "I-LOC", "O")
    assert (rows.labels != NO_LABEL).sum() == 6
    context = "The river Rhine flows through Cologne and Bonn. It is long."
    asked = [
        {"id": "1", "question": "Which river?", "answers": [{"text": "Rhine", "answer_start": 10}]},
        {"id": "2", "question": "Who?", "answers": [], "is_impossible": True},
    ]
    content = {"data": [{"paragraphs": [{"context": context, "qas": asked}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(content))
    done = prepare(bert, tmp_path / "squad.json", tmp_path / "qa", task="qa", seq_length=32)
    assert "labels: answer 1, no answer 1" in done.stdout
    rows = Rows(tmp_path / "qa")
    tokenizer = Tokenizer(bert / "tokenizer.json")
    answers = [tokenizer.decode(tokens[labels[0] : labels[1] + 1]) for tokens, labels in rows.documents() if labels[1]]
    assert answers == ["rhine"]


def test_preferences_are_pairs_of_documents_in_one_row(model: Path, tmp_path: Path) -> None:
    records = [
        {"prompt": m[:1], "chosen": m[1:], "rejected": [{"role": "assistant", "content": "No."}]} for m in MESSAGES
    ]
    path = write_lines(tmp_path / "pairs.jsonl", records)
    done = prepare(model, path, tmp_path / "pairs", task="dpo", seq_length=512)
    rows = Rows(tmp_path / "pairs")
    assert rows.record.num_examples == len(MESSAGES)
    documents = rows.documents()
    assert len(documents) == 2 * len(MESSAGES)
    tokenizer = Tokenizer(model / "tokenizer.json")
    for (chosen, _), (rejected, _) in zip(documents[::2], documents[1::2], strict=True):
        said = [tokenizer.decode(tokens) for tokens in (chosen, rejected)]
        assert said[1].endswith("No.\n")
        assert said[0].split("assistant")[0] == said[1].split("assistant")[0]
    means = [np.mean([(np.array(labels) != NO_LABEL).sum() for _, labels in documents[first::2]]) for first in (0, 1)]
    assert f"targets of an answer on average: {means[0]:.1f} if chosen and {means[1]:.1f} if rejected" in done.stdout
    assert means[0] > means[1]
    for starts, tokens in zip(rows.starts, rows.tokens, strict=True):
        has_padding = tokens[-1] == rows.record.pad_token_id
        assert (starts.sum() - has_padding) % 2 == 0


def test_a_prompt_inside_the_answers_is_said_once(model: Path, tmp_path: Path) -> None:
    """UltraFeedback's records have the prompt as a text, and again in chosen and rejected."""
    (asked, answer), rejected = MESSAGES[0][:2], {"role": "assistant", "content": "No."}
    apart = {"prompt": [asked], "chosen": [answer], "rejected": [rejected]}
    for name, record in {
        "apart": apart,
        "text": {"prompt": asked["content"], "chosen": [asked, answer], "rejected": [asked, rejected]},
        "messages": {"prompt": [asked], "chosen": [asked, answer], "rejected": [asked, rejected]},
    }.items():
        path = write_lines(tmp_path / f"{name}.jsonl", [record])
        prepare(model, path, tmp_path / name, task="dpo", seq_length=512)
    found = [Rows(tmp_path / name) for name in ("apart", "text", "messages")]
    for other in found[1:]:
        np.testing.assert_array_equal(other.tokens, found[0].tokens)
        np.testing.assert_array_equal(other.codes, found[0].codes)


def test_duplicates_in_one_line_or_in_a_file_given_twice_are_dropped(bert: Path, tmp_path: Path) -> None:
    records = [{"text": "good", "label": "a"}, {"text": "good", "label": "a"}, {"text": "bad", "label": "b"}]
    path = tmp_path / "array.json"
    path.write_text(json.dumps(records))
    options = ("--input", path, path, "--drop-duplicates")
    done = prepare(bert, path, tmp_path / "rows", *options, task="classify", seq_length=16)
    assert "6 examples read, 4 rejected" in done.stdout
    assert Rows(tmp_path / "rows").record.num_examples == 2


def test_values_and_classes_of_any_size(bert: Path, tmp_path: Path) -> None:
    far = tmp_path / "far.csv"
    far.write_text("text,label\ngood,-1e308\nbad,1e308\n")
    fixed = ("--tokenizer", bert, "--seq-length", 16, "--output", tmp_path / "far")
    done = run_command("data_tools.prepare_examples", "--task", "classify", "--target", "value", "--input", far, *fixed)
    assert done.returncode == 2
    assert "labels: must not be as far apart as numbers can be (got -1e+308 to 1e+308)" in done.stderr
    long = "9" * 5000  # more digits than Python converts
    path = write_lines(tmp_path / "long.jsonl", [{"text": "good", "label": label} for label in (long, "10", "9")])
    prepare(bert, path, tmp_path / "long", task="classify", seq_length=16)
    assert Rows(tmp_path / "long").record.labels == ("9", "10", long)


def test_holding_out_everything_is_said(model: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "one.jsonl", [{"messages": MESSAGES[0]}])
    fixed = ("--tokenizer", model, "--seq-length", 256, "--output", tmp_path / "rows", "--validation-share", 0.999)
    done = run_command("data_tools.prepare_examples", "--task", "sft", "--input", path, *fixed)
    assert done.returncode == 2
    assert "every example that can be used is held out (1), none is for training" in done.stderr


def test_a_row_is_shown(model: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lines(
        tmp_path / "chats.jsonl",
        [{"messages": MESSAGES[0]}, {"messages": [*MESSAGES[1][:1], {"role": "assistant", "content": "a\x1b[2Jb"}]}],
    )
    prepare(model, path, tmp_path / "rows")
    done = run_command("data_tools.inspect", tmp_path / "rows", "--example", 0)
    assert done.returncode == 0, done.stderr
    assert "  1 row, 256 tokens (256)\n" in done.stdout
    assert "rows of 2 examples for task sft, 256 tokens each" in done.stdout
    shown = "<|im_start|>user\nQuestion 0?<|im_end|>\n<|im_start|>assistant\n[[Answer 0.<|im_end|>]]\n"
    assert shown in done.stdout
    assert "--- document 0, tokens 0 to " in done.stdout
    assert "tokens of padding" in done.stdout
    assert "[[a\\x1b[2Jb<|im_end|>]]" in done.stdout  # a text cannot command the terminal
    assert "\x1b" not in done.stdout
    monkeypatch.setattr("data_tools.inspect.may_color", lambda: True)
    done = run_command("data_tools.inspect", tmp_path / "rows", "--example", 0)
    assert "\x1b[1;32mAnswer 0.\x1b[0m\x1b[1;33m<|im_end|>\x1b[0m" in done.stdout
    missing = run_command("data_tools.inspect", tmp_path / "rows", "--example", 9)
    assert missing.returncode == 2
    assert "--example: no such row" in missing.stderr
    (tmp_path / "films.csv").write_text("text,label\ngood,pos\nbad,neg\n")
    prepare(bert, tmp_path / "films.csv", tmp_path / "films" / "rows", task="classify", seq_length=16)
    done = run_command("data_tools.inspect", tmp_path / "films" / "rows", "--example", 0)
    assert ", label pos\x1b[0m\n" in done.stdout and "row 0: the label is that of the whole document\n" in done.stdout


def test_the_columns_are_recorded_of_the_first_file_that_has_them(tmp_path: Path) -> None:
    """Else predictions would leave out the second texts."""
    skipped = write_lines(tmp_path / "a.jsonl", [{"field": 1}])
    pairs = [{"sentence1": f"a {number}", "sentence2": "b", "label": "xy"[number % 2]} for number in range(8)]
    options = ("--task", "classify", "--tokenizer", save_bert_tokenizer(tmp_path / "bert").parent, "--seq-length", 32)
    inputs = ("--input", skipped, write_lines(tmp_path / "b.jsonl", pairs), "--skip-invalid")
    done = run_command("data_tools.prepare_examples", *options, *inputs, "--output", tmp_path / "rows")
    assert done.returncode == 0, done.stderr
    record = read_examples(tmp_path / "rows")
    assert record is not None and record.texts is not None
    assert (record.texts.text_column, record.texts.second_column) == ("sentence1", "sentence2")


def test_files_with_and_without_second_texts_are_named(tmp_path: Path) -> None:
    """Half of the examples would be another task, and predictions read the columns of the first file."""
    pairs = [{"sentence1": f"a {number}", "sentence2": "b", "label": "xy"[number % 2]} for number in range(8)]
    singles = [{"sentence1": f"c {number}", "label": "xy"[number % 2]} for number in range(8)]
    files = [write_lines(tmp_path / "a.jsonl", pairs), write_lines(tmp_path / "b.jsonl", singles)]
    options = ("--task", "classify", "--tokenizer", save_bert_tokenizer(tmp_path / "bert").parent, "--seq-length", 32)
    for number, (first, second) in enumerate((files, files[::-1])):
        output = ("--input", first, second, "--output", tmp_path / f"rows{number}")
        done = run_command("data_tools.prepare_examples", *options, *output)
        assert done.returncode == 0, done.stderr
        kinds = ("single texts", "pairs (column sentence2)")[:: -1 if number else 1]
        assert f"{second} holds {kinds[0]}, and {first} {kinds[1]}, which predictions will expect" in done.stdout
    alone = run_command("data_tools.prepare_examples", *options, "--input", files[0], "--output", tmp_path / "rows")
    assert alone.returncode == 0 and "predictions will expect" not in alone.stdout
