"""The chain of filters from raw documents to cleaned text, in the order in which they run."""

from collections.abc import Iterable, Iterator

from data_tools.config.schema import DataPrepConfig
from data_tools.document import Document, Filter, MediaType, apply_filter
from data_tools.extract.html.extractor import HtmlExtractor
from data_tools.extract.normalize import normalize
from data_tools.extract.payload import detect_media_type, undo_codings
from data_tools.extract.plain import extract_json, extract_plain
from data_tools.extract.wikitext.extractor import WikitextExtractor
from data_tools.filters.custom import CustomFilter
from data_tools.filters.language import AssumedLanguage, LanguageIdentifier
from data_tools.filters.lines import LineCleaner
from data_tools.filters.pii import PersonalDataMask
from data_tools.filters.quality.filter import QualityFilter, ThresholdTable
from data_tools.filters.size import SizeLimits
from data_tools.filters.url import UrlFilter
from data_tools.ledger import Ledger


class FilterChain:
    """Every filter that a configuration enables. Built once per process: models and lists are loaded here."""

    def __init__(self, config: DataPrepConfig) -> None:
        self._filters = list(_list_filters(config))

    def apply(self, documents: Iterable[Document], ledger: Ledger) -> Iterator[Document]:
        """Yield the documents that all filters keep, one at a time; the ledger counts the others."""
        for name, apply in self._filters:
            documents = apply_filter(apply, documents, name=name, ledger=ledger)
        yield from documents


def _list_filters(config: DataPrepConfig) -> Iterator[tuple[str, Filter]]:
    """Yield name and filter in their order; cheap filters that drop many documents come first."""
    thresholds = ThresholdTable(config.quality)
    filters = config.url_filter
    if filters.use_default_list or filters.blocked_domains or filters.blocked_words or filters.block_lists:
        yield "url_filter", UrlFilter(filters)
    yield "extract", _build_extractor(config)
    yield "normalize", normalize
    yield "size", SizeLimits(config.cleaning)
    if config.language.assume is not None:
        yield "language", AssumedLanguage(config.language.assume)
    elif config.language.identify:
        yield "language", LanguageIdentifier(config.language)
    cleaner = LineCleaner(config.lines, thresholds_of=thresholds)
    if cleaner.is_active:
        yield "lines", cleaner
        yield "size", SizeLimits(config.cleaning)
    if config.quality.rules:
        yield "quality", QualityFilter(config.quality, thresholds_of=thresholds)
    if config.personal_data.mask:
        yield "personal_data", PersonalDataMask(config.personal_data)
    for settings in config.custom_filters:
        # The name is part of ledgers (further_step_error), which must not change.
        yield "further_step", CustomFilter(settings)
    if config.custom_filters:
        # A custom filter may return text in any form; stored text is normalized.
        yield "normalize", normalize
        yield "size", SizeLimits(config.cleaning)


def _build_extractor(config: DataPrepConfig) -> Filter:
    max_bytes = config.cleaning.max_record_bytes
    extractors: dict[MediaType, Filter] = {
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
