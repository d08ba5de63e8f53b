"""Each planted fault of rows is caught by the check that is named for it; right rows pass all checks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.trireme.examples.small_tokenizers import CHATML, save_byte_tokenizer
from trireme.examples.chat import ConversationEncoder
from trireme.examples.document import EncodedDocument
from trireme.examples.rows import CHECKS, Expected, check_rows
from trireme.shards.examples import NO_LABEL, ExamplesRecord, Task, encode_labels
from trireme.tokenizer.chat_template import ChatTemplate
from trireme.tokenizer.tokenizer import Tokenizer

SEQ_LENGTH = 160
DIALOGS = [
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}],
    [{"role": "user", "content": "How much?"}, {"role": "assistant", "content": "Seven"}],
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(save_byte_tokenizer(tmp_path_factory.mktemp("tokenizer")))


class Row:
    """A row of documents and padding, which a test damages."""

    def __init__(self, documents: list[EncodedDocument], *, pad: int) -> None:
        self.tokens = np.full(SEQ_LENGTH, pad)
        self.labels = np.full(SEQ_LENGTH, NO_LABEL, np.int64)
        self.starts = np.zeros(SEQ_LENGTH, np.bool_)
        self.expected = [Expected(texts=document.texts) for document in documents]
        self.begins = []
        place = 0
        for document in documents:
            inside = slice(place, place + len(document))
            self.tokens[inside], self.labels[inside] = document.tokens, document.labels
            self.begins.append(place)
            place = inside.stop
        self.begins.append(place)
        self.starts[self.begins] = True

    def faults(self, tokenizer: Tokenizer, record: ExamplesRecord, *, compares: bool = True) -> set[str]:
        codes = encode_labels(self.labels, starts=self.starts)
        found = check_rows(
            self.tokens[None],
            codes[None],
            record=record,
            tokenizer=tokenizer,
            expected=[self.expected] if compares else None,
        )
        return {fault.check for fault in found}


def record_of(tokenizer: Tokenizer, task: Task = "sft") -> ExamplesRecord:
    pad = tokenizer.token_id("<s>")
    assert pad is not None
    labels = ("a", "b") if task in ("classify", "tag") else ()
    return ExamplesRecord(task=task, seq_length=SEQ_LENGTH, pad_token_id=pad, num_examples=2, labels=labels)


@pytest.fixture
def row(tokenizer: Tokenizer) -> Row:
    encoder = ConversationEncoder(tokenizer, ChatTemplate(CHATML, tokenizer=tokenizer))
    return Row([encoder.encode(dialog) for dialog in DIALOGS], pad=record_of(tokenizer).pad_token_id)


def mask_eos(row: Row, end: int) -> None:
    row.labels[row.labels == end] = NO_LABEL


def learn_the_user(row: Row, end: int) -> None:
    first = int(np.flatnonzero(row.labels != NO_LABEL)[0])
    row.labels[:first] = row.tokens[1 : first + 1]


def shift_labels(row: Row, end: int) -> None:
    row.labels = np.concatenate([row.labels[1:], [NO_LABEL]])


def cross_a_border(row: Row, end: int) -> None:
    row.labels[row.begins[1] - 1] = row.tokens[row.begins[1]]


def label_the_padding(row: Row, end: int) -> None:
    row.labels[row.begins[2] + 1] = row.tokens[row.begins[2] + 2]


def lose_a_document(row: Row, end: int) -> None:
    row.labels[: row.begins[1]] = NO_LABEL


def lose_the_first_start(row: Row, end: int) -> None:
    row.starts[0] = False


@pytest.mark.parametrize(
    ("plant", "check"),
    [
        (mask_eos, "end_token_is_target"),
        (learn_the_user, "targets_spell_the_answer"),
        (shift_labels, "target_is_next_token"),
        (cross_a_border, "target_is_next_token"),
        (label_the_padding, "padding_has_no_label"),
        (lose_a_document, "padding_has_no_label"),
        (lose_the_first_start, "row_begins_a_document"),
    ],
)
def test_a_planted_fault_is_named(
    tokenizer: Tokenizer, row: Row, plant: Callable[[Row, int], None], check: str
) -> None:
    end = tokenizer.token_id("<|im_end|>")
    assert end is not None
    assert row.faults(tokenizer, record_of(tokenizer)) == set()
    plant(row, end)
    assert check in row.faults(tokenizer, record_of(tokenizer))
    assert check in CHECKS


def test_a_cut_answer_may_lack_its_end_only_where_it_was_cut(tokenizer: Tokenizer, row: Row) -> None:
    end = tokenizer.token_id("<|im_end|>")
    last = int(np.flatnonzero(row.labels == end)[-1])
    row.labels[last] = NO_LABEL
    row.tokens[last + 1 : row.begins[2]] = record_of(tokenizer).pad_token_id
    row.starts[last + 1], row.starts[row.begins[2]] = True, False
    assert row.faults(tokenizer, record_of(tokenizer)) == {"end_token_is_target"}
    row.expected[-1] = Expected(is_truncated=True)
    assert row.faults(tokenizer, record_of(tokenizer)) == set()


def test_labels_of_other_tasks_have_their_places_and_ranges(tokenizer: Tokenizer) -> None:
    def document(**labels: int) -> EncodedDocument:
        values = np.full(8, NO_LABEL, np.int64)
        for place, label in labels.items():
            values[int(place[1:])] = label
        return EncodedDocument(tokens=np.arange(10, 18, dtype=np.int32), labels=values)

    cases: list[tuple[Task, dict[str, int], set[str]]] = [
        ("classify", {"t0": 1}, set()),
        ("classify", {"t1": 1}, {"label_is_at_its_place"}),
        ("classify", {"t0": 2}, {"label_is_in_range"}),
        ("tag", {"t1": 0, "t4": 1}, set()),
        ("tag", {"t1": 0, "t4": 2}, {"label_is_in_range"}),
        ("qa", {"t0": 3, "t1": 5}, set()),
        ("qa", {"t0": 0, "t1": 0}, set()),
        ("qa", {"t0": 3}, {"label_is_at_its_place"}),
        ("qa", {"t0": 5, "t1": 3}, {"label_is_in_range"}),
        ("qa", {"t0": 3, "t1": 8}, {"label_is_in_range"}),
    ]
    for task, labels, found in cases:
        record = record_of(tokenizer, task)
        row = Row([document(**labels)], pad=record.pad_token_id)
        assert row.faults(tokenizer, record, compares=False) == found, (task, labels)


def test_the_path_is_not_needed(tmp_path: Path, tokenizer: Tokenizer, row: Row) -> None:
    """Rows of a shard that another program wrote are checked too, but for the answers' text."""
    assert row.faults(tokenizer, record_of(tokenizer), compares=False) == set()
    learn_the_user(row, 0)
    assert row.faults(tokenizer, record_of(tokenizer), compares=False) == set()
