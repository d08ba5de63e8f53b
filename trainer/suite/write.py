"""Write the evaluation suite: cloze, arithmetic, copying and agreement, in English and Chinese.

    python -m trainer.suite.write [DIRECTORY]

The files are the same on every machine. DIRECTORY is trainer/suite/tasks unless given.
"""

import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.suite import words
from trainer.suite.items import FOLDER

ITEMS_PER_TASK = 100
"""At most; the standard error of an accuracy of one half is then 0.05."""
_SEED = 18

Row = tuple[str, str, list[str]]
"""Context, right choice, wrong choices."""

_YAML = """\
# Written by `python -m trainer.suite.write`.
task: trireme_{name}
tag: trireme_suite
dataset_path: json
dataset_kwargs:
  data_files:
    test: {name}.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: "{delimiter}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


def main() -> int:
    """Write all files."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in build_files().items():
        (folder / name).write_text(content, encoding="utf-8")
    return 0


def build_files() -> dict[str, str]:
    """Return the content of every file of the suite, by name."""
    files = {}
    makers = {"cloze": _cloze, "arithmetic": _arithmetic, "copy": _copy, "agreement": _agreement}
    for task, make in makers.items():
        for language, delimiter in (("en", " "), ("zh", "")):
            name = f"{task}_{language}"
            # Of its own, so that a change of one task leaves the others as they are.
            draw = random.Random(f"{_SEED} {name}")
            rows = list(dict.fromkeys((row[0], row[1], tuple(row[2])) for row in make(language, draw)))
            if len(rows) > ITEMS_PER_TASK:
                rows = draw.sample(rows, ITEMS_PER_TASK)
            lines = [_line(context, right, wrong, delimiter=delimiter, draw=draw) for context, right, wrong in rows]
            files[f"{name}.jsonl"] = "".join(lines)
            files[f"{name}.yaml"] = _YAML.format(name=name, delimiter=delimiter)
    return files


def _line(context: str, right: str, wrong: Sequence[str], *, delimiter: str, draw: random.Random) -> str:
    choices = [right, *wrong]
    draw.shuffle(choices)
    item = {"context": context, "choices": choices, "answer": choices.index(right), "delimiter": delimiter}
    return json.dumps(item, ensure_ascii=False) + "\n"


def _cloze(language: str, draw: random.Random) -> Iterator[Row]:
    """A sentence of common knowledge; the wrong words are answers of the same kind."""
    for sentence, pairs in (words.CLOZE_EN if language == "en" else words.CLOZE_ZH).items():
        for given, answer in pairs:
            others = [other for first, other in pairs if other != answer and given not in (first, other)]
            yield sentence.format(given), answer, draw.sample(others, 3)


def _arithmetic(language: str, draw: random.Random) -> Iterator[Row]:
    """A sum, a difference or a product below 100, after two examples; the wrong numbers are near."""
    for _ in range(2 * ITEMS_PER_TASK):
        shown = [_problem(language, draw) for _ in range(2)]
        sentence, result = _problem(language, draw)
        near = [result + step for step in (-10, -2, -1, 1, 2, 10) if 0 <= result + step < 100]
        write = str if language == "en" else words.number_in_chinese
        end, gap = (". ", " ") if language == "en" else ("。", "")
        context = "".join(f"{problem}{gap}{write(value)}{end}" for problem, value in shown) + sentence
        yield context, write(result), [write(number) for number in draw.sample(near, 3)]


def _problem(language: str, draw: random.Random) -> tuple[str, int]:
    kind = draw.choice(("plus", "minus", "times"))
    if kind == "plus":
        first, second = draw.randrange(1, 50), draw.randrange(1, 50)
        result = first + second
    elif kind == "minus":
        first = draw.randrange(2, 100)
        second = draw.randrange(1, first)
        result = first - second
    else:
        first, second = draw.randrange(2, 10), draw.randrange(2, 10)
        result = first * second
    if language == "en":
        return f"{first} {kind} {second} is", result
    sign = {"plus": "加", "minus": "减", "times": "乘"}[kind]
    return f"{words.number_in_chinese(first)}{sign}{words.number_in_chinese(second)}等于", result


def _copy(language: str, draw: random.Random) -> Iterator[Row]:
    """A list that begins again; the wrong words are others of the list."""
    vocabulary = words.COPIED_EN if language == "en" else words.COPIED_ZH
    joint = " " if language == "en" else "、"
    for _ in range(ITEMS_PER_TASK):
        listed = draw.sample(vocabulary, draw.randrange(5, 9))
        place = draw.randrange(2, len(listed))
        others = [word for word in listed if word != listed[place]]
        # In Chinese the mark between the words belongs to the context.
        context = joint.join([*listed, *listed[:place]]) + ("" if language == "en" else joint)
        yield context, listed[place], draw.sample(others, 3)


def _agreement(language: str, draw: random.Random) -> Iterator[Row]:
    """English: subject and verb, with a noun of the other number between them. Chinese: measure word and noun."""
    if language == "zh":
        for frame in words.FRAMES_ZH:
            for measure, nouns in words.NOUNS_ZH.items():
                for noun in nouns:
                    other = draw.choice([key for key in words.NOUNS_ZH if noun not in words.NOUNS_ZH[key]])
                    yield frame, measure + noun, [other + noun]
        return
    for subject in words.SUBJECTS_EN:
        for attractor in words.ATTRACTORS_EN:
            for verb in words.VERBS_EN:
                number = draw.randrange(2)
                yield f"The {subject[number]} {attractor[1 - number]}", verb[number], [verb[1 - number]]


if __name__ == "__main__":
    sys.exit(main())
