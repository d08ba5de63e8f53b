"""Web pages whose text is known by element, for benchmarks/extraction.py: made ones, and real ones read with lxml.

Made pages have the mark-up of systems that many sites use (Sphinx, DocBook, Jekyll, WordPress, MediaWiki, Bootstrap,
tables for layout, pages without any block), each with content of all kinds and menus of all kinds. Of real pages, an
element counts as content unless it stands in something that says it is a menu, or shows nothing.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import lxml.html

ROWS = ("p", "headings", "td", "dd", "prose li", "pre", "figure", "menus")
NUM_MADE_OF_EACH = 8
MIN_PROSE = 40
"""Characters of a list's item that is prose."""
_WORDS = re.findall(
    r"\w+",
    """river stone garden window market winter letter bridge copper thunder village engine harbour lantern meadow pepper
    quarry ribbon saddle timber velvet walnut yellow anchor barrel candle dragon ember falcon glacier hammer island
    jungle kettle ladder marble needle orchard planet quiver rocket silver temple umbrella valley wagon zephyr measure
    follow gather carry listen remember between without against under during across whole narrow heavy early""",
)


@dataclass(kw_only=True)
class LabelledPage:
    """A page, and the texts that it holds, by row of the table."""

    content: bytes
    texts: list[tuple[str, str]] = field(default_factory=list)
    rest: str = ""
    """All text but that of menus: what they repeat of it may be kept there."""


class _Writer:
    """Makes up texts and notes what they are; no two are equal."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.texts: list[tuple[str, str]] = []

    def text(self, row: str, *, num_words: int) -> str:
        """Words for an element."""
        text = " ".join(self._random.choice(_WORDS) for _ in range(num_words)).capitalize()
        text = f"{text} {self._random.randrange(10**6)}"
        self.texts.append((row, text))
        return text

    def sentence(self, row: str) -> str:
        """A sentence or two, with a link in some of them."""
        words = self.text(row, num_words=self._random.randint(14, 40)).split()
        if self._random.random() < 0.4:
            words[3] = f'<a href="/x">{words[3]}'
            words[5] = f"{words[5]}</a>"
        return f"{' '.join(words)}."

    def content(self) -> str:
        """Sections with content of all kinds."""
        return "".join(self._section() for _ in range(self._random.randint(2, 4)))

    def _section(self) -> str:
        heading = self.text("headings", num_words=4)
        paragraphs = "".join(f"<p>{self.sentence('p')}</p>" for _ in range(3))
        items = "".join(f"<li>{self.sentence('prose li')}</li>" for _ in range(4))
        terms = "".join(
            f"<dt><code>{self._random.choice(_WORDS)}</code></dt><dd>{self.sentence('dd')}</dd>" for _ in range(3)
        )
        rows = "".join(
            f"<tr><td>{self.text('td', num_words=3)}</td><td>{self.text('td', num_words=2)}</td></tr>" for _ in range(4)
        )
        code = "\n    ".join(self.text("pre", num_words=5) for _ in range(3))
        return (
            f"<h2>{heading}</h2>{paragraphs}<ul>{items}</ul><dl>{terms}</dl><table>{rows}</table><pre>{code}</pre>"
            f"{self._figure()}"
        )

    def _figure(self) -> str:
        return self._random.choice(
            (
                lambda: f"<figure class=highlight><pre><code>{self.text('figure', num_words=9)}</code></pre></figure>",
                lambda: (
                    "<figure class=wp-block-table><table><tr><td>"
                    f"{self.text('figure', num_words=3)}</td><td>{self.text('figure', num_words=3)}</td></tr></table></figure>"
                ),
                lambda: f"<figure><blockquote><p>{self.sentence('figure')}</p></blockquote></figure>",
                lambda: f"<figure><img src=x alt=x><figcaption>{self.sentence('figure')}</figcaption></figure>",
            )
        )()

    def links(self, *, num_links: int = 8) -> list[str]:
        """Links of a menu."""
        return [
            f'<a href="/{number}">{self.text("menus", num_words=self._random.randint(1, 3))}</a>'
            for number in range(num_links)
        ]

    def items(self, *, num_links: int = 8) -> str:
        """A list of links."""
        return "".join(f"<li>{link}</li>" for link in self.links(num_links=num_links))

    def bar(self) -> str:
        """Links in a row."""
        return " | ".join(self.links())


def _sphinx(page: _Writer) -> str:
    content = page.content().replace("</h2>", '<a class="headerlink" href="#x" title="Permalink">¶</a></h2>')
    return (
        f'<div class="related" role="navigation"><ul>{page.items()}</ul></div><div class="document"><div class="bodywrapper">'
        f'<div class="body" role="main"><section id="x"><h1>{page.text("headings", num_words=4)}</h1>{content}'
        f'<aside class="sidebar"><p class="sidebar-title">{page.text("p", num_words=6)}</p><p>{page.sentence("p")}</p>'
        f'</aside></section></div></div><div class="sphinxsidebar" role="navigation"><ul>{page.items()}</ul></div></div>'
        f'<div class="footer" role="contentinfo">{page.bar()}</div>'
    )


def _docbook(page: _Writer) -> str:
    content = page.content().replace("<h2>", '<h2 class="title"><a id="x"/>').replace("<p>", '<p><a name="y">')
    return (
        f'<div class="navheader"><table width="100%"><tr><td>{page.links(num_links=3)[0]}</td><td>{page.bar()}</td></tr>'
        f'</table><hr /></div><div class="chapter"><h1>{page.text("headings", num_words=5)}</h1><div class="toc"><ul>'
        f'{page.items()}</ul></div>{content}</div><div class="navfooter"><p>{page.bar()}</p></div>'
    )


def _jekyll(page: _Writer) -> str:
    return (
        f'<header class="site-header"><nav class="site-nav">{"".join(page.links())}</nav></header><main class="page-content">'
        f'<article class="post h-entry"><header class="post-header"><h1 class="post-title">{page.text("headings", num_words=5)}'
        f'</h1></header><div class="post-content e-content">{page.content()}</div></article></main>'
        f'<footer class="site-footer"><ul>{page.items()}</ul></footer>'
    )


def _wordpress(page: _Writer) -> str:
    return (
        f'<div id="page"><header id="masthead"><div class="menu-main-container"><ul class="menu">{page.items()}</ul></div>'
        f'</header><div id="content"><div id="primary"><main id="main"><article><header class="entry-header"><h1>'
        f'{page.text("headings", num_words=4)}</h1></header><div class="entry-content">{page.content()}</div>'
        f'<footer class="entry-footer">{page.bar()}</footer></article><nav class="post-navigation">{page.bar()}</nav></main>'
        f'</div><aside id="secondary" class="widget-area"><section class="widget"><h2>{page.text("menus", num_words=2)}</h2>'
        f'<ul>{page.items()}</ul></section><div class="tagcloud">{" ".join(page.links(num_links=20))}</div></aside></div>'
        f'<div class="site-info">{page.bar()}</div></div>'
    )


def _mediawiki(page: _Writer) -> str:
    content = page.content().replace("</h2>", '<span class="mw-editsection">[<a href="/e">edit</a>]</span></h2>')
    return (
        f'<div id="content" class="mw-body"><h1 id="firstHeading">{page.text("headings", num_words=3)}</h1>'
        f'<div id="mw-content-text"><div class="mw-parser-output">{content}<div class="navbox"><table><tr><td>{page.bar()}'
        f'</td></tr></table></div></div></div><div id="catlinks">{page.bar()}</div></div><div id="mw-navigation">'
        f'<div id="p-navigation" role="navigation"><ul>{page.items()}</ul></div></div><div id="footer"><ul>{page.items()}</ul></div>'
    )


def _bootstrap(page: _Writer) -> str:
    return (
        f'<nav class="navbar"><ul class="navbar-nav">{page.items()}</ul></nav><div class="container"><ol class="breadcrumb">'
        f'{page.items(num_links=3)}</ol><div class="row"><div class="col-md-9"><h1>{page.text("headings", num_words=4)}</h1>'
        f'{page.content()}<ul class="pagination">{page.items(num_links=4)}</ul></div><div class="col-md-3">'
        f'<div class="list-group">{"".join(page.links(num_links=12))}</div></div></div></div><footer>{page.bar()}</footer>'
    )


def _tables(page: _Writer) -> str:
    return (
        f'<table width="100%"><tr><td colspan=2>{page.bar()}<tr><td width=150>{"<br>".join(page.links(num_links=12))}<td>'
        f"<h1>{page.text('headings', num_words=4)}</h1>{page.content()}<tr><td colspan=2><center>{page.bar()}</center></table>"
    ).replace("<td>", "<TD>")


def _bare(page: _Writer) -> str:
    return f"<p>{page.bar()}</p><h1>{page.text('headings', num_words=4)}</h1>{page.content()}<hr><p>{page.bar()}</p>"


_SYSTEMS: tuple[Callable[[_Writer], str], ...] = (
    _sphinx, _docbook, _jekyll, _wordpress, _mediawiki, _bootstrap, _tables, _bare,
)  # fmt: skip


def make_pages() -> Iterator[LabelledPage]:
    """Make up pages; the same ones each time."""
    for system in _SYSTEMS:
        for number in range(NUM_MADE_OF_EACH):
            writer = _Writer(seed=number)
            body = system(writer)
            html = f'<!DOCTYPE html><html lang="en"><head><title>Page</title></head><body>{body}</body></html>'
            rest = "\n".join(text for row, text in writer.texts if row != "menus")
            yield LabelledPage(content=html.encode(), texts=writer.texts, rest=rest)


_MENU_WORDS = re.compile(
    r"(?:^|[\s_-])(?:nav|navbar|navigation|menu|breadcrumbs?|sidebar|footer|pagination|toc|navheader|navfooter|header)(?:$|[\s_-])",
    re.IGNORECASE,
)
_MENU_ROLES = frozenset({"navigation", "banner", "contentinfo", "search", "complementary", "menu", "menubar"})
_MENU_TAGS = frozenset({"nav", "footer", "aside"})
_UNSHOWN_TAGS = frozenset({"script", "style", "noscript", "template", "select", "button", "label", "textarea", "svg"})
_BLOCKS = frozenset({"p", "div", "ul", "ol", "dl", "table", "pre", "figure", "blockquote", "section", "h2", "h3"})
_BLOCKS_OF_PROSE = frozenset({"p", "div"})
_ELEMENTS = {
    "p": "p", "td": "td", "th": "td", "dd": "dd", "li": "prose li", "pre": "pre", "figure": "figure",
    **{f"h{level}": "headings" for level in range(1, 7)},
}  # fmt: skip


def label_page(content: bytes, text: str) -> LabelledPage:
    """Find the texts of a real page.

    Args:
        text: the page, decoded.
    """
    page = LabelledPage(content=content)
    try:
        body = lxml.html.document_fromstring(text.replace("\0", "").encode(), parser=_PARSER).find("body")
    except (ValueError, lxml.etree.ParserError):
        return page
    if body is not None:
        menus: list[lxml.html.HtmlElement] = []
        _label(body, page, menus)
        for menu in menus:
            menu.drop_tree()
        page.rest = _read(body)
    return page


_PARSER = lxml.html.HTMLParser(encoding="utf-8", recover=True, huge_tree=True)


def _label(element: lxml.html.HtmlElement, page: LabelledPage, menus: list[lxml.html.HtmlElement]) -> None:
    for child in element:
        if not isinstance(child.tag, str) or child.tag in _UNSHOWN_TAGS or _is_hidden(child):
            continue
        if _is_menu(child):
            page.texts += [("menus", text) for text in _list_texts(child)]
            menus.append(child)
            continue
        row = _ELEMENTS.get(child.tag)
        if row is not None and _is_content(child, row):
            page.texts.append((row, _read(child)))
        elif child.tag not in ("pre", "figure"):
            _label(child, page, menus)


def _is_hidden(element: lxml.html.HtmlElement) -> bool:
    style = (element.get("style") or "").replace(" ", "").lower()
    return "hidden" in element.attrib or element.get("aria-hidden") == "true" or "display:none" in style


def _is_menu(element: lxml.html.HtmlElement) -> bool:
    words = f"{element.get('class') or ''} {element.get('id') or ''}"
    if element.tag in ("body", "main", "article") or "footnote" in words:
        return False
    names_one = element.tag in _MENU_TAGS or element.get("role") in _MENU_ROLES or _MENU_WORDS.search(words)
    return bool(names_one) and _link_share(element) > 0.5


def _is_content(element: lxml.html.HtmlElement, row: str) -> bool:
    """Whether an element counts for a row as a whole: cells and items without blocks in them, and mostly not links."""
    blocks = {child.tag for child in element.iterdescendants()} & _BLOCKS
    if row in ("td", "prose li", "dd", "p") and not blocks <= _BLOCKS_OF_PROSE:
        return False
    if row == "prose li" and len(_read(element)) < MIN_PROSE:
        return False
    return _link_share(element) < 0.5


def _link_share(element: lxml.html.HtmlElement) -> float:
    size = len("".join(_read(element).split()))
    links = sum(len("".join(_read(link).split())) for link in element.iter("a") if link.get("href"))
    return links / size if size else 0.0


def _read(element: lxml.html.HtmlElement) -> str:
    """The text that an element shows."""
    return "".join(_list_texts(element))


def _list_texts(element: lxml.html.HtmlElement) -> list[str]:
    return element.xpath(
        "descendant::text()[not(ancestor::script or ancestor::style or ancestor::noscript or ancestor::template or"
        " ancestor::select or ancestor::button or ancestor::label or ancestor::textarea or ancestor::svg)]"
    )
