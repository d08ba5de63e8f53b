"""Drop documents that the published rules of quality take for something else than prose."""

from collections.abc import Callable

from data_tools.document import Document
from data_tools.ledger import Ledger
from data_tools.quality_config import QualityConfig, QualityThresholds
from data_tools.quality_languages import ThresholdTable
from data_tools.rules_c4 import check_c4
from data_tools.rules_fineweb import check_fineweb
from data_tools.rules_gopher_quality import check_gopher_quality
from data_tools.rules_gopher_repetition import check_gopher_repetition
from data_tools.text_measure import TextMeasure

RULES: dict[str, Callable[[TextMeasure, QualityThresholds], None]] = {
    "gopher_quality": check_gopher_quality,
    "gopher_repetition": check_gopher_repetition,
    "c4": check_c4,
    "fineweb": check_fineweb,
}
"""Name in the configuration -> check, which raises `DroppedError` with the name of the rule that a text breaks."""


class QualityJudge:
    """Applies the sets of rules that a configuration names, with the thresholds of each document's language."""

    def __init__(self, config: QualityConfig, *, thresholds_of: ThresholdTable) -> None:
        self._checks = [RULES[name] for name in config.rules]
        self._thresholds_of = thresholds_of

    def __call__(self, document: Document, ledger: Ledger) -> None:
        """Raise if a document breaks a rule."""
        limits = self._thresholds_of(document.language)
        measure = TextMeasure(document.text, characters_per_word=limits.characters_per_word)
        for check in self._checks:
            check(measure, limits)
