"""Keep questions on disk until the rows of their windows are known."""

import json
from collections.abc import Sequence
from pathlib import Path

from data_tools.examples.encode import Unit
from data_tools.examples.example import Question
from trireme.shards.questions import ContextPlace, QuestionEntry, QuestionWindow, format_question


class QuestionSpool:
    """Append questions whose windows are the next units of an `ExampleSpool`, and write them with their places.

    Args:
        path: a file that does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream = path.open("w", encoding="utf-8")

    def add(self, question: Question, units: Sequence[Unit]) -> None:
        """Append a question with its windows."""
        contexts = [document.context for (document,) in units]
        answers = [text for _, text in question.answers]
        values = [question.id, question.question, question.context, answers, contexts]
        self._stream.write(json.dumps(values, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        """End appending."""
        self._stream.close()

    def write(self, path: Path, *, places: Sequence[tuple[int, int]]) -> None:
        """Write the questions.

        Args:
            places: row of each unit, and the position of its first token there.
        """
        unit = 0
        with self._path.open(encoding="utf-8") as source, path.open("w", encoding="utf-8") as target:
            for line in source:
                id_, question, context, answers, contexts = json.loads(line)
                windows = []
                for place in contexts:
                    row, token = places[unit]
                    windows.append(QuestionWindow(row, token, ContextPlace(*place)))
                    unit += 1
                target.write(
                    format_question(
                        QuestionEntry(
                            id=id_, question=question, context=context, answers=tuple(answers), windows=tuple(windows)
                        )
                    )
                )
        assert unit == len(places), "windows without a question"


def find_places(packed: Sequence[Sequence[int]], *, lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Return the row of each unit, and the position of its first token there.

    Args:
        packed: the units of each row.
        lengths: tokens of each unit.
    """
    places = [(0, 0)] * len(lengths)
    for row, units in enumerate(packed):
        token = 0
        for unit in units:
            places[unit] = row, token
            token += int(lengths[unit])
    return places
