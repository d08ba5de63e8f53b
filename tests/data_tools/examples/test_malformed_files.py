"""Malformed files: every bad line is named with file, line number and field; exit code 2; nothing is written."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data_tools.commands import run_command
from tests.trireme.examples.small_tokenizers import CHATML, save_byte_tokenizer

GOOD = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
ANSWER = {"role": "assistant", "content": "c"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_byte_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


def lines(*records: object) -> bytes:
    return "".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records).encode()


def squad(*answers: dict[str, object], question: object = "Which?") -> bytes:
    questions = [{"id": str(n), "question": question, "answers": [answer]} for n, answer in enumerate(answers)]
    return json.dumps({"data": [{"paragraphs": [{"context": "The Rhine.", "qas": questions}]}]}, indent=1).encode()


def message(**fields: object) -> dict[str, object]:
    return {"messages": [fields, GOOD["messages"][1]]}


CASES: dict[str, tuple[str, bytes, list[str]]] = {
    "invalid JSON": (
        "sft",
        lines(GOOD, '{"messages": [', GOOD, "nonsense"),
        ["line 2: must be JSON: Expecting value", "line 4: must be JSON"],
    ),
    "no object": ("sft", lines(GOOD, "[1]", "3"), ["line 2: must be a JSON object", "line 3: must be a JSON object"]),
    "missing and wrong fields": (
        "sft",
        lines(GOOD, message(role="user"), message(role="user", content=3), {"messages": "x"}, {"prompt": "a"}),
        [
            "line 2, field messages[0].content: is missing",
            "line 3, field messages[0].content: must be a text (got 3)",
            "line 4, field messages: must be a list (got x)",
            "line 5, field messages: is missing",
        ],
    ),
    "unknown fields": ("sft", lines({"question": "a"}), ["line 1: has none of the known sets of fields"]),
    "images": (
        "sft",
        lines(message(role="user", content=[{"type": "image_url"}])),
        ["line 1, field messages[0].content[0]: must be a part of type text"],
    ),
    "a JSON array that is cut off": (
        "sft",
        b"[\n" + lines(GOOD).strip() + b",\n" + lines(GOOD)[:20],
        ["line 3: must be JSON"],
    ),
    "another encoding": (
        "classify",
        "text,label\ngut,a\nschön,b\n".encode("latin-1"),
        ["line 3: must be UTF-8: byte 3 is 0xf6"],
    ),
    "another number of columns": (
        "classify",
        b'text,label\nx,a\na, b,c\n"d\ne",b\nf\n',
        ["line 3: has 3 columns, and the header has 2 (got a, b,c)", "line 6: has 1 columns"],
    ),
    "an open quote": ("classify", b'text,label\nx,a\n"y,b\nz,a\n', ["line 3: must be CSV: unexpected end of data"]),
    "no such column": ("classify", b"words,kind\nx,a\n", ["line 2, field text: there is no such column"]),
    "two columns of one name": ("classify", b"text,label,label\nx,a,b\n", ["line 1, field label: names two columns"]),
    "an empty label": (
        "classify",
        b"text,label\nx,a\ny,\nz, \n",
        ["line 3, field label: is missing", "line 4, field label: must be the name of a class"],
    ),
    "no number": (
        "value",
        b"text,score\nx,1.5\ny,good\nz,nan\n",
        ["line 3, field score: must be a finite number (got good)", "line 4, field score: must be a finite number"],
    ),
    "an unknown label": (
        "labels",
        b"text,label\nx,a\ny,c\n",
        ["line 3, field label: is none of the given labels (got c)"],
    ),
    "BIO without B": (
        "tag",
        b"John B-PER\nSmith I-LOC\n\nin O\nBonn I-LOC\n",
        ["line 2, field tag: continues an entity that no B-LOC began, after B-PER", "line 5, field tag: continues"],
    ),
    "columns of CoNLL": (
        "tag",
        b"John B-PER\nSmith\n\nBonn X B-LOC\n",
        ["line 2: has 1 columns", "line 4: has 3 columns"],
    ),
    "a column by name": (
        "column",
        b"John B-PER\n",
        ["line 1: --text-column must be the number of a column, 1 to 2 (got word)"],
    ),
    "words and tags": (
        "tag",
        lines({"tokens": ["a"], "tags": ["O"]}, {"tokens": ["a", "b"], "tags": ["O"]}, {"tokens": "a", "tags": ["O"]}),
        [
            "line 2, field tags: must have a tag for each of the 2 words",
            "line 3, field tokens: must be a list of texts",
        ],
    ),
    "an answer elsewhere": (
        "qa",
        squad({"text": "Rhine", "answer_start": 4}, {"text": "Rhine", "answer_start": 5}),
        [
            "field data[0].paragraphs[0].qas[1].answers[0].answer_start: the context has 'hine.' there, and the answer"
            " is 'Rhine' (got 5)"
        ],
    ),
    "no SQuAD": ("qa", lines({"data": [{"paragraphs": 3}]}), ["field data[0].paragraphs: must be a list (got 3)"]),
    "no question": ("qa", squad({"text": "Rhine", "answer_start": 4}, question=None), ["qas[0].question: is missing"]),
    "pairs": (
        "dpo",
        lines({"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b"}),
        ["line 2, field rejected: is missing"],
    ),
    "pairs without a prompt": (
        "dpo",
        lines({"chosen": GOOD["messages"], "rejected": [{"role": "user", "content": "x"}, GOOD["messages"][1]]}),
        ["line 1, field rejected: must be the same conversation as chosen but for the last message"],
    ),
    "half a character": (
        "classify",
        lines('{"text": "a \\ud83d", "label": "x"}', '{"text": "a \\ud83d\\ude00", "label": "x"}', '{"text": 1}'),
        [r"line 1: must be JSON: the escape \ud83d is half a character", "line 3, field text: must be a text"],
    ),
    "half a character in an array": (
        "classify",
        b'[{"text": "a", "label": "x"},\n{"text": "b", "label": "\\uDE00"}]',
        [r"line 2: must be JSON: the escape \ude00 is half a character"],
    ),
    "lists in lists": (
        "classify",
        lines('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", '{"text": "a", "label": 1.5}'),
        ["line 1: must be JSON: nested too deeply", "line 2, field label: must be the name of a class"],
    ),
    "line ends of old Macs": (
        "classify",
        b"text,label\rx,a\r",
        ["line 1: must be CSV: lines must end with LF or CR LF"],
    ),
    "sets of classes": (
        "multi",
        lines({"text": "a", "labels": ["x"]}, {"text": "b", "labels": {"x": True}}, {"text": "c", "labels": 0.5}),
        ["line 2, field labels: must be a list of classes", "line 3, field labels: must be a list of classes"],
    ),
    "a number without an end": (
        "value",
        lines({"text": "a", "score": 10**400}, {"text": "b", "score": 1}),
        ["line 1, field score: must be a finite number"],
    ),
    "a prompt of another conversation": (
        "dpo",
        lines({"prompt": "Other?", "chosen": GOOD["messages"], "rejected": [GOOD["messages"][0], ANSWER]}),
        ["line 1, field prompt: must be in the conversations of chosen and rejected"],
    ),
    "an empty file": ("sft", b"\n \n", ["examples.file: contains no examples"]),
    "damaged gzip": ("sft", gzip.compress(lines(GOOD) * 1000)[:60], ["examples.file: cannot be read"]),
    "damaged Parquet": ("classify", b"PAR1 and nothing else", ["line 1: cannot be read as Parquet"]),
}
OPTIONS = {
    "column": ("--task", "tag", "--text-column", "word"),
    "value": ("--task", "classify", "--target", "value"),
    "multi": ("--task", "classify", "--target", "multi"),
    "labels": ("--task", "classify", "--labels", "a", "b"),
}


@pytest.mark.parametrize("name", CASES)
def test_every_bad_line_is_named_and_nothing_is_written(model: Path, tmp_path: Path, name: str) -> None:
    task, content, said = CASES[name]
    path = tmp_path / "examples.file"
    path.write_bytes(content)
    output = tmp_path / "out" / "rows"
    options = OPTIONS.get(task, ("--task", task))
    fixed = ("--input", path, "--tokenizer", model, "--seq-length", 64, "--output", output)
    done = run_command("data_tools.prepare_examples", *options, *fixed)
    assert done.returncode == 2, done.stdout + done.stderr
    reported = [
        line for line in done.stderr.splitlines() if f"{path}" in line and line[:3].strip().rstrip(".").isdigit()
    ]
    assert len(reported) == len(said), done.stderr
    for words, line in zip(said, reported, strict=True):
        assert words in line
    assert not output.parent.exists()


def test_malformed_lines_are_counted_where_that_is_wanted(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(GOOD, "nonsense", message(role="user", content=3), GOOD))
    output = tmp_path / "rows"
    fixed = ("--input", path, "--tokenizer", model, "--seq-length", 64, "--output", output, "--skip-invalid")
    done = run_command("data_tools.prepare_examples", "--task", "sft", *fixed)
    assert done.returncode == 0, done.stderr
    assert "4 examples read, 2 rejected" in done.stdout
    rejected = [json.loads(line) for line in Path(f"{output}.rejected.jsonl").read_text().splitlines()]
    assert [(entry["line"], entry["reason"]) for entry in rejected] == [(2, "malformed"), (3, "malformed")]
    assert rejected[1]["detail"] == "field messages[0].content: must be a text"


def test_a_damaged_row_group_of_parquet_is_named(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"text {number} {'x' * 200}" for number in range(2000)]
    table = pa.table({"text": texts, "label": [str(n % 2) for n in range(2000)]})
    pq.write_table(table, path, row_group_size=1000, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[300_000:300_400] = b"\xff" * 400
    path.write_bytes(content)
    fixed = ("--input", path, "--tokenizer", model, "--seq-length", 64, "--output", tmp_path / "rows")
    done = run_command("data_tools.prepare_examples", "--task", "classify", *fixed)
    assert done.returncode == 2
    assert "cannot be read as Parquet" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seq-length", "4"), "--seq-length: must be at least 8 (got 4)"),
        (("--validation-share", "1"), "--validation-share: must be at least 0 and less than 1"),
        (("--format", "squad"), "--format: is no format of task sft (got squad)"),
        (("--input", "missing.jsonl"), "--input: no such file (got missing.jsonl)"),
        (("--tokenizer", "nowhere"), "--tokenizer: there is no tokenizer (got nowhere)"),
        (("--num-workers", "0"), "--num-workers: must be at least 1"),
    ],
)
def test_wrong_options(model: Path, tmp_path: Path, options: tuple[str, str], said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(GOOD))
    fixed = {"--task": "sft", "--input": path, "--tokenizer": model, "--seq-length": 64, "--output": tmp_path / "rows"}
    fixed[options[0]] = options[1]
    words = [word for pair in fixed.items() for word in pair]
    done = run_command("data_tools.prepare_examples", *words)
    assert done.returncode == 2
    assert said in done.stderr
