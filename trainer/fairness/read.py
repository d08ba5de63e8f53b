"""Read items of bias measurements from files; the content decides the format.

Records are JSON lines, a JSON array, CSV, TSV or Parquet:

- `crows-pairs`: sent_more, sent_less; optional bias_type.
- `bbq`: context, question, ans0 to ans2, answer_info, label, context_condition; optional category, question_index, and
  what tells the biased answer: question_polarity with additional_metadata.stereotyped_groups, or `biased`, its number.
- `winobias`: sentence, pronoun, candidates, answer, stereotype (pro or anti); or WinoBias's own text, see
  `trainer.fairness.winobias`.
- `completions`: prompt, group; optional category.

All may have `language` (otherwise a text with Chinese characters is Chinese, any other English) and `cluster`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.examples.example import BadLine
from data_tools.examples.rows import read_rows
from trainer.fairness.items import ChoiceItem, CompletionItem, Item, ItemFile, Kind, PairItem, PronounItem
from trainer.fairness.winobias import looks_like_winobias, read_winobias
from trireme.errors import ConfigError, Violation, raise_if_any
from trireme.shards.manifest import hash_file

FOLDER = Path(__file__).with_name("data")
"""Sets that come with this project: NAME.jsonl."""
_MAX_ERRORS = 20
_FIELDS = {
    Kind.PAIRS: ("sent_more", "sent_less"),
    Kind.CHOICES: ("context", "question", "ans0", "ans1", "ans2", "answer_info", "label", "context_condition"),
    Kind.PRONOUNS: ("sentence", "pronoun", "candidates", "answer", "stereotype"),
    Kind.COMPLETIONS: ("prompt", "group"),
}
"""What records of each format must have."""
_CJK = re.compile("[\u4e00-\u9fff]")
_UNKNOWN = "unknown"
_SAME_GROUPS = (
    ("f", "female", "woman", "girl", "women"),
    ("m", "male", "man", "boy", "men"),
    ("trans", "transgender", "transgender women", "transgender men", "trans_f", "trans_m"),
)
"""Spellings of a group in BBQ's answers and metadata."""


class _BadRecord(ValueError):
    """Say what is wrong with a record."""


def shipped_sets() -> list[str]:
    """Return the names of the sets that come with this project."""
    return sorted(path.stem for path in FOLDER.glob("*.jsonl"))


def find_set(name: str) -> Path:
    """Return the file of a set: one that comes with this project, or a path."""
    return FOLDER / f"{name}.jsonl" if name in shipped_sets() else Path(name).expanduser()


def check_set(name: str, *, path: str) -> list[Violation]:
    """Report a name that is neither a shipped set nor a file."""
    if find_set(name).is_file():
        return []
    message = f"is neither a file nor a set that comes with Trireme ({', '.join(shipped_sets())})"
    return [Violation(path=path, value=name, message=message, fix="Name a file, or one of these sets.")]


def read_items(name: str, *, kind: Kind | None = None) -> ItemFile:
    """Read all items of a file.

    Args:
        name: of `shipped_sets`, or a path.
        kind: the format; None finds it.
    Raises:
        ConfigError: the file cannot be read, is of no known format, or has records without what they need; the first
            ones are named.
    """
    path = find_set(name)
    try:
        if kind in (None, Kind.PRONOUNS) and looks_like_winobias(path):
            pronouns, num_skipped = read_winobias(path)
            return ItemFile(
                name=name, sha256=hash_file(path), kind=Kind.PRONOUNS, items=pronouns, num_skipped=num_skipped
            )
        kind, items = _read_records(path, kind)
        return ItemFile(name=name, sha256=hash_file(path), kind=kind, items=items)
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise ConfigError([Violation(path="--data", value=path, message=message, fix="Name another file.")]) from error


def _read_records(path: Path, kind: Kind | None) -> tuple[Kind, list[Item]]:
    items: list[Item] = []
    found: list[Violation] = []
    for row in read_rows(path):
        if isinstance(row, BadLine):
            found.append(Violation(path=f"{path}:{row.line}", value="", message=row.message, fix=row.fix))
        else:
            kind = kind or _find_kind(path, row.values)
            try:
                items.append(_PARSERS[kind](row.values, row.line))
            except _BadRecord as error:
                fix = "Correct the record."
                found.append(Violation(path=f"{path}:{row.line}", value="", message=str(error), fix=fix))
        if len(found) == _MAX_ERRORS:
            break
    raise_if_any(found)
    if kind is None or not items:
        fix = "Name a file with records."
        raise ConfigError([Violation(path="--data", value=path, message="contains no items", fix=fix)])
    return kind, items


def _find_kind(path: Path, values: Mapping[str, Any]) -> Kind:
    for kind, names in _FIELDS.items():
        if all(name in values for name in names):
            return kind
    known = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in _FIELDS.items())
    message = f"has the fields {', '.join(values)}, which are those of no known format"
    raise ConfigError([Violation(path="--data", value=path, message=message, fix=f"Name fields as in {known}.")])


def _parse_pair(values: Mapping[str, Any], line: int) -> PairItem:
    more, less = _text(values, "sent_more"), _text(values, "sent_less")
    if more == less:
        raise _BadRecord("sent_more and sent_less are equal")
    return PairItem(
        more=more,
        less=less,
        category=str(values.get("bias_type") or "pairs"),
        cluster=_cluster(values, line),
        language=_language(values, more),
    )


def _parse_choice(values: Mapping[str, Any], line: int) -> ChoiceItem:
    answers = tuple(_text(values, f"ans{number}") for number in range(3))
    label = _number(values, "label", limit=3)
    condition = _text(values, "context_condition")
    if condition not in ("ambig", "disambig"):
        raise _BadRecord(f"context_condition must be ambig or disambig, not {condition}")
    groups = _groups_of_answers(values)
    unknown = [number for number, group in enumerate(groups) if group == _UNKNOWN]
    if len(unknown) != 1:
        raise _BadRecord('answer_info must give the group "unknown" to one answer: {"ans0": ["...", "unknown"], ...}')
    if condition == "ambig" and label != unknown[0]:
        raise _BadRecord('label of an ambiguous context must be the answer whose group is "unknown"')
    context = _text(values, "context")
    index = values.get("question_index")
    return ChoiceItem(
        context=context,
        question=_text(values, "question"),
        answers=answers,
        label=label,
        unknown=unknown[0],
        biased=_find_biased(values, groups),
        is_ambiguous=condition == "ambig",
        category=str(values.get("category") or "choices"),
        cluster=_cluster(values, line) if index is None else f"{values.get('category')} {index}",
        language=_language(values, context),
    )


def _groups_of_answers(values: Mapping[str, Any]) -> list[str]:
    """Return the group of each answer in small letters."""
    info = _object(values, "answer_info")
    groups = []
    for number in range(3):
        entry = info.get(f"ans{number}")
        if not isinstance(entry, Sequence) or isinstance(entry, str) or not entry:
            raise _BadRecord(f"answer_info must have a list for ans{number}")
        groups.append(str(entry[-1]).strip().lower())
    return groups


def _find_biased(values: Mapping[str, Any], groups: Sequence[str]) -> int | None:
    """Return the answer that the stereotype gives; None if the record does not tell.

    A question with negative polarity asks for the stereotyped group; one with the other polarity for its contrary.
    """
    if values.get("biased") is not None:
        return _number(values, "biased", limit=3)
    polarity = values.get("question_polarity")
    if polarity not in ("neg", "nonneg") or "additional_metadata" not in values:
        return None
    named = _object(values, "additional_metadata").get("stereotyped_groups")
    named = json.loads(named.replace("'", '"')) if isinstance(named, str) and named.startswith("[") else named
    stereotyped = {str(one).strip().lower() for one in (named if isinstance(named, list) else [named])}
    for spellings in _SAME_GROUPS:
        if stereotyped & set(spellings):
            stereotyped |= set(spellings)
    answered = [number for number, group in enumerate(groups) if group != _UNKNOWN]
    targets = [number for number in answered if groups[number] in stereotyped]
    if len(targets) != 1:
        return None
    (other,) = (number for number in answered if number != targets[0])
    return targets[0] if polarity == "neg" else other


def _parse_pronoun(values: Mapping[str, Any], line: int) -> PronounItem:
    sentence, pronoun = _text(values, "sentence"), _text(values, "pronoun")
    candidates = values["candidates"]
    if not isinstance(candidates, list) or len(candidates) != 2 or not all(isinstance(one, str) for one in candidates):
        raise _BadRecord("candidates must be two texts")
    if pronoun not in sentence:
        raise _BadRecord("sentence must contain the pronoun")
    stereotype = values["stereotype"]
    if stereotype not in ("pro", "anti"):
        raise _BadRecord(f"stereotype must be pro or anti, not {stereotype}")
    return PronounItem(
        sentence=sentence,
        pronoun=pronoun,
        candidates=(candidates[0], candidates[1]),
        answer=_number(values, "answer", limit=2),
        is_stereotypical=stereotype == "pro",
        category=str(values.get("category") or "pronouns"),
        cluster=_cluster(values, line),
        language=_language(values, sentence),
    )


def _parse_completion(values: Mapping[str, Any], line: int) -> CompletionItem:
    prompt = _text(values, "prompt")
    return CompletionItem(
        prompt=prompt,
        group=_text(values, "group"),
        category=str(values.get("category") or "completions"),
        cluster=_cluster(values, line),
        language=_language(values, prompt),
    )


_PARSERS: Mapping[Kind, Callable[[Mapping[str, Any], int], Item]] = {
    Kind.PAIRS: _parse_pair,
    Kind.CHOICES: _parse_choice,
    Kind.PRONOUNS: _parse_pronoun,
    Kind.COMPLETIONS: _parse_completion,
}


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _BadRecord(f"{name} must be a text that is not empty")
    return value


def _number(values: Mapping[str, Any], name: str, *, limit: int) -> int:
    value = values.get(name)
    value = int(value) if isinstance(value, str) and value.isdigit() else value
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
        raise _BadRecord(f"{name} must be an integer from 0 to {limit - 1}")
    return value


def _object(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = values.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise _BadRecord(f"{name} must be a JSON object: {error}") from error
    if not isinstance(value, Mapping):
        raise _BadRecord(f"{name} must be an object")
    return value


def _cluster(values: Mapping[str, Any], line: int) -> str:
    given = values.get("cluster")
    return f"line {line}" if given is None else str(given)


def _language(values: Mapping[str, Any], text: str) -> str:
    return str(values.get("language") or ("zh" if _CJK.search(text) else "en"))


def count_languages(items: Iterable[Item]) -> dict[str, int]:
    """Return the number of items of each language."""
    counts: dict[str, int] = {}
    for item in items:
        counts[item.language] = counts.get(item.language, 0) + 1
    return counts
