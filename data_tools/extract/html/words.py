"""What the name and attributes of an element of a web page say about it: hidden, menu, banner, comments, or content.

The words were taken from resiliparse's rules for main content, without those that real pages use for content as well
(`page-header`, `collapse`, `featured`).

Source: https://github.com/chatnoir-eu/chatnoir-resiliparse (html2text.pyx), Apache License 2.0
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

Role = Literal["", "content", "box", "mixed", "junk", "maybe_junk", "comments", "header", "footer"]
"""content: holds the text of the page; box: beside the text, may belong to it; junk: no text of the page at all;
maybe_junk: the same, by words that are used for content as well; mixed: words of junk and of content; comments: of
readers."""

_ROLES: dict[str, Role] = {
    "nav": "junk",
    "aside": "box",
    "article": "content",
    "main": "content",
    "section": "content",
    "header": "header",
    "footer": "footer",
}
"""By names of elements."""
_ATTRIBUTE = re.compile(
    r"""\s(class|id|role|style|aria-hidden)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE
)
_FLAGS = re.compile(
    r"""\s(?:hidden(?=[\s/>])|hidden\s*=\s*["']?(?!until-found)|data-(?:ad|advertisement|text-ad)\b)""", re.IGNORECASE
)

_JUNK_ROLES = frozenset(
    (
        *("alert", "alertdialog", "banner", "checkbox", "comment", "contentinfo", "dialog", "img", "menu", "menubar"),
        *(
            "menuitem",
            "navigation",
            "radio",
            "search",
            "searchbox",
            "separator",
            "tab",
            "tablist",
            "toolbar",
            "tooltip",
        ),
    )
)
_HIDDEN_STYLE = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)\b", re.IGNORECASE)


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_HIDDEN = _compile(
    r"(?:^|\s)(?:(?:is|visually)[_-])?(?:display-none|hidden|invisible|h-0|nocontent|sr-only)(?:-xs|-sm|-lg|-2?xl)?(?:$|\s)"
)
_CONTENT = _compile(
    r"(?:^|[\s_-])(?:article|entry|post|story|single[_-]?post|(?:main[_-])?content|body|section|chapter|appendix|preface|sect\d|document|prose|main)(?:$|[\s_-])"
)
_BOX = _compile(
    r"(?:^|\s)(?:(?:l|wp|right|left|global|sticky)[_-]*)?(?:(?:side|sticky)[_-]?(?:bars?|box)|one-third)(?:$|[\s_-])"
)
_COMMENTS = _compile(
    r"(?:^|[\s_-])(?:(?:article|user|post)[_-]*)?(?:(?:no[_-]?)?comments?|comment[_-]?list|reply)(?:$|[\s_-])"
)
# Menus and the like, by words that stand for nothing else.
_JUNK = _compile(
    # Navigation.
    r"(?:^|\s)(?:(?:l|m|wp|main|site|page|sub|article|global|sticky|doc|top|bottom|side)[_-]*)?"
    r"(?:nav(?:igation|bar)?|menu(?:[_-]?(?:item|bar))?|bread[_-]?crumbs?)(?:$|[\s_-])"
    r"|(?:^|[\s_-])links?[_-]?(?:bar|box|list|container|section|wrapp(?:er))(?:$|[\s_-])"
    # Links that lead past or through the pages.
    r"|(?:^|\s)(?:link[_-]?)?(?:skip(?:[_-]?(?:to|link|nav))?|scroll[_-]?(?:up|down)|pagination|pager|back[_-]?to[_-]?top"
    r"|skip-to-(?:main-)?content|headerlink|permalink|heading[_-]?anchor|anchor[_-]?link|mw-editsection|toc|toctree-wrapper)(?:$|\s)"
    # Advertisements, notices of cookies.
    r"|(?:^|\s)(?:(?:google|wide)[_-]?ads?|advert(?:ise(?:ment|link)?)?|sponsor(?:ed)?|(?:wide)?banner)(?:$|[\s_-])"
    r"|(?:^|[\s_-])(?:cookies?|consent|gdpr)(?:$|[\s_-])"
    r"|(?:^|\s)ads?(?:$|\s)"
    # Formulas that MathJax wrote beside their source.
    r"|(?:^|\s)(?:MathJax(?:_\w+)?|katex-html)(?:$|\s)"
)
# The same by words that content uses as well.
_MAYBE_JUNK = _compile(
    r"(?:^|[\s_-])(?:trends|trending|recommended|popular|editors?[_-]picks|related|read-next"
    r"|(?:related|more|other)[_-]?(?:links|articles|posts|guides|stories))(?:$|[\s_-])"
    r"|(?:^|\s)(?:l|m|wp|global|site|full|sticky)[_-]*header(?:[_-]?wrap(?:per)?|bar)?(?:$|\s)"
    r"|(?:^|[\s_-])(?:global|page|site|copyright)?(?:footer|copyright|legal|fcontainer)(?:$|[\s_-])"
    r"|(?:^|[\s_-])search(?:[_-]?(?:bar|facility|box|form))?(?:$|\s)"
    r"|(?:^|\s)(?:wp-|p-|-l)?(?:modal|popup|lightbox)(?:[_-]*(?:window|pane|box))?(?:$|[\s_-])"
    r"|(?:^|[\s_-])(?:gallery|carousel)(?:$|[\s_-])"
    r"|(?:^|[\s_-])(?:(?:log[_-]?in|sign[_-]?(?:in|up))|user[_-](?:info|profile|settings|actions))(?:$|[\s_-])"
    r"|(?:^|\s|__|--|mobile-|desktop-|l-|m-|c-)(?:social(?:media|search)?|share(?:daddy)?|syndication|newsletter|sharing"
    r"|follow|likes?|(?:give[_-]?)?feedback|facebook|twitter|subscribe)"
    r"(?:[_-]?(?:post|links?|section|icons?|btn|buttons?|target|bar|box|block))?(?:$|\s)"
    r"|(?:^|[\s_-])(?:post|entry|article(?:page)?|story)[_-]*(?:footer|teaser|meta(?:[_-]?data)?|subline"
    r"|author(?:name)?|published|timestamp|date|posted[_-]?on|labels?|tags?|keywords|category)(?:$|[\s_-])"
    r"|(?:^|[\s_-])(?:by[_-]?line|date[_-]?line|author-date|submitted(?:-by)?)(?:$|[\s_-])"
    r"|(?:^|[\s_-])drop[_-]?down(?:$|[\s_-])"
    r"|(?:brand(?:ing)?[_-]*)?logo(?:$|\s)|(?:^|\s)(?:short-view-count|spinner|donate|promoted)(?:$|[\s_-])"
)
_JUNK_LINK = _compile(
    r"""\srel\s*=\s*["']?(?:prev|next|search|tag|icon)\b|\sclass\s*=\s*(?:["'](?:[^"']*\s)?)?"""
    r"(?:headerlink|permalink|heading-?anchor|anchor-?link|skip(?:-?(?:to|link|nav)[\w-]*)?|sr-only)[\"'\s>]"
)
_WORDS: dict[Role, re.Pattern[str]] = {
    "content": _CONTENT,
    "comments": _COMMENTS,
    "junk": _JUNK,
    "box": _BOX,
    "maybe_junk": _MAYBE_JUNK,
}
_LANDMARK_ID = _compile(r"(?:(?:l|wp|global|page|site|full|sticky)[_-]*)?(?:(?:head|foot)(?:er)?|right)")
_SECTION_STARTS = frozenset({"<section", "<article"})
_WORD_END = re.compile(r"[\w](?:[\s_-]+|$)")
_MAX_ID_WORDS = 2
"""An identifier of more words names what a section is about."""
_NUM_REMEMBERED = 1 << 14
"""Tags and values of attributes: those of a site, and of a system that makes sites, come again."""


@lru_cache(_NUM_REMEMBERED)
def judge_element(name: str, tag: str) -> Role:
    """Return what the name and the start tag of a block say."""
    role = _judge_attributes(tag) if len(tag) > len(name) + 2 else ""
    return _ROLES.get(name, role) if role in ("", "content") else role


def _judge_attributes(tag: str) -> Role:
    """Return what the attributes of a block's start tag say."""
    values = dict(_read_attributes(tag))
    if _is_hidden(tag, values):
        return "junk"
    role = values.get("role", "").lower()
    if role in _JUNK_ROLES:
        return "junk"
    if role == "main":
        return "content"
    if role == "complementary":
        return "box"
    found: frozenset[Role] = frozenset()
    if "class" in values:
        found |= _judge_words(values["class"])
    # The identifiers of sections are the words of their headings: a section on menus is none.
    is_section = "content" in found or tag[:8].lower() in _SECTION_STARTS
    if "id" in values and not is_section and len(_WORD_END.findall(values["id"])) <= _MAX_ID_WORDS:
        found |= _judge_words(values["id"])
        if not found and _LANDMARK_ID.fullmatch(values["id"]):
            return "maybe_junk"
    if "comments" in found:
        return "comments"
    if "junk" in found:
        return "mixed" if "content" in found else "junk"
    if "box" in found and "content" not in found:
        return "box"
    if "maybe_junk" in found:
        return "maybe_junk"
    return "content" if "content" in found else ""


def is_junk_link(tag: str) -> bool:
    """Return whether a link leads through the pages, or to the heading that it stands in."""
    return bool(_JUNK_LINK.search(tag))


def _read_attributes(tag: str) -> Iterator[tuple[str, str]]:
    for name, double, single, bare in _ATTRIBUTE.findall(tag):
        yield name.lower(), (double or single or bare).strip()


def _is_hidden(tag: str, values: dict[str, str]) -> bool:
    return bool(
        (("hidden" in tag or "data-" in tag) and _FLAGS.search(tag))
        or values.get("aria-hidden") == "true"
        or ("style" in values and _HIDDEN_STYLE.search(values["style"]))
        or ("class" in values and _is_hidden_class(values["class"]))
    )


@lru_cache(_NUM_REMEMBERED)
def _is_hidden_class(classes: str) -> bool:
    return bool(_HIDDEN.search(classes))


@lru_cache(_NUM_REMEMBERED)
def _judge_words(words: str) -> frozenset[Role]:
    """Return what the value of a class or an identifier may say, all at once."""
    return frozenset(role for role, pattern in _WORDS.items() if pattern.search(words))
