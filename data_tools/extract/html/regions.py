"""Find what is no main content of a web page, and cut it out of the source, before the page is parsed.

An element is left out for what its name and attributes say, or because most of its text is in links. The tree is not
walked: with resiliparse 2.0.1 each element takes some 2 us from Python, as long as eight tags of the source take here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from operator import sub
from typing import NamedTuple

from data_tools.extract.html.source import CONTAINERS, END, HEADING, ITEM, LINK, PARAGRAPH, ROW, START, PageSource
from data_tools.extract.html.words import Role, is_junk_link, judge_attributes

_NOTHING = "<div></div>"
_ROLES: dict[str, Role] = {
    "nav": "junk",
    "aside": "box",
    "article": "content",
    "main": "content",
    "section": "content",
    "header": "header",
    "footer": "footer",
}
_LISTS = frozenset({"ul", "ol", "dl", "menu"})
_CELLS = frozenset({"td", "th"})
_SCOPES = frozenset({"table", "td", "th"})
"""End tags do not reach beyond them."""
_MAX_SEARCH = 500
"""Open elements that an end tag is looked for among; browsers nest no deeper."""

# Which share of the page's text outside of links a region may hold and still be left out. One that holds more is the
# page, whatever its name says, or a tag that was never closed.
_MAX_SHARES: dict[str, float] = {"comments": 0.95, "junk": 0.9, "box": 0.5, "maybe_junk": 0.5}
_DOUBTFUL = ("box", "maybe_junk")
_MAX_DOUBTFUL_SHARE = 0.8
"""The same for all regions together whose names may stand for content as well."""
_MIN_PROSE = 80
"""Characters of a box that may belong to the text."""

_MIN_MUCH_PROSE = 1000
"""Characters of what is no banner or notice, although its name is one of theirs."""
_INLINE_TAG = re.compile("<[^<>\0]*+>")
_BETWEEN = "\0"
"""Parts texts that are measured together; a page's source has no such character (html_source.py)."""
_MIN_TEXT = 4
"""Characters; shorter pieces between links part them."""


class _Element(NamedTuple):
    """An element that is open."""

    name: str
    place: int
    """Of its start tag among the tags of the page."""
    role: Role
    is_in_content: bool
    num_links: int
    num_items: int
    """Of the page, before it."""


@dataclass(frozen=True, slots=True)
class _Region:
    """What may be left out."""

    start: int
    end: int
    """Places among the tags of the page; that of the end is the first behind it."""
    reason: str


def remove_regions(source: PageSource, *, comments: bool) -> None:
    """Take away what is no main content.

    Args:
        comments: whether readers' comments stay.
    """
    sizes = _Sizes(source)
    regions = _RegionFinder(source, sizes, keeps_comments=comments).find()
    for region in _choose(regions, sizes):
        # What stood before and behind a block stays apart.
        tag = "" if source.names[region.start] in _CELLS else _NOTHING
        source.replace(region.start, region.end, tag)


class _Sizes:
    """Characters of text, and of links, up to each tag."""

    def __init__(self, source: PageSource) -> None:
        links = [place for place, kind in enumerate(source.kinds) if kind == LINK]
        link_ends = source.find_link_ends(links)
        remove_junk_links(source, links, link_ends)
        sizes = _measure(source.texts, has_tags=source.has_formatting)
        link_sizes = [0] * len(sizes)
        for link, link_end in zip(links, link_ends, strict=True):
            link_sizes[link + 1 : link_end + 1] = sizes[link + 1 : link_end + 1]
        # Short pieces of text between links only part them.
        own_sizes = [size if size >= _MIN_TEXT else 0 for size in map(sub, sizes, link_sizes)]
        self._own, self._links = list(accumulate(own_sizes)), list(accumulate(link_sizes))

    def measure(self, start: int, end: int) -> tuple[int, int]:
        """Characters between two tags: in links, and outside of them."""
        return self._links[end] - self._links[start], self._own[end] - self._own[start]

    @property
    def own_size(self) -> int:
        """Characters of the page outside of links."""
        return self._own[-1]


def _measure(texts: list[str], *, has_tags: bool) -> list[int]:
    """Characters of each text, without the tags of single words."""
    joined = _BETWEEN.join(texts)
    if has_tags or "&nbsp;" in joined:
        texts = _INLINE_TAG.sub("", joined.replace("&nbsp;", " ")).split(_BETWEEN)
    sizes = list(map(len, map(str.strip, texts)))
    for place in [place for place, text in enumerate(texts) if "<" in text]:
        sizes[place] = len(_INLINE_TAG.sub("", texts[place]).strip())
    if not joined.isascii() and len(joined.encode("utf-8", "replace")) > 1.3 * len(joined):
        # A character of Chinese says as much as two letters or more.
        sizes = [2 * size for size in sizes]
    return sizes


def remove_junk_links(source: PageSource, links: list[int], link_ends: list[int]) -> None:
    """Take away the texts of links that lead through the pages."""
    for link, link_end in zip(links, link_ends, strict=True):
        tag = source.tags[link]
        if ("class" in tag or "rel" in tag) and is_junk_link(tag):
            source.texts[link + 1 : link_end + 1] = [""] * (link_end - link)


class _RegionFinder:
    """Finds what may be left out of one page."""

    def __init__(self, source: PageSource, sizes: _Sizes, *, keeps_comments: bool) -> None:
        self._source, self._sizes, self._keeps_comments = source, sizes, keeps_comments
        self._found: list[_Region] = []
        self._open: list[_Element] = []
        self._num_open = dict.fromkeys(CONTAINERS, 0)
        self._num_content = 0
        """How many of them say that they hold the content."""
        self._num_links = self._num_items = 0
        self._heading = -1
        """Place of the last heading that is no link."""
        self._paragraph: int | None = None
        """Place of the open paragraph's start tag."""
        self._links_before_paragraph = 0

    def find(self) -> list[_Region]:
        """In the order of their ends."""
        names, link, item = self._source.names, LINK, ITEM
        for place, kind in enumerate(self._source.kinds):
            if kind < link:
                continue
            if kind == link:
                self._num_links += 1
                continue
            if self._paragraph is not None:
                self._end_paragraph(place)
            if kind == END:
                self._end(names[place][1:], place)
            elif kind == START:
                if names[place] in _CELLS:
                    self._end_cell(place)
                self._push(names[place], place)
            elif kind == PARAGRAPH:
                self._paragraph, self._links_before_paragraph = place, self._num_links
            elif kind == item:
                self._num_items += 1
            elif kind == HEADING:
                if self._source.kinds[place + 1 : place + 2] != [LINK] or self._source.texts[place + 1].strip():
                    self._heading = place
            elif kind == ROW:
                self._end_cell(place)
        if self._paragraph is not None:
            self._end_paragraph(len(names))
        while self._open:
            self._pop(len(names), is_unclosed=True)
        return self._found

    def _end_paragraph(self, place: int) -> None:
        start, self._paragraph = self._paragraph, None
        num_links = self._num_links - self._links_before_paragraph
        if num_links and start is not None and self._is_cluster("p", start, place, num_links=num_links):
            self._found.append(_Region(start, place, "links"))

    def _end_cell(self, place: int) -> None:
        """End the cell that is open in the table, since end tags of cells are often left out."""
        if self._num_open["table"]:
            while self._open[-1].name != "table":
                self._pop(place)

    def _push(self, name: str, place: int) -> None:
        tag = self._source.tags[place]
        role = judge_attributes(tag) if len(tag) > len(name) + 2 else ""
        if role in ("", "content"):
            role = _ROLES.get(name, role)
        self._open.append(_Element(name, place, role, self._num_content > 0, self._num_links, self._num_items))
        self._num_open[name] += 1
        self._num_content += role == "content"

    def _end(self, name: str, place: int) -> None:
        if not self._num_open[name]:
            return
        depth = len(self._open) - 1
        if self._open[depth].name != name:
            last = max(0, depth - _MAX_SEARCH)
            while self._open[depth].name != name:
                if depth == last or (self._open[depth].name in _SCOPES and name != "table"):
                    return
                depth -= 1
            while len(self._open) > depth + 1:
                self._pop(place)
        self._pop(place, has_end_tag=True)

    def _pop(self, place: int, *, has_end_tag: bool = False, is_unclosed: bool = False) -> None:
        element = self._open.pop()
        self._num_open[element.name] -= 1
        role = element.role
        if role == "content":
            self._num_content -= 1
        elif not role and element.num_links == self._num_links:
            return
        reason = self._judge(element, place)
        if reason:
            if is_unclosed and reason == "junk":
                reason = "maybe_junk"
            self._found.append(_Region(element.place, place + has_end_tag, reason))

    def _judge(self, element: _Element, end: int) -> str:
        """Return why an element may be left out; empty where nothing speaks for it."""
        role = element.role
        if role == "comments":
            return "" if self._keeps_comments else role
        if role == "junk":
            return role
        num_links, num_items = self._num_links - element.num_links, self._num_items - element.num_items
        if self._is_cluster(element.name, element.place, end, num_links=num_links, num_items=num_items):
            return "links"
        if role in ("", "content") or (role == "header" and (element.is_in_content or self._heading > element.place)):
            return ""
        link_size, own_size = self._sizes.measure(element.place, end)
        size = link_size + own_size
        is_prose = size >= _MIN_PROSE and link_size < 0.25 * size
        if role == "mixed" or (element.is_in_content and role != "maybe_junk"):
            return "" if is_prose else "box"
        if role == "maybe_junk" and is_prose and size >= _MIN_MUCH_PROSE:
            return ""
        return "box" if role == "box" else "maybe_junk"

    def _is_cluster(self, name: str, start: int, end: int, *, num_links: int, num_items: int = 0) -> bool:
        """Return whether most of an element's text is in links."""
        if not num_links or self._heading > start:
            return False
        link_size, own_size = self._sizes.measure(start, end)
        if name in _LISTS:
            return link_size > 1.5 * own_size and own_size < 25 * max(num_items, 1)
        return num_links >= 3 and link_size > 3 * own_size and own_size < 12 * num_links


def _choose(regions: list[_Region], sizes: _Sizes) -> list[_Region]:
    """Return the regions that are left out, none within another."""
    total = sizes.own_size
    chosen = list(_choose_outermost(regions, sizes, total=total))
    doubtful = [region for region in chosen if region.reason in _DOUBTFUL]
    if sum(_measure_own(region, sizes) for region in doubtful) > _MAX_DOUBTFUL_SHARE * total:
        sure = [region for region in regions if region.reason not in _DOUBTFUL]
        chosen = list(_choose_outermost(sure, sizes, total=total))
    return chosen


def _choose_outermost(regions: list[_Region], sizes: _Sizes, *, total: int) -> Iterator[_Region]:
    end = 0
    for region in sorted(regions, key=lambda region: (region.start, -region.end)):
        if region.start < end:
            continue
        share = _MAX_SHARES.get(region.reason)
        if share is None or _measure_own(region, sizes) <= share * total:
            end = region.end
            yield region


def _measure_own(region: _Region, sizes: _Sizes) -> int:
    return sizes.measure(region.start, region.end - 1)[1]
