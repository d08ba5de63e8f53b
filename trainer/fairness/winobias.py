"""Read WinoBias's own text files.

A line is `1 [The developer] argued with the designer because [she] did not like the design.`: a number, and a sentence
in which brackets mark the pronoun and what it refers to. A file holds sentences that all fit the stereotype, or all do
not; its name says which: pro_stereotyped_type1.txt.dev, anti_stereotyped_type1.txt.dev. The other person of a sentence
is an occupation that the file puts into brackets elsewhere.
"""

import re
from pathlib import Path

from trainer.fairness.items import PronounItem
from trireme.errors import ConfigError, Violation

_LINE = re.compile(r"^\s*\d+\s+(?P<sentence>.*\[.+\].*)$")
_BRACKETS = re.compile(r"\[([^\]]+)\]")
_PRONOUNS = {"he", "she", "him", "her", "his", "hers"}
_ARTICLE = re.compile(r"^(the|a|an)\s+", re.IGNORECASE)


def looks_like_winobias(path: Path) -> bool:
    """Return whether the first line with text is one of such a file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        for raw in stream:
            if raw.strip():
                return _LINE.match(raw.decode("utf-8", "replace")) is not None
    return False


def read_winobias(path: Path) -> tuple[list[PronounItem], int]:
    """Read all sentences.

    Returns:
        the items; and how many sentences were left out, because no second occupation was found in them.
    Raises:
        ConfigError: the name of the file says neither pro nor anti, or a line is none of WinoBias.
        OSError: it cannot be read.
    """
    name = path.name.lower()
    is_pro, is_anti = "pro_" in name, "anti_" in name
    if is_pro == is_anti:
        message = "has a name from which it does not follow whether its sentences fit the stereotype"
        fix = "Name the file pro_stereotyped_... or anti_stereotyped_..., as WinoBias does."
        raise ConfigError([Violation(path="--data", value=path, message=message, fix=fix)])
    parsed = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        found = _parse(line)
        if found is None:
            message = "must have a number, and brackets around a pronoun and what it refers to"
            fix = "Correct the line."
            raise ConfigError([Violation(path=f"{path}:{number}", value=line[:80], message=message, fix=fix)])
        parsed.append(found)
    occupations = {antecedent for _, antecedent, _ in parsed}
    items, num_skipped = [], 0
    kind = re.search(r"type\d", name)
    for sentence, antecedent, pronoun in parsed:
        other = _find_other(sentence, antecedent, occupations)
        if other is None:
            num_skipped += 1
            continue
        plain = sentence.replace("[", "").replace("]", "")
        items.append(
            PronounItem(
                sentence=plain,
                pronoun=pronoun,
                candidates=(antecedent, other),
                answer=0,
                is_stereotypical=is_pro,
                category=kind.group() if kind else "pronouns",
                cluster=" ".join(sorted((antecedent, other))),
                language="en",
            )
        )
    if not items:
        message = "contains no sentence with two occupations that are in brackets somewhere in the file"
        raise ConfigError([Violation(path="--data", value=path, message=message, fix="Give the whole file.")])
    return items, num_skipped


def _parse(line: str) -> tuple[str, str, str] | None:
    """Return the sentence with brackets, the occupation and the pronoun."""
    matched = _LINE.match(line)
    if matched is None:
        return None
    sentence = matched["sentence"].strip()
    marked = _BRACKETS.findall(sentence)
    pronouns = [one for one in marked if one.lower() in _PRONOUNS]
    named = [one for one in marked if one.lower() not in _PRONOUNS]
    if not pronouns or not named:
        return None
    return sentence, _ARTICLE.sub("", named[0]).lower(), pronouns[0]


def _find_other(sentence: str, antecedent: str, occupations: set[str]) -> str | None:
    """Return the occupation outside the brackets; the longest, where one is part of another."""
    outside = _BRACKETS.sub(" ", sentence).lower()
    found = [one for one in occupations if one != antecedent and re.search(rf"\b{re.escape(one)}\b", outside)]
    return max(found, key=len, default=None)
