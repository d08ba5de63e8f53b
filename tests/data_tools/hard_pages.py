"""Pages of about one megabyte on which a careless program takes minutes: nesting, repetition, what is never closed."""

from collections.abc import Iterator

SIZE = 1 << 20
_WORDS = "Ordinary words of a page in a sentence, and then some more of them. "

_NESTED = ("div", "b", "a href=x", "span", "ul><li", "table><tr><td", "blockquote", "section", "p", "font", "em", "nav")
_UNCLOSED = (
    "a href=x", "a name=x", "select", "option", "textarea", "script", "style", "title", "button", "label", "iframe",
    "svg", "noscript", "template", "object", "h2", "li", "dd", "td", "form", "aside", "main", "math", "pre", "!--",
    "sup", "![CDATA[", "?php",
)  # fmt: skip
_REPEATED = {
    "sup": "<p><sup>7</sup> word ",
    "sub": "H<sub>2</sub>O ",
    "option": "<option>choice",
    "options of selects": "<select><option>a<option>b</select>",
    "links": "<a href=x>Home</a> ",
    "links in lists": "<li><a href=x>Home</a></li>",
    "empty links": "<a href=x></a>",
    "self-closed": '<a id="x"/>',
    "self-closed blocks": '<div class="x"/>',
    "self-closed scripts": '<script src="x"/>',
    "wrong ends": "</section></div></a></td>",
    "ends across": "<div><section></div></section>",
    "misnested": "<b><p>x</b></p><i>",
    "hidden": '<span aria-hidden="true">x</span>',
    "numbered": "<ol start=5><li value=9>x</ol>",
    "formulas": "<math><mi>x</mi><mo>=</mo><mn>2</mn></math>",
    "scripts of formulas": '<script type="math/tex">x</script>',
    "pictures of formulas": '<img class="latex" alt="x">',
    "entities": "&nbsp;&amp;&lt;&#x4e2d;&hellip;",
    "broken entities": "&&&#;&#x;&am;&notanentity",
    "comments": "<!-- x --><!-->",
    "tables": "<table><tr><td>x<td>y</table>",
    "rows": "<tr><td>x<td>y",
    "headings": "<h2>x</h2>",
    "buttons of headings": "<h2><button>x</button></h2>",
    "pilcrows": "<h2>x<a class=headerlink href=#x>¶</a></h2>",
    "menus": '<nav><a href="x">a</a></nav>',
    "line breaks": "x<br>",
    "preformatted": "<pre>x\n</pre>",
    "angles": "<<<>",
    "angles within": "a < b > c <d ",
    "dashes": "-",
    "quotes": "<p class=\"x>y' ",
    "equals": "<p a='='=\"=\"= ",
    "classes": "<div class='nav-menu sidebar comment'>x</div>",
    "articles": "<article><h2><a href=x>x</a></h2></article>",
    "capitals": "<DIV><P>x<A HREF=x>y</A></DIV>",
    "chinese": "汉字",
    "spaces": " \u00a0\t\n",
    "zeros": "\0x",
}


def make_hard_pages() -> Iterator[tuple[str, bytes]]:
    """Name and content of each page."""

    def fill(piece: str, *, head: str = "<html><body>", tail: str = "") -> bytes:
        encoded = piece.encode()
        return head.encode() + encoded * (SIZE // len(encoded)) + tail.encode()

    words = f"<p>{_WORDS * 5}</p>"
    for tag in _NESTED:
        yield f"nested {tag}", fill(f"<{tag}>", tail=words)
    for tag in ("div", "b", "ul", "table"):
        count = SIZE // (2 * len(tag) + 6)
        yield f"nested and closed {tag}", f"{f'<{tag}>' * count}{words}{f'</{tag}>' * count}".encode()
    for tag in _UNCLOSED:
        yield f"unclosed {tag}", fill(f"<{tag}> x ", tail=words)
    for name, piece in _REPEATED.items():
        yield f"many {name}", fill(piece, tail=words)
    yield "lists within lists", ("<ul>" + "<li><a href=x>y</a><ul>" * (SIZE // 25)).encode()
    yield "one attribute", f'<html><body><p class="{"x " * (SIZE // 2)}">{words}'.encode()
    attributes = " ".join(f"a{number}=x" for number in range(SIZE // 10))
    yield "many attributes", f"<html><body><p {attributes}>{words}".encode()
    yield "one word", fill("x")
    yield "one line", fill(_WORDS)
    yield "one tag that never ends", b"<html><body><p " + b"x" * SIZE
    yield "one value that never ends", b'<html><body><p title="' + b"x" * SIZE
