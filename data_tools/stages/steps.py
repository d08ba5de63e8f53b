"""The steps from raw documents to cleaned text, in their order."""

from collections.abc import Callable, Iterator

from data_tools.config.schema import DataPrepConfig
from data_tools.document import Document, MediaType, Step, build_step
from data_tools.extract.html.extractor import HtmlExtractor
from data_tools.extract.normalize import normalize
from data_tools.extract.payload import detect_media_type, undo_codings
from data_tools.extract.plain import extract_json, extract_plain
from data_tools.extract.wikitext.extractor import WikitextExtractor
from data_tools.filters.custom import CustomFilter
from data_tools.filters.language import AssumedLanguage, LanguageIdentifier
from data_tools.filters.lines import LineCleaner
from data_tools.filters.pii import PersonalDataMask
from data_tools.filters.quality.filter import QualityJudge, ThresholdTable
from data_tools.filters.size import SizeLimits
from data_tools.filters.url import UrlFilter
from data_tools.ledger import Ledger

Change = Callable[[Document, Ledger], None]
"""Changes one document in place, or raises to leave it out."""


class StepPlan:
    """What is done to each document. Made once per process: models and lists are loaded here."""

    def __init__(self, config: DataPrepConfig) -> None:
        self._changes = list(_plan(config))

    def build_steps(self, ledger: Ledger) -> list[Step]:
        """Make the steps for documents that are counted in a ledger."""
        return [build_step(change, name=name, ledger=ledger) for name, change in self._changes]


def build_steps(config: DataPrepConfig, *, ledger: Ledger) -> list[Step]:
    """Make the steps that take text out of documents, bring it into one form and drop what is not wanted."""
    return StepPlan(config).build_steps(ledger)


def _plan(config: DataPrepConfig) -> Iterator[tuple[str, Change]]:
    """Name and change of every step that the configuration asks for; the cheap ones that drop much stand first."""
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
        yield "quality", QualityJudge(config.quality, thresholds_of=thresholds)
    if config.personal_data.mask:
        yield "personal_data", PersonalDataMask(config.personal_data)
    for settings in config.further_steps:
        yield "further_step", CustomFilter(settings)
    if config.further_steps:
        # What others wrote may have any form; text that is stored has one.
        yield "normalize", normalize
        yield "size", SizeLimits(config.cleaning)


def _build_extractor(config: DataPrepConfig) -> Change:
    max_bytes = config.cleaning.max_record_bytes
    extractors: dict[MediaType, Change] = {
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
