"""Take the text out of web pages."""

import importlib
import re

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from data_tools.config.schema import HtmlConfig
from data_tools.document import Document
from data_tools.extract.encoding import decode_text
from data_tools.extract.html.notation import label_lists, write_formulas, write_labels
from data_tools.extract.html.regions import remove_regions
from data_tools.extract.html.source import PageSource, read_source
from data_tools.ledger import Ledger

_NUMBERED_LIST = re.compile(r"<(?:[oO][lL]|[lL][iI])\s[^<>]*?\b(?:start|type|reversed|value|START|TYPE|VALUE)\b")


class HtmlExtractor:
    """Turns web pages into text, as a configuration says."""

    def __init__(self, config: HtmlConfig) -> None:
        self._config = config
        # An optional dependency, and a tenth of a second to import.
        self._trafilatura = importlib.import_module("trafilatura") if config.extractor == "trafilatura" else None

    def __call__(self, document: Document, ledger: Ledger) -> None:
        """Set a document's text and title."""
        page = decode_text(document.content, declared=document.charset, is_html=True, ledger=ledger)
        document.text, title = self.extract(page)
        document.title = document.title or title

    def extract(self, page: str) -> tuple[str, str]:
        """Text and title of a page."""
        if self._trafilatura is not None:
            source = read_source(page, keeps_formatting=True)
            return self._extract_precisely(source), source.title
        source = read_source(page)
        if self._config.main_content:
            remove_regions(source, comments=self._config.comments)
        text = extract_plain_text(
            _rewrite(source.join_plainly(), source, labels_lists=self._config.list_bullets),
            preserve_formatting=True,
            list_bullets=self._config.list_bullets,
            # resiliparse looks for each kind of element that it is to skip in turn: for few takes less time.
            alt_texts=True,
            noscript=True,
            form_fields=not source.has_fields,
            skip_elements=source.hidden,
        )
        return write_labels(text), source.title

    def _extract_precisely(self, source: PageSource) -> str:
        assert self._trafilatura is not None
        page = str(_rewrite(source.join(), source, labels_lists=False))
        text = self._trafilatura.extract(page, favor_precision=True, include_comments=self._config.comments)
        return text or ""


def _rewrite(page: str, source: PageSource, *, labels_lists: bool) -> str | HTMLTree:
    """The page; parsed, with some of its texts rewritten, where it has formulas, or lists that do not count 1, 2, 3."""
    has_math = "math" in source.features
    labels_lists = labels_lists and "ol" in source.names and _NUMBERED_LIST.search(page) is not None
    if not labels_lists and not has_math:
        return page
    tree = HTMLTree.parse(page)
    if tree.body is not None:
        if has_math:
            write_formulas(tree.body)
        if labels_lists:
            label_lists(tree.body)
    return tree
