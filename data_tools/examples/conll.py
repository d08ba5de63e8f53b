"""Read tagged words in CoNLL's columns: a word a line, its tag in the last column, an empty line between sentences."""

from collections.abc import Iterator
from pathlib import Path

from data_tools.examples.columns import Columns, find_tag_problem
from data_tools.examples.example import BadLine, ReadExample, TaggedWords
from data_tools.examples.rows import decode_line, open_binary, skip_bom

_DOCUMENT_MARK = "-DOCSTART-"


def read_conll(path: Path, *, columns: Columns) -> Iterator[ReadExample | BadLine]:
    """Yield the sentences of a file; a sentence with a malformed line is not yielded.

    Columns are separated by tabs, or by spaces where a file has none. The word is in the first column, or in that with
    the number `columns.text`, and the tag in the last, or in that with the number `columns.label`, from 1. Lines that
    begin with `# ` before a sentence are comments.

    Raises:
        OSError: it cannot be read.
    """
    sentence = _Sentence()
    num_columns = None
    is_empty = True
    with open_binary(path) as stream:
        skip_bom(stream)
        for line, raw in enumerate(stream, start=1):
            text = decode_line(raw, line=line)
            if isinstance(text, BadLine):
                sentence.is_bad = True
                yield text
                continue
            if not text.strip() or text.startswith(_DOCUMENT_MARK):
                yield from sentence.finish()
                sentence = _Sentence()
                continue
            is_empty = False
            if not sentence.words and text.startswith("# "):
                continue
            cells = text.split("\t") if "\t" in text else text.split()
            if num_columns is None:
                num_columns = len(cells)
                if wrong := list(_check_columns(columns, num_columns, line=line)):
                    yield from wrong
                    return
            problem = _check_cells(cells, num_columns, line=line, text=text)
            problem = problem or sentence.add(cells, columns, line=line)
            if problem is not None:
                sentence.is_bad = True
                yield problem
    yield from sentence.finish()
    if is_empty:
        yield BadLine(line=0, field="", message="contains no examples", fix="Name a file with examples.")


def _check_columns(columns: Columns, num_columns: int, *, line: int) -> Iterator[BadLine]:
    """Find columns that are no number of a column."""
    for option, given in (("--text-column", columns.text), ("--label-column", columns.label)):
        if given is not None and not (given.isdecimal() and 1 <= int(given) <= num_columns):
            message = f"{option} must be the number of a column, 1 to {num_columns}"
            yield BadLine(line=line, field="", message=message, fix=f"Set {option} to a number.", value=given)


def _check_cells(cells: list[str], num_columns: int, *, line: int, text: str) -> BadLine | None:
    if len(cells) == num_columns and num_columns >= 2:
        return None
    first = "a word and a tag are needed" if num_columns < 2 else f"the first line has {num_columns}"
    fix = "Write a word and its tag in each line, and an empty line after each sentence."
    return BadLine(line=line, field="", message=f"has {len(cells)} columns, and {first}", fix=fix, value=text)


class _Sentence:
    def __init__(self) -> None:
        self.line = 0
        self.words: list[str] = []
        self.tags: list[str] = []
        self.is_bad = False

    def add(self, cells: list[str], columns: Columns, *, line: int) -> BadLine | None:
        self.line = self.line or line
        word, tag = cells[int(columns.text or 1) - 1], cells[int(columns.label or len(cells)) - 1]
        problem = find_tag_problem(tag, previous=self.tags[-1] if self.tags else "O")
        self.words.append(word)
        self.tags.append(tag)
        if not problem:
            return None
        return BadLine(line=line, field="tag", message=problem, fix="Begin each entity with B-.", value=tag)

    def finish(self) -> Iterator[ReadExample]:
        if self.words and not self.is_bad:
            yield ReadExample(line=self.line, example=TaggedWords(words=tuple(self.words), tags=tuple(self.tags)))
