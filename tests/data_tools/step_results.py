"""Send texts through one filter or one rule."""

from collections.abc import Callable
from typing import Any

from data_tools.config.filtering import QualityThresholds
from data_tools.document import Document, DroppedError, Filter, apply_filter
from data_tools.ledger import Ledger
from data_tools.text.words import TextMeasure


def apply_step(apply: Filter, *texts: str, **fields: Any) -> tuple[list[Document], Ledger]:
    """Documents that are left, and the ledger, which balances."""
    ledger = Ledger(read=len(texts))
    documents = [
        Document(record=number, media_type="plain", content=b"", text=text, **fields)
        for number, text in enumerate(texts)
    ]
    kept = list(apply_filter(apply, documents, name="test", ledger=ledger))
    ledger.kept = len(kept)
    assert ledger.read == ledger.accounted
    return kept, ledger


def find_reason(check: Callable[[TextMeasure, QualityThresholds], None], text: str, **limits: Any) -> str | None:
    """Why a rule drops a text, or None; limits that are not given are the defaults."""
    thresholds = QualityThresholds(**limits)
    try:
        check(TextMeasure(text, characters_per_word=thresholds.characters_per_word), thresholds)
    except DroppedError as error:
        return error.reason
    return None
