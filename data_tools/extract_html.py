"""Take the text out of web pages."""

import html
import importlib
import re

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from data_tools.config import HtmlConfig
from data_tools.document import Document
from data_tools.html_notation import format_formula, label_lists, write_formulas, write_labels, write_raised_numbers
from data_tools.html_regions import remove_regions
from data_tools.html_source import read_source
from data_tools.ledger import Ledger
from data_tools.text_encoding import decode_text

_NUMBERED_LIST = re.compile(r"<(?:[oO][lL]|[lL][iI])\s[^<>]*?\b(?:start|type|reversed|value|START|TYPE|VALUE)\b")
_FORMULA_SCRIPT = re.compile(
    r"<script\b[^<>]*\btype\s*=\s*[\"']?math/tex(;\s*mode=display)?[^<>]*>([^<]*+(?:<(?!/script)[^<]*+)*+)(?:</script\s*>)?",
    re.IGNORECASE,
)
_FORMULA_PICTURE = re.compile(r"<img\b[^<>]*\bclass\s*=\s*[\"']?[^\"'<>]*(?:latex|math|tex)\b[^<>]*>", re.IGNORECASE)
_ALT_TEXT = re.compile(r"\balt\s*=\s*(?:\"([^\"]*)\"|'([^']*)')", re.IGNORECASE)

_FIELDS = ("<input", "<button", "<label", "<option", "<textarea")
_NOT_SHOWN_WITHIN = (
    ("<object", "object"),
    ("<video", "video"),
    ("<audio", "audio"),
    ("<canvas", "canvas"),
    ("<embed", "embed"),
    ("aria-hidden", '[aria-hidden="true"]'),
    ("sr-only", ".sr-only"),
    ("visually-hidden", ".visually-hidden"),
    ("mw-editsection", ".mw-editsection"),
    ("MathJax", ".MathJax, .MathJax_Preview, .MathJax_Display, .MathJax_SVG, .MathJax_CHTML"),
)
"""What pages hold if an element within text shows nothing, or nothing of use, and its selector. Looking for the word
takes a fiftieth of the time of looking for the selector."""


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
        page = _write_formula_sources(page)
        if "<su" in page or "<SU" in page:
            page = write_raised_numbers(page)
        source = read_source(page)
        if self._trafilatura is not None:
            return self._extract_precisely(source.join()), source.title
        if self._config.main_content:
            remove_regions(source, comments=self._config.comments)
        plain = source.join_plainly()
        text = extract_plain_text(
            _rewrite(plain, labels_lists=self._config.list_bullets),
            preserve_formatting=True,
            list_bullets=self._config.list_bullets,
            # resiliparse looks for each kind of element that it is to skip in turn: for few takes less time.
            alt_texts=True,
            noscript=True,
            form_fields=not any(field in plain for field in _FIELDS),
            skip_elements=[selector for word, selector in _NOT_SHOWN_WITHIN if word in plain],
        )
        return write_labels(text), source.title

    def _extract_precisely(self, page: str) -> str:
        assert self._trafilatura is not None
        page = str(_rewrite(page, labels_lists=False))
        text = self._trafilatura.extract(page, favor_precision=True, include_comments=self._config.comments)
        return text or ""


def _rewrite(page: str, *, labels_lists: bool) -> str | HTMLTree:
    """The page; parsed, with some of its texts rewritten, where it has formulas, or lists that do not count 1, 2, 3."""
    labels_lists = labels_lists and _NUMBERED_LIST.search(page) is not None
    if not labels_lists and "<math" not in page:
        return page
    tree = HTMLTree.parse(page)
    if tree.body is not None:
        if "<math" in page:
            write_formulas(tree.body)
        if labels_lists:
            label_lists(tree.body)
    return tree


def _write_formula_sources(page: str) -> str:
    """Write formulas that a page has as scripts or as pictures as text."""
    has_math = "math" in page
    if has_math and "math/tex" in page:
        page = _FORMULA_SCRIPT.sub(_write_script, page)
    if (has_math and "<math" not in page) or "latex" in page:
        page = _FORMULA_PICTURE.sub(_write_picture, page)
    return page


def _write_script(found: re.Match[str]) -> str:
    return html.escape(format_formula(found[2], is_display=bool(found[1])), quote=False)


def _write_picture(found: re.Match[str]) -> str:
    alt = _ALT_TEXT.search(found[0])
    tex = html.unescape(alt[1] or alt[2] or "") if alt else ""
    return html.escape(format_formula(tex, is_display=False), quote=False)
