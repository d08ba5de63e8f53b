"""Documents that hold evaluation texts are dropped, and only those."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.config.filtering import DecontaminationConfig
from data_tools.config.schema import DataPrepConfig, SourceConfig
from data_tools.document import Document, DroppedError
from data_tools.errors import PreparationError
from data_tools.filters.decontamination import Decontaminator, read_evaluations
from data_tools.inputs.files import resolve_inputs
from data_tools.ledger import Ledger
from tests.data_tools.conftest import Prepared
from tests.data_tools.sample_inputs import make_text, run_prepare, sources_override, write_jsonl

QUESTION = "A train leaves the station at noon and travels at sixty miles per hour; when does it arrive in Boston?"
CHINESE = "一列火车中午离开车站，以每小时六十英里的速度行驶，请问它什么时候到达波士顿？"


def read(directory: Path, texts: list[str], **settings: int) -> tuple[DataPrepConfig, Any]:
    path = write_jsonl(directory / "evaluation.jsonl", ({"q": text} for text in texts))
    source = SourceConfig(name="quiz", kind="jsonl", paths=[str(path)], text_field="q")
    config = DataPrepConfig(
        output_dir="unused", sources=[], evaluations=[source], decontamination=DecontaminationConfig(**settings)
    )
    files, violations = resolve_inputs(config.evaluations, name="evaluations")
    assert not violations
    return config, read_evaluations(files, config)


def find(text: str, step: Decontaminator) -> str | None:
    """The detail for the ledger; None where the document stays."""
    try:
        step(Document(record=0, media_type="plain", content=b"", text=text), Ledger())
    except DroppedError as error:
        assert error.reason == "contaminated"
        return error.detail
    return None


def test_a_piece_is_found_whatever_its_case_and_punctuation(tmp_path: Path) -> None:
    config, evaluations = read(
        tmp_path, ["Nothing that is said in this text is said in any other one, ever.", QUESTION, CHINESE]
    )
    step = Decontaminator(config.decontamination, evaluations)
    words = QUESTION.split()
    assert find(f"Quiz. {QUESTION} Answer: six.", step) == "8 n-grams, the first of record 1 of quiz"
    assert find("so " + " -- ".join(words[3:16]).upper() + " so", step) == "1 n-grams, the first of record 1 of quiz"
    assert find("so " + " ".join(words[3:15]) + " so", step) is None, "twelve words only"
    assert find(" ".join(reversed(words)), step) is None
    assert find(f"An English text with {CHINESE[5:28]} in it.", step) == "2 n-grams, the first of record 2 of quiz"
    assert find(f"An English text with {CHINESE[5:24]} in it.", step) is None, "eighteen characters and a comma"
    assert find("", step) is None


@given(
    document=st.lists(st.sampled_from("abcd"), max_size=40),
    texts=st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=8), min_size=1, max_size=4),
    min_ngrams=st.integers(1, 3),
)
def test_what_is_found_is_what_plain_python_finds(
    tmp_path_factory: pytest.TempPathFactory, document: list[str], texts: list[list[str]], min_ngrams: int
) -> None:
    directory = tmp_path_factory.mktemp("texts")
    config, evaluations = read(directory, [" ".join(text) for text in texts], ngram_words=4, min_ngrams=min_ngrams)

    def ngrams(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + 4]) for i in range(len(words) - 3)}

    shared = ngrams(document) & set().union(*map(ngrams, texts))
    detail = find(" ".join(document), Decontaminator(config.decontamination, evaluations))
    assert (detail is not None) == (len(shared) >= min_ngrams)
    assert evaluations.num_short == sum(len(text) < 4 for text in texts)


def test_texts_that_cannot_be_used_stop_the_preparation(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "bad.jsonl", [{"q": QUESTION}, {"question": QUESTION}, "{"])
    source = SourceConfig(name="quiz", kind="jsonl", paths=[str(path)], text_field="q")
    config = DataPrepConfig(output_dir="unused", sources=[], evaluations=[source])
    with pytest.raises(PreparationError, match="2 records of this evaluation file .* record 1: json_text_missing"):
        read_evaluations(resolve_inputs([source])[0], config)
    assert read_evaluations([], config) is None


def test_contaminated_documents_are_in_the_ledger(prepared: Prepared, tmp_path: Path) -> None:
    texts = [make_text(seed) for seed in range(20)]
    texts[4] += f" {QUESTION}"
    file = write_jsonl(tmp_path / "texts.jsonl", ({"text": text, "title": f"t{n}"} for n, text in enumerate(texts)))
    quiz = write_jsonl(tmp_path / "quiz.jsonl", [{"q": QUESTION}, {"q": "Too short."}])
    output = tmp_path / "data"
    common = (
        sources_override(("jsonl", [file])),
        f"data_prep.tokenizer.path={prepared.output / 'tokenizer.model'}",
        f"data_prep.output_dir={output}",
        "data_prep.num_workers=1",
    )
    done = run_prepare(*common, f"data_prep.evaluations=[{{name:quiz,kind:jsonl,text_field:q,paths:[{quiz}]}}]")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 evaluation texts are shorter than one n-gram" in done.stderr
    ledger = json.loads((output / "ledger.json").read_text())
    assert ledger["totals"]["dropped"] == {"contaminated": 1}
    (example,) = ledger["files"][0]["examples"]
    assert (example["record"], example["name"]) == (4, "t4")
    assert "the first of record 0 of quiz" in example["detail"]
    wrong = run_prepare(*common, f"data_prep.evaluations=[{{name:quiz,kind:warc,paths:[{quiz},none.jsonl]}}]")
    assert wrong.returncode == 2
    rule = "not supported for evaluation texts (got warc). Use jsonl, parquet or text."
    assert f"data_prep.evaluations[0].kind: {rule}" in wrong.stderr
    assert "data_prep.evaluations[0].paths[1]: no such file (got none.jsonl)" in wrong.stderr
