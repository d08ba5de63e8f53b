"""Extract the prose of a wiki page."""

import html
import re
from collections import Counter

from data_tools.config.schema import WikipediaConfig
from data_tools.document import Document, DroppedError
from data_tools.extract.superscripts import format_subscript, format_superscript
from data_tools.extract.wikitext.lines import BREAK, write_lines
from data_tools.extract.wikitext.markup import STRIP_MARKER, UnknownTemplate, resolve_markup
from data_tools.extract.wikitext.namespaces import find_link_prefixes
from data_tools.extract.wikitext.sections import find_sections_to_drop
from data_tools.extract.wikitext.templates import Wiki
from data_tools.ledger import SUBJECT_MARK, Ledger

LEFT_OUT = "template_left_out"
GUESSED = "template_guessed"
"""Notes of the ledger, each with the name of an unknown template inside a sentence: it was removed, or replaced by its
first argument."""

_REDIRECT = re.compile(
    r"\s*#\s*(?:redirect|weiterleitung|redirection|redirecci[oó]n|rinvia|redirecionamento|doorverwijzing|patrz"
    r"|przekieruj|tam|перенаправлення|перенаправление|перенапр|転送|リダイレクト|重定向|넘겨주기|تحويل|přesměruj|omdirigering"
    r"|omdiriger|uudelleenohjaus|ohjaus|átirányítás|yönlendirme|yönlendi̇rme|ανακατευθυνση|הפניה|تغییر_?مسیر|alih|đổi"
    r"|redireccionament|preusmjeri|пренасочване)\s*:?\s*\[\[",
    re.IGNORECASE,
)
_VARIANT = re.compile(r"-\{([^{}]*)\}-")
_VARIANT_FLAGS = re.compile(r"\s*([A-Za-z;-]*)\s*\|")
_RAISED = re.compile(r"<(su[bp])\b[^<>]*>([^<>]{0,200})</\1\s*>", re.IGNORECASE)
_BLOCK_TAG = re.compile(
    r"</?(?:p|div|center|blockquote|poem|table|caption|tr|ul|ol|dl|h[1-6]|section|article)\b[^<>]*>", re.IGNORECASE
)
_BREAK_TAG = re.compile(r"</?(?:br|hr|li|dd|dt)\b[^<>]*>", re.IGNORECASE)
_CELL_TAG = re.compile(r"</t[dh]\s*>", re.IGNORECASE)
_OTHER_TAG = re.compile(
    r"</?(?:abbr|b|bdi|bdo|big|cite|code|data|del|dfn|em|font|i|ins|kbd|mark|noinclude|onlyinclude|includeonly|q|rb|rp|rt"
    r"|rtc|ruby|s|samp|small|span|strike|strong|su[bp]|td|th|tbody|thead|tfoot|time|tt|u|var|wbr|ref|references|gallery"
    r"|nowiki|math|chem|ce|pre|source|syntaxhighlight|section|translate|tvar|languages|a|img|figure|figcaption)"
    r"\b[^<>]*>",
    re.IGNORECASE,
)
_BEHAVIOR_SWITCH = re.compile(r"__(?=[^\W\d_])[^\Wa-z]{3,60}?__")
"""Behavior switches, in capital letters or in a script without case: __NOTOC__, __БЕЗ_ОГЛ__."""
_QUOTES = re.compile(r"'{2,}")
# Repetitions are bounded: unbounded ones take quadratic time where the text is a long run of spaces or commas.
_EMPTY_BRACKETS = re.compile(r"[ \t]{0,3}\([\s,;:–-]{0,20}\)|[ \t]{0,3}（[\s,;:，；：]{0,20}）")
_AFTER_BRACKET = re.compile(r"([(（])[ \t]{0,3}(?:[,;，；、][ \t]{0,3}){1,9}")
_BEFORE_BRACKET = re.compile(r"[ \t]{0,3}(?:[,;，；、][ \t]{0,3}){1,9}([)）])")
_REPEATED_MARKS = re.compile(r"([,;])(?:[ \t]{0,3}[,;]){1,9}(?=\s)")
_SPACE_BEFORE_MARK = re.compile(r"(?<=\w)[ \t]{1,3}([,.])(?=\s|$)", re.MULTILINE)
_SPACES = re.compile(r"(?<=\S)[ \t]{2,}")
_LEFT_OVER = re.compile(r"^[ \t]*(?:\||\{\||\|\}|\{\{|\}\})[^\n]*$", re.MULTILINE)
_MARKER = re.compile(rf"{STRIP_MARKER}(\d+){STRIP_MARKER}")


class WikitextExtractor:
    """Extract prose from wikitext with the settings of a configuration."""

    def __init__(self, config: WikipediaConfig) -> None:
        self._config = config
        self._drop_sections: dict[str, frozenset[str]] = {}
        self._link_prefixes: dict[tuple[str, tuple[str, ...]], frozenset[str]] = {}

    def __call__(self, document: Document, ledger: Ledger) -> None:
        """Set a document's text; count the templates whose text was guessed or removed, by name."""
        markup = document.content.decode("utf-8", "replace")
        if _REDIRECT.match(markup):
            raise DroppedError("redirect")
        text, unknown = self._clean(markup, document.title, document.link_prefixes, document.wiki_language)
        for template, count in unknown.items():
            what = LEFT_OUT if template.is_left_out else GUESSED
            ledger.note(f"{what}{SUBJECT_MARK}{template.name}", count)
        if not text:
            raise DroppedError("no_text")
        document.text = f"{document.title}\n\n{text}" if self._config.prepend_title and document.title else text

    def clean(self, markup: str, *, title: str = "", link_prefixes: tuple[str, ...] = (), language: str = "") -> str:
        """Return the prose of a page.

        Args:
            link_prefixes: names of the namespaces of files and categories, from the dump.
            language: of the wiki, by MediaWiki's code.
        """
        return self._clean(markup, title, link_prefixes, language)[0]

    def _clean(
        self, markup: str, title: str, link_prefixes: tuple[str, ...], language: str
    ) -> tuple[str, Counter[UnknownTemplate]]:
        text, protected, unknown = resolve_markup(
            markup.replace("\r\n", "\n").replace(BREAK, ""),
            link_prefixes=self._find_prefixes(language, link_prefixes),
            wiki=Wiki(page_title=title, language=language),
            keep_math=self._config.keep_math,
        )
        text = _VARIANT.sub(_choose_variant, text)
        text = _remove_tags(text)
        text = "\n".join(map(_remove_quotes, text.split("\n")))
        text = _BEHAVIOR_SWITCH.sub("", text)
        text = write_lines(text, drop_sections=self._find_sections(language))
        text = _tidy(html.unescape(text))
        text = _MARKER.sub(lambda marker: html.unescape(protected[int(marker[1])]), text).strip()
        return text, unknown

    def _find_prefixes(self, language: str, own_names: tuple[str, ...]) -> frozenset[str]:
        key = (language, own_names)
        if key not in self._link_prefixes:
            self._link_prefixes[key] = find_link_prefixes(language, own_names)
        return self._link_prefixes[key]

    def _find_sections(self, language: str) -> frozenset[str]:
        if language not in self._drop_sections:
            own = self._config.drop_sections
            titles = find_sections_to_drop(language) if own is None else own
            self._drop_sections[language] = frozenset(title.casefold().strip() for title in titles)
        return self._drop_sections[language]


def _choose_variant(match: re.Match[str]) -> str:
    """Return the first variant of -{zh-hans:one; zh-hant:another}-, a word in several scripts."""
    content = match[1]
    if flags := _VARIANT_FLAGS.match(content):
        if set(flags[1].upper()) & set("HT-"):
            return ""
        content = content[flags.end() :]
    first = content.split(";")[0]
    code, colon, word = first.partition(":")
    return word.strip() if colon and code.strip().lower().startswith(("zh", "sr", "kk", "uz", "ku")) else content


def _remove_tags(text: str) -> str:
    if "<" not in text:
        return text
    text = _RAISED.sub(_write_raised, text)
    text = _BLOCK_TAG.sub(BREAK * 2, text)
    text = _BREAK_TAG.sub(BREAK, text)
    text = _CELL_TAG.sub(" | ", text)
    return _OTHER_TAG.sub("", text)


def _write_raised(match: re.Match[str]) -> str:
    content = _QUOTES.sub("", match[2])
    return format_superscript(content) if match[1].lower() == "sup" else format_subscript(content)


def _remove_quotes(line: str) -> str:
    """Remove the apostrophes that mark bold and italic text, and keep those that belong to words.

    Source: MediaWiki Parser::doQuotes.
    """
    if "''" not in line:
        return line
    runs = list(_QUOTES.finditer(line))
    num_bold = sum(len(run[0]) != 2 for run in runs)
    num_italic = sum(len(run[0]) not in (3, 4) for run in runs)
    stray = None
    if num_bold % 2 and num_italic % 2:
        # One of the bold marks is an apostrophe and an italic mark: that of l'''Iliade'' before any other.
        bold = [run.start() for run in runs if len(run[0]) == 3]
        ranked = sorted(bold, key=lambda at: _rank_stray(line[:at]))
        stray = ranked[0] if ranked else None
    written, done = [], 0
    for run in runs:
        length = len(run[0])
        kept = 1 if length == 4 or run.start() == stray else max(0, length - 5)
        written += [line[done : run.start()], "'" * kept]
        done = run.end()
    return "".join([*written, line[done:]])


def _rank_stray(before: str) -> int:
    if before.endswith(" "):
        return 2
    return 0 if len(before) == 1 or before[-2:-1] == " " else 1


def _tidy(text: str) -> str:
    """Remove the spaces, empty brackets and repeated marks that templates without text leave."""
    text = _LEFT_OVER.sub("", text)
    text = _AFTER_BRACKET.sub(r"\1", text)
    text = _BEFORE_BRACKET.sub(r"\1", text)
    text = _EMPTY_BRACKETS.sub("", text)
    text = _REPEATED_MARKS.sub(r"\1", text)
    text = _SPACE_BEFORE_MARK.sub(r"\1", text)
    text = _SPACES.sub(" ", text)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip(" \t|") for line in text.split("\n")))
