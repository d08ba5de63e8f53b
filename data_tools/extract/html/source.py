"""Cut a web page's source into texts and tags, and repair what would swallow text, before the page is parsed.

A parser must do with broken tags what browsers do, who show the text all the same: that of an unclosed anchor as a
link, so that a page of them looks like a menu; that behind an unclosed <select> as a choice.
"""

import html
import re
from dataclasses import dataclass, field

from data_tools.extract.html.notation import format_formula, write_raised_numbers

CONTAINERS = (
    *("div", "table", "ul", "ol", "dl", "section", "article", "main", "aside", "nav", "header", "footer", "form"),
    *("menu", "center", "fieldset", "figure", "figcaption", "blockquote", "details", "td", "th"),
)
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6", "summary")
PLAIN, OTHER, LINK_END, IMAGE, LINK, HEADING_END, HEADING, ITEM, PARAGRAPH, ROW, START, END = range(12)
"""Kinds of tags; from HEADING_END on they part blocks of text. OTHER is no tag, such as a comment."""
_KINDS: dict[str | None, int] = {
    "a": LINK,
    "/a": LINK_END,
    "img": IMAGE,
    **dict.fromkeys(_HEADINGS, HEADING),
    **{f"/{name}": HEADING_END for name in _HEADINGS},
    **dict.fromkeys(("li", "dt", "dd"), ITEM),
    "p": PARAGRAPH,
    "tr": ROW,
    **dict.fromkeys(CONTAINERS, START),
    **{f"/{name}": END for name in CONTAINERS},
    **dict.fromkeys(("area", "/img", "/area"), PLAIN),
    None: OTHER,
}
"""By names; nothing else is cut out. End tags of paragraphs, items and rows stay in the texts: they say nothing that
the next tag does not, and each piece costs as much as seven tags that are passed over."""
_ENDS_IN_TEXT = re.compile(r".*</(?:p|tr|li|d[td])\b[^<>]*+>", re.IGNORECASE | re.DOTALL)
# No part gives back what it has matched, so that the time is linear in the page. The names are in the order of use.
_VALUE = r"=(?:\"[^\"]*+\"|\s*+(?:\"[^\"]*+\"|'[^']*+')?)"
_PATTERN = (
    r"(<(?:(p|a|/a|div|/div|/?(?:area|img|t[dh]|h[1-6]|[uo]l|dl|table|section|article|main|aside|nav|header|footer|form|menu"
    r"|center|fieldset|fig(?:ure|caption)|blockquote|details|summary)|li|d[td]|tr)"
    rf"(?:>|[\s/][^>=]*+(?:{_VALUE}[^>=]*+)*+>)"
    # Elements whose text is not shown, or is no mark-up; those that close themselves have none.
    r"|(script|style|svg|select|noscript|template|textarea|iframe|title|xmp)\b[^>]*+>"
    r"(?:(?<=/>)|[^<]*+(?:<(?!/\3)[^<]*+)*+(?:</\3[^>]*+>?)?)"
    r"|!--(?:>|->|[^-]*+(?:-(?!->|-!>)[^-]*+)*+(?:--!?>)?)))"
)


def _compile(pattern: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Compile a pattern for pages whose start tags are in small letters, and for others; the first takes less time."""
    # Among all letters, ſ is an s to the first of the flags.
    return re.compile(pattern), re.compile(pattern, re.IGNORECASE | re.ASCII)


_TOKEN = _compile(_PATTERN)
_SHOWN = frozenset({"xmp"})
_ANY_TAG = re.compile(r"<[^<>]*+>")
_CODE = frozenset({"script", "style"})

_FEATURES = re.compile(r"<([A-Z]|(?:button|label|input|option|textarea|math|su[pb]|object|video|audio|canvas|embed)\b)")
"""Elements that need more work than others, and capitals; one look for all takes little more time than one for each."""
_CAPITALS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_FIELDS = frozenset({"button", "label", "input", "option", "textarea"})
_PICTURES = frozenset({"object", "video", "audio", "canvas", "embed"})
_HIDING_WORDS = (
    ("sr-only", ".sr-only"),
    ("mw-editsection", ".mw-editsection"),
    ("MathJax", ".MathJax, .MathJax_Preview, .MathJax_Display, .MathJax_SVG, .MathJax_CHTML"),
)
"""What pages hold if an element within a text shows nothing, or nothing of use, and its selector."""
_HIDDEN_WORDS = (("aria-hidden", '[aria-hidden="true"]'), ("visually-hidden", ".visually-hidden"))
"""The same with the word hidden in it."""
_FORMULA_SCRIPT = re.compile(
    r"<script\b[^>]*\btype\s*=\s*[\"']?math/tex(;\s*mode=display)?[^>]*>(.*?)(?:</script\b|\Z)", re.I | re.S
)
_FORMULA_PICTURE = re.compile(r"<img\b[^>]*\bclass\s*=\s*[\"']?[^\"'>]*(?:latex|math|tex)\b", re.IGNORECASE)
_ALT_TEXT = re.compile(r"\balt\s*=\s*(?:\"([^\"]*)\"|'([^']*)')", re.IGNORECASE)
_FORMATTING = re.compile(
    r"</?(?:span|code|em|strong|b|i|tt|font|u|small|var|samp|kbd|cite|abbr|acronym|big|dfn)"
    rf"(?:>|\s[^<>=]*+(?:{_VALUE}[^<>=]*+)*+>)"
)
_HEADING_BUTTON = _compile(r"(<(?:h[1-6]|summary)\b[^<>]*+>\s*+(?:<(?:span|div|a)\b[^<>]*+>\s*+)*+)<button\b")
_CLOSES_ITSELF = _compile(r"<(button|label|object|video|audio|canvas)\b[^<>]*+(?<=/)>")
"""What hides its text, and the text behind it where a parser passes over the sign."""
_PILCROW = re.compile(r"\s*+(?:[¶#§⚓⁋∞🔗\ue000-\uf8ff]|&para;|&#182;|&#xb6;|&#x[ef]\w{3};)\ufe0f?\s*+", re.IGNORECASE)
"""What a heading's link to itself shows, and icons, which only fonts of their own have."""
_MAX_PILCROW = 12
"""Characters; looking at longer text finds nothing."""
_CLOSED = frozenset({"button", "label", "object", "video", "audio", "canvas"})
_VOID = frozenset({"", "img", "area"})
"""What has no end tag anyway."""
_UNQUOTED_END = re.compile(r"=\s*[^\s\"'=<>]+/>\Z")

_MAX_LIST_DEPTH = 50
"""Each level is indented by two blanks more, so that a megabyte of lists within lists would give gigabytes of them."""
_PLAIN_TAGS = {name: f"<{name}>" for name in _KINDS if name not in (None, "ol", "li")} | {
    # What describes pictures stands where no sentence expects it.
    **dict.fromkeys(("a", "/a", "img", "/img", "area", "/area"), ""),
    # resiliparse 2.0.1 takes it for a word of what follows.
    "summary": "<div>",
    "/summary": "</div>",
}
"""Without attributes, but for those of lists, which may number them."""


@dataclass(slots=True)
class PageSource:
    """A page in pieces: each text is followed by the tag at the same place, the last text by none."""

    texts: list[str]
    """With the tags of single words in them."""
    tags: list[str]
    names: list[str]
    """Such as div and /div, in small letters; empty for what is no tag."""
    kinds: bytearray
    title: str = ""
    features: frozenset[str] = frozenset()
    """Which of some elements there are."""
    hidden: list[str] = field(default_factory=list)
    """Selectors of elements that show nothing, or nothing of use."""
    has_formatting: bool = True
    """Whether there are tags of single words in the texts, other than a few."""
    link_breaks: list[int] = field(default_factory=list)
    """Places of tags before which a link ends that no tag closes."""

    @property
    def has_fields(self) -> bool:
        """Return whether there are elements that a person fills in."""
        return not self.features.isdisjoint(_FIELDS)

    def find_link_ends(self, links: list[int]) -> list[int]:
        """Places of the tags at which links end, given those of their start tags, of which each ends the one before."""
        kinds = self.kinds + bytes((LINK_END,))
        for place in self.link_breaks:
            kinds[place] = LINK_END
        return [link + 1 if kinds[link + 1] == LINK_END else _find_link_end(kinds, link + 1) for link in links]

    def replace(self, start: int, end: int, tag: str, *, has_ends_in_text: bool) -> None:
        """Put one tag in place of those from one place up to, and without, another, and of the texts between them.

        Args:
            has_ends_in_text: whether end tags in the text behind belong to what is replaced, and what they end.
        """
        num_tags = end - start
        if has_ends_in_text and "</" in self.texts[end]:
            self.texts[end] = _ENDS_IN_TEXT.sub("", self.texts[end])
        self.texts[start + 1 : end] = [""] * (num_tags - 1)
        self.tags[start:end] = [tag, *[""] * (num_tags - 1)]
        self.names[start:end] = [""] * num_tags

    def close_tag(self, place: int) -> None:
        """Put an end tag behind a start tag."""
        self.tags[place] += f"</{self.names[place]}>"
        self.names[place], self.kinds[place] = "", PLAIN

    def closes_itself(self, place: int) -> bool:
        """Return whether a tag ends with "/>" that is no part of an unquoted value."""
        return self.tags[place][-2:] == "/>" and not _UNQUOTED_END.search(self.tags[place])

    def join(self) -> str:
        """Return the whole page."""
        return self._join(self.tags)

    def join_plainly(self) -> str:
        """Return the page without links, and without what attributes say of blocks: it is parsed in less time."""
        return self._join(list(map(_PLAIN_TAGS.get, self.names, self.tags)))

    def _join(self, tags: list[str]) -> str:
        pieces = [""] * (2 * len(tags) + 1)
        pieces[::2], pieces[1::2] = self.texts, tags
        return "".join(pieces)


def find_places(kinds: bytearray, kind: int) -> list[int]:
    """Return where a kind stands among others."""
    places = []
    place = kinds.find(kind)
    while place >= 0:
        places.append(place)
        place = kinds.find(kind, place + 1)
    return places


def _find_link_end(kinds: bytearray, place: int) -> int:
    while kinds[place] not in (LINK, LINK_END):
        place += 1
    return place


def read_source(page: str, *, keeps_formatting: bool = False) -> PageSource:
    """Cut a page into pieces, without comments, scripts and the like, and repair its tags.

    Anchors without an address are no links, and signs that link to the place where they stand are no text. A tag that
    ends with "/>" is closed, as whoever wrote it meant, whether the page is XHTML or not. A link that no tag closes
    ends where a block does. What hides all that follows, and is never closed, is taken away. Formulas that are scripts
    or pictures become text.

    Args:
        keeps_formatting: keep the tags of single words, which are nothing to a text.
    """
    if "\0" in page:
        page = page.replace("\0", "")
    features = frozenset(_FEATURES.findall(page))
    is_of_capitals = not features.isdisjoint(_CAPITALS)
    if is_of_capitals:
        features = frozenset(_FEATURES.findall(page.lower()))
    if "button" in features:
        # Buttons are left out, but those of headings show and hide what is below them.
        page = _HEADING_BUTTON[is_of_capitals].sub(r"\1<span", page)
    if "sup" in features or "sub" in features:
        page = write_raised_numbers(page)
    if not features.isdisjoint(_CLOSED):
        page = _CLOSES_ITSELF[is_of_capitals].sub(_close_tag, page)
    hidden = [selector for word, selector in _HIDING_WORDS if word in page]
    if "hidden" in page:
        hidden += [selector for word, selector in _HIDDEN_WORDS if word in page]
    has_formatting = keeps_formatting or bool(hidden) or "math" in features
    if not has_formatting:
        page = _FORMATTING.sub("", page)
    source = _build(_split(page, is_of_capitals=is_of_capitals), has_math="math" in features)
    source.features, source.has_formatting = features, has_formatting
    source.hidden += hidden
    source.hidden += _PICTURES & features
    if source.kinds.count(START) > _MAX_LIST_DEPTH and _count_lists(source) > _MAX_LIST_DEPTH:
        _flatten_lists(source)
    if "/>" in page:
        for place in [place for place, tag in enumerate(source.tags) if "/>" in tag]:
            if source.names[place] not in _VOID and source.closes_itself(place):
                source.close_tag(place)
    if source.kinds.count(LINK) > source.kinds.count(LINK_END):
        _close_links(source)
    return source


def _split(page: str, *, is_of_capitals: bool) -> list[str]:
    """Texts, tags, names of tags, and names of elements whose text is no mark-up, in turn."""
    token = _TOKEN[is_of_capitals]
    parts: list[str] = token.split(page)
    # An element that is never closed, and would hide all that follows, is one tag with it. Without its start tags it is
    # cut up like the rest; each of the names may come up once.
    while len(parts) > 1 and not parts[-1] and (name := (parts[-2] or "").lower()) and name not in _CODE:
        rest = parts[-4]
        if re.search(rf"</{name}[^<>]*>?\Z", rest, re.IGNORECASE):
            break
        parts[-5:] = token.split(parts[-5] + re.sub(rf"<{name}\b[^>]*>", "", rest, flags=re.IGNORECASE))
    if is_of_capitals:
        parts[2::4] = [name and name.lower() for name in parts[2::4]]
        parts[3::4] = [name and name.lower() for name in parts[3::4]]
    return parts


def _build(parts: list[str], *, has_math: bool) -> PageSource:
    texts, tags, names, raw = parts[::4], parts[1::4], parts[2::4], parts[3::4]
    kinds = bytearray(map(_KINDS.__getitem__, names))
    source = PageSource(texts=texts, tags=tags, names=names, kinds=kinds)
    for place in find_places(kinds, OTHER):
        tag, names[place] = tags[place], ""
        if raw[place] == "title" and not source.title:
            source.title = html.unescape(_ANY_TAG.sub("", tag)).strip()
        if raw[place] == "script" and "math/tex" in tag[:100] and (formula := _FORMULA_SCRIPT.match(tag)):
            tags[place] = _write_formula(formula[2], is_display=formula[1] is not None)
        elif raw[place] not in _SHOWN or tag[-2:] == "/>":
            tags[place] = ""
    if not has_math:
        for place in find_places(kinds, IMAGE):
            tag = tags[place]
            if ("latex" in tag or "math" in tag or "tex" in tag) and _FORMULA_PICTURE.match(tag):
                alt = _ALT_TEXT.search(tag)
                tags[place] = _write_formula(html.unescape(alt[1] or alt[2] or "") if alt else "", is_display=False)
                names[place] = ""
    for place in find_places(kinds, LINK):
        tag, text = tags[place], texts[place + 1]
        if "href" not in tag and "HREF" not in tag:
            tags[place], kinds[place] = "", PLAIN
        # The first look settles most: words begin with letters.
        if not text[:1].isalpha() and len(text) <= _MAX_PILCROW and _PILCROW.fullmatch(text):
            texts[place + 1] = ""
    return source


def _write_formula(tex: str, *, is_display: bool) -> str:
    return html.escape(format_formula(tex, is_display=is_display), quote=False)


def _close_tag(found: re.Match[str]) -> str:
    return found[0] if _UNQUOTED_END.search(found[0]) else f"{found[0][:-2]}></{found[1]}>"


def _count_lists(source: PageSource) -> int:
    return source.names.count("ul") + source.names.count("ol")


def _flatten_lists(source: PageSource) -> None:
    """Take away the tags of lists that lie too deep."""
    depth = 0
    for place, name in enumerate(source.names):
        if name in ("ul", "ol"):
            depth += 1
        if depth > _MAX_LIST_DEPTH and name in ("ul", "ol", "/ul", "/ol"):
            source.tags[place] = source.names[place] = ""
            source.kinds[place] = PLAIN
        if name in ("/ul", "/ol") and depth:
            depth -= 1


def _close_links(source: PageSource) -> None:
    """End each link that another follows, before an end tag, at the first block behind it."""
    is_open = False
    block: int | None = None
    for place, kind in enumerate(source.kinds + bytes((LINK,))):
        if kind >= HEADING_END:
            if is_open and block is None:
                block = place
        elif kind > OTHER:
            if kind == LINK and block is not None:
                source.texts[block] += "</a>"
                source.link_breaks.append(block)
            is_open, block = kind == LINK, None
