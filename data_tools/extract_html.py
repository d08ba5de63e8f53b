"""Take the text out of web pages."""

import html
import importlib
import re

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from data_tools.config import HtmlConfig
from data_tools.document import Document, DroppedError
from data_tools.html_notation import format_formula, label_lists, write_formulas, write_labels, write_raised_numbers
from data_tools.html_regions import remove_regions
from data_tools.html_source import read_source
from data_tools.ledger import Ledger
from data_tools.text_encoding import decode_text

_NUMBERED_LIST = re.compile(r"<(?:ol|li)\s[^<>]*\b(?:start|type|reversed|value)\b", re.IGNORECASE)
_FORMULA_SCRIPT = re.compile(
    r"<script\b[^<>]*\btype\s*=\s*[\"']?math/tex(;\s*mode=display)?[^<>]*>([^<]*+(?:<(?!/script)[^<]*+)*+)(?:</script\s*>)?",
    re.IGNORECASE,
)
_FORMULA_PICTURE = re.compile(r"<img\b[^<>]*\bclass\s*=\s*[\"']?[^\"'<>]*(?:latex|math|tex)\b[^<>]*>", re.IGNORECASE)
_ALT_TEXT = re.compile(r"\balt\s*=\s*(?:\"([^\"]*)\"|'([^']*)')", re.IGNORECASE)

_NEVER_SHOWN = ("img", "area", "svg", "video", "audio", "object", "embed", "canvas")
"""Elements beside those that resiliparse skips. Descriptions of pictures stand where no sentence expects them; but
figures hold code, tables, quotations and captions as well, so its own switch for all of them is on."""
_NOT_SHOWN_WITHIN = (
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
        """Text and title of a page.

        Raises:
            DroppedError: it has no body.
        """
        page = write_raised_numbers(_write_formula_sources(page))
        source = read_source(page)
        if self._trafilatura is not None:
            tree = _parse(source.join(), labels_lists=False)
            return self._extract_precisely(tree), _read_title(tree)
        if self._config.main_content:
            remove_regions(source, comments=self._config.comments)
        plain = source.join_plainly()
        tree = _parse(plain, labels_lists=self._config.list_bullets)
        text = extract_plain_text(
            tree,
            preserve_formatting=True,
            list_bullets=self._config.list_bullets,
            skip_elements=[*_NEVER_SHOWN, *(selector for word, selector in _NOT_SHOWN_WITHIN if word in plain)],
        )
        return write_labels(text), _read_title(tree)

    def _extract_precisely(self, tree: HTMLTree) -> str:
        assert self._trafilatura is not None
        page = str(tree)
        text = self._trafilatura.extract(page, favor_precision=True, include_comments=self._config.comments)
        return text or ""


def _parse(page: str, *, labels_lists: bool) -> HTMLTree:
    tree = HTMLTree.parse(page)
    if tree.body is None:
        raise DroppedError("no_text")
    if "<math" in page:
        write_formulas(tree.body)
    if labels_lists and _NUMBERED_LIST.search(page):
        label_lists(tree.body)
    return tree


def _read_title(tree: HTMLTree) -> str:
    return (tree.title or "").strip()


def _write_formula_sources(page: str) -> str:
    """Write formulas that a page has as scripts or as pictures as text."""
    if "math/tex" in page:
        page = _FORMULA_SCRIPT.sub(_write_script, page)
    if "<math" not in page:
        page = _FORMULA_PICTURE.sub(_write_picture, page)
    return page


def _write_script(found: re.Match[str]) -> str:
    return html.escape(format_formula(found[2], is_display=bool(found[1])), quote=False)


def _write_picture(found: re.Match[str]) -> str:
    alt = _ALT_TEXT.search(found[0])
    tex = html.unescape(alt[1] or alt[2] or "") if alt else ""
    return html.escape(format_formula(tex, is_display=False), quote=False)
