"""Find what is no main content of a web page, and cut it out of the source, before the page is parsed.

An element is left out for what its name and attributes say, or because most of its text is in links. The tree is not
walked: with resiliparse 2.0.1 each element takes some 2 us from Python, as long as eight tags of the source take here.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from data_tools.html_source import (
    CONTAINERS,
    END,
    HEADING,
    ITEM,
    LINK,
    PARAGRAPH,
    ROW,
    START,
    PageSource,
)
from data_tools.html_words import Role, is_junk_link, judge_attributes

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

_INLINE_TAG = re.compile("<[^>]*+>|&nbsp;")
_BETWEEN = "\0"
"""Parts texts that are measured together; HTML has no such character."""
_MIN_TEXT = 4
"""Characters; shorter pieces between links part them."""
_MAX_MEASURED = 20
"""Texts that are measured, for each of the page: those of lists within lists are measured again."""


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
    sizes.remove_junk_links(source)
    regions = _RegionFinder(source, sizes, keeps_comments=comments).find()
    for region in _choose(regions, sizes):
        # What stood before and behind a block stays apart.
        tag = "" if source.names[region.start] in _CELLS else _NOTHING
        source.replace(region.start, region.end, tag)


class _Sizes:
    """Measures texts, when somebody asks."""

    def __init__(self, source: PageSource) -> None:
        self._texts = source.texts
        self._links = [place for place, kind in enumerate(source.kinds) if kind == LINK]
        self._link_ends = source.find_link_ends(self._links)
        self._sums: list[int] | None = None
        """Characters up to each text."""
        self._num_left = _MAX_MEASURED * len(source.texts)

    def __len__(self) -> int:
        return len(self._texts)

    def remove_junk_links(self, source: PageSource) -> None:
        """Take away the texts of links that lead through the pages."""
        for link, link_end in zip(self._links, self._link_ends, strict=True):
            tag = source.tags[link]
            if ("class" in tag or "rel" in tag) and is_junk_link(tag):
                self._texts[link + 1 : link_end + 1] = [""] * (link_end - link)

    def measure(self, start: int, end: int) -> tuple[int, int]:
        """Characters of text between two tags, and those in links; neither when enough was measured."""
        self._num_left -= end - start
        if self._num_left < 0:
            return 0, 0
        size = _measure(self._texts[start + 1 : end + 1], least=_MIN_TEXT)
        first, behind = bisect_left(self._links, start), bisect_left(self._links, end)
        spans = zip(self._links[first:behind], self._link_ends[first:behind], strict=True)
        link_texts = ["".join(self._texts[link + 1 : link_end + 1]) for link, link_end in spans]
        link_size = _measure(link_texts)
        return max(size, link_size), link_size

    def measure_roughly(self, start: int, end: int) -> int:
        """Characters outside of links, with the tags of single words, which are many in code."""
        if self._sums is None:
            sizes = list(map(len, map(str.strip, self._texts)))
            for link in self._links:
                sizes[link + 1] = 0
            self._sums = list(accumulate(sizes))
        return self._sums[min(end, len(self._texts) - 1)] - (self._sums[start] if start >= 0 else 0)


def _measure(texts: list[str], *, least: int = 1) -> int:
    joined = _BETWEEN.join(texts)
    if "<" in joined or "&nbsp;" in joined:
        joined = _INLINE_TAG.sub("", joined)
    if joined.isascii():
        return sum([size for size in map(len, map(str.strip, joined.split(_BETWEEN))) if size >= least])
    # A character of Chinese says as much as two letters or more.
    sizes = ((2 - text.isascii()) * len(text.strip()) for text in joined.split(_BETWEEN))
    return sum(size for size in sizes if size >= least)


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
        names = self._source.names
        for place, kind in enumerate(self._source.kinds):
            if kind < LINK:
                continue
            if kind == LINK:
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
            elif kind == ITEM:
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
        if start is not None and num_links and self._is_cluster("p", start, place, num_links=num_links):
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
        """Why an element may be left out; empty where nothing speaks for it."""
        role = element.role
        if role == "comments":
            return "" if self._keeps_comments else role
        if role in ("junk", "maybe_junk"):
            return role
        num_links, num_items = self._num_links - element.num_links, self._num_items - element.num_items
        if self._is_cluster(element.name, element.place, end, num_links=num_links, num_items=num_items):
            return "links"
        if role in ("", "content") or (role == "header" and (element.is_in_content or self._heading > element.place)):
            return ""
        size, link_size = self._sizes.measure(element.place, end)
        is_prose = size >= _MIN_PROSE and link_size < 0.25 * size
        if role == "mixed" or element.is_in_content:
            return "" if is_prose else "box"
        return "box" if role == "box" else "maybe_junk"

    def _is_cluster(self, name: str, start: int, end: int, *, num_links: int, num_items: int = 0) -> bool:
        """Whether most of an element's text is in links."""
        is_list = name in _LISTS
        # Counting tags is quicker than measuring texts; a link takes two, and two or four more where each is in a box.
        if not num_links or self._heading > start or not (is_list or 3 <= num_links >= (end - start) / 10):
            return False
        size, link_size = self._sizes.measure(start, end)
        own_size = size - link_size
        if is_list:
            return link_size > 0.6 * size and own_size < 25 * max(num_items, 1)
        return link_size > 0.75 * size and own_size < 12 * num_links


def _choose(regions: list[_Region], sizes: _Sizes) -> list[_Region]:
    """The regions that are left out, none within another."""
    total = sizes.measure_roughly(-1, len(sizes))
    chosen = list(_choose_outermost(regions, sizes, total=total))
    doubtful = [region for region in chosen if region.reason in _DOUBTFUL]
    if sum(sizes.measure_roughly(region.start, region.end) for region in doubtful) > _MAX_DOUBTFUL_SHARE * total:
        sure = [region for region in regions if region.reason not in _DOUBTFUL]
        chosen = list(_choose_outermost(sure, sizes, total=total))
    return chosen


def _choose_outermost(regions: list[_Region], sizes: _Sizes, *, total: int) -> Iterator[_Region]:
    end = 0
    for region in sorted(regions, key=lambda region: (region.start, -region.end)):
        if region.start < end:
            continue
        share = _MAX_SHARES.get(region.reason)
        if share is None or sizes.measure_roughly(region.start, region.end) <= share * total:
            end = region.end
            yield region
