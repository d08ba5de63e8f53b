"""The steps from raw documents to cleaned text, in their order."""

from collections.abc import Callable

from data_tools.config import DataPrepConfig
from data_tools.document import Document, MediaType, Step, build_step
from data_tools.extract_html import HtmlExtractor
from data_tools.extract_text import extract_json, extract_plain
from data_tools.extract_wikitext import WikitextExtractor
from data_tools.ledger import Ledger
from data_tools.normalize import SizeLimits, normalize
from data_tools.payload import detect_media_type, undo_codings


def build_steps(config: DataPrepConfig, *, ledger: Ledger) -> list[Step]:
    """Make the steps that take text out of documents, bring it into one form and drop what is too short or too long."""
    return [
        build_step(_build_extractor(config), name="extract", ledger=ledger),
        build_step(normalize, name="normalize", ledger=ledger),
        build_step(SizeLimits(config.cleaning), name="size", ledger=ledger),
    ]


def _build_extractor(config: DataPrepConfig) -> Callable[[Document, Ledger], None]:
    max_bytes = config.cleaning.max_record_bytes
    extractors: dict[MediaType, Callable[[Document, Ledger], None]] = {
        "html": HtmlExtractor(config.html),
        "plain": extract_plain,
        "wikitext": WikitextExtractor(config.wikipedia),
        "json": extract_json,
    }

    def extract(document: Document, ledger: Ledger) -> None:
        undo_codings(document, ledger, max_bytes=max_bytes)
        document.media_type = detect_media_type(document, ledger)
        extractors[document.media_type](document, ledger)
        document.content = b""

    return extract
