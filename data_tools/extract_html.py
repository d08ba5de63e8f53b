"""Take the text out of web pages."""

import importlib
import re

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import ElementNode, HTMLTree

from data_tools.config import HtmlConfig
from data_tools.document import Document, DroppedError
from data_tools.ledger import Ledger
from data_tools.text_encoding import decode_text
from data_tools.wikitext_numbers import format_subscript, format_superscript

MAX_DEPTH = 2000
"""Finding the main content takes quadratic time in the depth of blocks: with resiliparse 2.0.1, 0.2 s at 2,000 and 3 s
at 10,000. Browsers nest no deeper than 512."""

WORD_JOINER = "\u2060"
"""Shows nothing, and is taken out when the text is normalised."""

# resiliparse 2.0.1 takes text nodes of three bytes that end beyond ASCII for separators, and leaves them out of main
# content: a single Chinese character in bold, or the unit m². The joiner makes them longer.
# No blank is given back (*+): most of them stand before a tag, where each would be tried again.
_LOST_NODE = re.compile(r"(>\s*+(?:[^\s<>]?[^\s<>\x00-\x7f•·›…]|&#?\w{1,10};))(?=\s*<)")
_RAISED_TAG = re.compile("<[sS][uU][pPbB]")
_BLOCK_TAG = re.compile(
    r"<(/?)(?:div|section|article|main|aside|nav|ul|ol|dl|table|blockquote|center|form|fieldset|header|footer)\b",
    re.IGNORECASE,
)


class HtmlExtractor:
    """Turns web pages into text, as a configuration says."""

    def __init__(self, config: HtmlConfig) -> None:
        self._config = config
        # An optional dependency, and a tenth of a second to import.
        self._trafilatura = importlib.import_module("trafilatura") if config.extractor == "trafilatura" else None

    def __call__(self, document: Document, ledger: Ledger) -> None:
        """Set a document's text and title."""
        page = decode_text(document.content, declared=document.charset, is_html=True, ledger=ledger)
        if _measure_depth(page) > MAX_DEPTH:
            raise DroppedError("html_too_deep", f"blocks within blocks, more than {MAX_DEPTH}")
        if self._config.main_content:
            page = _LOST_NODE.sub(rf"\1{WORD_JOINER}", page)
        tree = HTMLTree.parse(page)
        document.title = document.title or (tree.title or "").strip()
        if tree.body is None:
            raise DroppedError("no_text")
        if _RAISED_TAG.search(page):
            _write_raised_numbers(tree.body)
        if self._trafilatura is not None:
            document.text = self._extract_precisely(tree)
            return
        document.text = extract_plain_text(
            tree,
            preserve_formatting=True,
            main_content=self._config.main_content,
            list_bullets=self._config.list_bullets,
            comments=self._config.comments,
            # Descriptions of pictures stand where no sentence expects them.
            alt_texts=False,
        )

    def _extract_precisely(self, tree: HTMLTree) -> str:
        assert self._trafilatura is not None
        html = str(tree)
        text = self._trafilatura.extract(html, favor_precision=True, include_comments=self._config.comments)
        return text or ""


def _measure_depth(page: str) -> int:
    """How deep blocks are nested at most, if every end tag ends one."""
    if page.count("<") <= MAX_DEPTH:
        return 0
    depth = deepest = 0
    for tag in _BLOCK_TAG.finditer(page):
        if tag[1]:
            depth = max(0, depth - 1)
        else:
            depth += 1
            deepest = max(deepest, depth)
    return deepest


def _write_raised_numbers(body: ElementNode) -> None:
    """Turn 10<sup>6</sup> into 10⁶; its text alone would be 106."""
    for element in body.query_selector_all("sup, sub"):
        text = element.text or ""
        if len(text) > 40 or not any(character.isdigit() for character in text):
            continue
        written = format_superscript(text) if element.tag == "sup" else format_subscript(text)
        element.text = written + WORD_JOINER
