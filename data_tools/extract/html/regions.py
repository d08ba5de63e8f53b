"""Find what is no main content of a web page, and cut it out of the source, before the page is parsed.

An element is left out for what its name and attributes say, or because most of its text is in links. The tree is not
walked: with resiliparse 2.0.1 each element takes some 2 us from Python, as long as eight tags of the source take here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

from data_tools.extract.html.source import (
    CONTAINERS,
    END,
    HEADING,
    ITEM,
    LINK,
    PARAGRAPH,
    ROW,
    START,
    PageSource,
    find_places,
)
from data_tools.extract.html.words import Role, is_junk_link, judge_element

_NOTHING = "<div></div>"
_WEAK_ROLES = frozenset({"", "content"})
"""Roles of elements that stay unless most of their text is in links."""
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
_MIN_LINKS = 3
"""Links of a cluster that is no list."""
_LINK = bytes((LINK,))
_MIN_TEXT = 4
"""Characters; shorter pieces between links part them."""


_Element: TypeAlias = tuple[str, int, Role, bool, int, int]
"""An open element: its name, the place of its start tag, its role, whether it stands in content, and how many links and
items the page has before it. A plain tuple, since a page has hundreds and a named one takes three times as long."""


@dataclass(frozen=True, slots=True)
class _Region:
    """What may be left out."""

    start: int
    end: int
    """Places among the tags of the page; that of the end is the first behind it."""
    reason: str
    has_end_tag: bool


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
        source.replace(region.start, region.end, tag, has_ends_in_text=not region.has_end_tag)


class _Sizes:
    """Characters of text, and of links, up to each tag."""

    def __init__(self, source: PageSource) -> None:
        links = find_places(source.kinds, LINK)
        link_ends = source.find_link_ends(links)
        remove_junk_links(source, links, link_ends)
        own_sizes = _measure(source.texts)
        link_sizes = [0] * len(own_sizes)
        for link, link_end in zip(links, link_ends, strict=True):
            if link_end == link + 1:
                link_sizes[link_end], own_sizes[link_end] = own_sizes[link_end], 0
            else:
                link_sizes[link + 1 : link_end + 1] = own_sizes[link + 1 : link_end + 1]
                own_sizes[link + 1 : link_end + 1] = [0] * (link_end - link)
        # Short pieces of text between links only part them.
        own_sizes = [size if size >= _MIN_TEXT else 0 for size in own_sizes]
        self._own, self._links = list(accumulate(own_sizes)), list(accumulate(link_sizes))

    def measure(self, start: int, end: int) -> tuple[int, int]:
        """Characters between two tags: in links, and outside of them."""
        return self._links[end] - self._links[start], self._own[end] - self._own[start]

    @property
    def own_size(self) -> int:
        """Characters of the page outside of links."""
        return self._own[-1]


def _measure(texts: list[str]) -> list[int]:
    """Characters of each text, without the tags in it."""
    joined = _BETWEEN.join(texts)
    texts = _INLINE_TAG.sub("", joined.replace("&nbsp;", " ")).split(_BETWEEN)
    sizes = list(map(len, map(str.strip, texts)))
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

    def find(self) -> list[_Region]:
        """In the order of their ends."""
        names, kinds, texts, open_ = self._source.names, self._source.kinds, self._source.texts, self._open
        paragraph, links_before = -1, 0
        for place, kind in enumerate(kinds):
            if kind < LINK:
                continue
            if kind == LINK:
                self._num_links += 1
                continue
            if paragraph >= 0:
                self._end_paragraph(paragraph, place, num_links=self._num_links - links_before)
                paragraph = -1
            if kind == END:
                name = names[place][1:]
                if open_ and open_[-1][0] == name:
                    self._pop(place, has_end_tag=True)
                elif self._num_open[name]:
                    self._end(name, place)
            elif kind == START:
                if names[place] in _CELLS:
                    self._end_cell(place)
                self._push(names[place], place)
            elif kind == PARAGRAPH:
                paragraph, links_before = place, self._num_links
            elif kind == ITEM:
                self._num_items += 1
            elif kind == HEADING:
                if kinds[place + 1 : place + 2] != _LINK or texts[place + 1].strip():
                    self._heading = place
            elif kind == ROW:
                self._end_cell(place)
        if paragraph >= 0:
            self._end_paragraph(paragraph, len(names), num_links=self._num_links - links_before)
        while self._open:
            self._pop(len(names), is_unclosed=True)
        return self._found

    def _end_paragraph(self, start: int, end: int, *, num_links: int) -> None:
        if num_links >= _MIN_LINKS and self._is_cluster("p", start, end, num_links=num_links):
            self._found.append(_Region(start, end, "links", has_end_tag=False))

    def _end_cell(self, place: int) -> None:
        """End the cell that is open in the table, since end tags of cells are often left out."""
        if self._num_open["table"]:
            while self._open[-1][0] != "table":
                self._pop(place)

    def _push(self, name: str, place: int) -> None:
        role = judge_element(name, self._source.tags[place])
        self._open.append((name, place, role, self._num_content > 0, self._num_links, self._num_items))
        self._num_open[name] += 1
        if role == "content":
            self._num_content += 1

    def _end(self, name: str, place: int) -> None:
        """End an open element, and those that are open within it, unless it is too far out."""
        open_ = self._open
        depth = len(open_) - 1
        last = max(0, depth - _MAX_SEARCH)
        while open_[depth][0] != name:
            if depth == last or (open_[depth][0] in _SCOPES and name != "table"):
                return
            depth -= 1
        while len(open_) > depth + 1:
            self._pop(place)
        self._pop(place, has_end_tag=True)

    def _pop(self, place: int, *, has_end_tag: bool = False, is_unclosed: bool = False) -> None:
        element = self._open.pop()
        name, start, role, _, links_before, _ = element
        self._num_open[name] -= 1
        if role == "content":
            self._num_content -= 1
        elif not role and links_before == self._num_links:
            return
        reason = self._judge(element, place)
        if reason:
            if is_unclosed and reason == "junk":
                reason = "maybe_junk"
            self._found.append(_Region(start, place + has_end_tag, reason, has_end_tag))

    def _judge(self, element: _Element, end: int) -> str:
        """Return why an element may be left out; empty where nothing speaks for it."""
        name, start, role, is_in_content, links_before, items_before = element
        if role == "comments":
            return "" if self._keeps_comments else role
        if role == "junk":
            return role
        num_links = self._num_links - links_before
        if self._is_cluster(name, start, end, num_links=num_links, num_items=self._num_items - items_before):
            return "links"
        if role in _WEAK_ROLES or (role == "header" and (is_in_content or self._heading > start)):
            return ""
        link_size, own_size = self._sizes.measure(start, end)
        size = link_size + own_size
        is_prose = size >= _MIN_PROSE and link_size < 0.25 * size
        if role == "mixed" or (is_in_content and role != "maybe_junk"):
            return "" if is_prose else "box"
        if role == "maybe_junk" and is_prose and size >= _MIN_MUCH_PROSE:
            return ""
        return "box" if role == "box" else "maybe_junk"

    def _is_cluster(self, name: str, start: int, end: int, *, num_links: int, num_items: int = 0) -> bool:
        """Return whether most of an element's text is in links."""
        if not num_links or self._heading > start:
            return False
        if name in _LISTS:
            link_size, own_size = self._sizes.measure(start, end)
            return link_size > 1.5 * own_size and own_size < 25 * max(num_items, 1)
        if num_links < _MIN_LINKS:
            return False
        link_size, own_size = self._sizes.measure(start, end)
        return link_size > 3 * own_size and own_size < 12 * num_links


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
