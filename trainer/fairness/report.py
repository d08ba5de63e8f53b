"""Say what was measured: a result for JSON, a table for the terminal, and what the figures can and cannot say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trainer.fairness.intervals import MIN_CLUSTERS, Figure
from trainer.fairness.items import ItemFile, Kind
from trainer.fairness.read import count_languages

GENERAL = (
    "An interval that excludes the neutral value shows a difference on these items; one that includes it shows that the"
    " items are too few or the difference too small to tell, not that the model is fair.",
    "Intervals are over clusters of related items, such as those of one template: they hold for further items of the"
    " same kind, not for other templates, groups or languages. With less than "
    f"{MIN_CLUSTERS} clusters they are too narrow.",
    "One in twenty intervals excludes the neutral value by chance.",
    "No figure says what the model does in an application: measure that in the application.",
)
CAN_SAY: Mapping[Kind, str] = {
    Kind.PAIRS: "Whether the model gives a higher probability to sentences that fit a stereotype.",
    Kind.CHOICES: "Whether stereotypes decide the model's answers: where the context leaves the answer open, and"
    " against the context where it does not.",
    Kind.PRONOUNS: "Whether the model resolves pronouns better where their gender fits an occupation's stereotype.",
    Kind.COMPLETIONS: "Whether words of the lexicon are more often positive or negative in texts about one group.",
}
CANNOT_SAY: Mapping[Kind, str] = {
    Kind.PAIRS: "Sentences differ also in length and in how usual their words are, which changes their probabilities."
    " A share of 0.5 may hide opposite biases of different groups.",
    Kind.CHOICES: "The answers of a model that is hardly better than chance show little bias: read the accuracies"
    " first. The form of the question matters.",
    Kind.PRONOUNS: "With accuracies near 0.5 the model does not resolve pronouns, and the gap is about which"
    " occupation it names after which pronoun.",
    Kind.COMPLETIONS: "The lexicon counts words: it sees neither negation nor irony, nor who is meant. A group may be"
    " described in stereotypes with friendly words only.",
}


@dataclass(frozen=True, kw_only=True)
class SetResult:
    """Hold what was measured with one file."""

    file: ItemFile
    num_items: int
    """Items that were scored."""
    num_too_long: int
    figures: Sequence[Figure]
    template: str
    """The form in which items were put."""

    def describe(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "data": self.file.name,
            "sha256": self.file.sha256,
            "kind": str(self.file.kind),
            "num_items": self.num_items,
            "num_too_long": self.num_too_long,
            "num_skipped": self.file.num_skipped,
            "languages": count_languages(self.file.items),
            "template": self.template,
            "figures": [{**asdict(figure), "is_biased": figure.is_biased} for figure in self.figures],
            "can_say": CAN_SAY[self.file.kind],
            "cannot_say": CANNOT_SAY[self.file.kind],
        }


def format_table(results: Sequence[SetResult]) -> str:
    """Return all figures as a table, each file with what its figures can and cannot say."""
    lines = []
    for result in results:
        left_out = [
            text
            for count, text in (
                (result.num_too_long, "too long for the model's context"),
                (result.file.num_skipped, "without a second occupation"),
            )
            if count
            for text in (f"{count} {text}",)
        ]
        extra = f"; left out: {', '.join(left_out)}" if left_out else ""
        lines.append(f"{result.file.name} ({result.file.kind}, {result.num_items} items{extra})")
        lines += [f"  {line}" for line in _format_rows(result.figures)]
        lines += [f"  Can say: {CAN_SAY[result.file.kind]}", f"  Cannot say: {CANNOT_SAY[result.file.kind]}", ""]
    return "\n".join([*lines, *GENERAL, ""])


def _format_rows(figures: Sequence[Figure]) -> list[str]:
    header = ("figure", "of", "value", "95 % interval", "neutral", "items", "clusters", "")
    rows = [header, *(_format_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    aligned = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in (0, 1, 7) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        aligned.append("  ".join(cells).rstrip())
    return aligned


def _format_row(figure: Figure) -> tuple[str, ...]:
    interval = "-" if math.isnan(figure.low) else f"{figure.low:.3f} to {figure.high:.3f}"
    verdict = {None: "", True: "differs from neutral", False: "includes neutral"}[figure.is_biased]
    if figure.num_clusters < MIN_CLUSTERS:
        verdict = "too few clusters"
    return (
        figure.name,
        figure.subset,
        "-" if math.isnan(figure.value) else f"{figure.value:.3f}",
        interval,
        "" if figure.neutral is None else f"{figure.neutral:g}",
        str(figure.num_items),
        str(figure.num_clusters),
        verdict,
    )
