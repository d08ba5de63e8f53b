"""What is left out of a web page as menu or the like, and what is not although it looks like that."""

import pytest

from data_tools.extract.html.regions import remove_regions
from data_tools.extract.html.source import read_source

PROSE = (
    "Ordinary words of a page make up a sentence, and after that comes <a href=x>another</a> one that ends here. " * 3
)
LINKS = "".join(f"<a href={number}>Link {number}</a> | " for number in range(6))
ITEMS = "".join(f"<li><a href={number}>Link {number}</a></li>" for number in range(6))


def read(body: str, *, comments: bool = False) -> str:
    source = read_source(f"<html><body>{body}</body></html>")
    remove_regions(source, comments=comments)
    return source.join_plainly()


@pytest.mark.parametrize(
    "junk",
    [
        f"<nav>{LINKS}</nav>", f"<div id=menu>{LINKS}</div>", f"<div>{LINKS}</div>", f"<p>{LINKS}</p>",
        f"<ul>{ITEMS}</ul>",
        f"<ol>{ITEMS}</ol>", f"<center>{LINKS}</center>", f"<table><tr><td>{LINKS}</table>", f"<UL>{ITEMS}</UL>",
        f"<div><div><div>{LINKS}</div></div></div>", f'<div role="navigation">{LINKS}</div>',
        "<div class='site-footer'>Link to nobody</div>",
        "<footer>Link and imprint</footer>", "<aside>Link to something else</aside>", "<div hidden>Link hidden</div>",
        '<div style="color: red; display: none">Link hidden</div>',
        '<div class="cookie-notice">Link: we use cookies</div>',
        '<div class="sidebar">Link</div>', "<header><a href=/>Link</a> slogan</header>",
        '<a class="skip-link" href="#c">Link to content</a>', '<a rel="next" href="x">Link to the next page</a>',
    ],
)  # fmt: skip
def test_menus_and_the_like_are_left_out(junk: str) -> None:
    left = read(f"{junk}<h1>Title</h1><div>{junk}<p>{PROSE}</p></div>{junk}")
    assert "Link" not in left and left.count("Ordinary words") == 3 and "Title" in left


@pytest.mark.parametrize(
    "content",
    [
        # A box of docutils, beside the text.
        f'<div class="body"><aside class="sidebar"><p>Title of a box</p><p>{PROSE}</p></aside><p>{PROSE}</p></div>',
        f'<main><div class="sidebar">{PROSE}</div><p>{PROSE * 2}</p></main>',
        # Names of the whole page.
        f'<div class="sidebar nav menu">{PROSE}</div>', f"<footer><p>{PROSE}</p></footer>", f"<nav>{PROSE}",
        f'<div hidden>{PROSE}</div>', f'<div class="entry-content navigation-none">{PROSE}</div><p>{PROSE}</p>',
        f'<div class="has-sidebar">{PROSE}</div>', f"<header><h1>Title</h1>{PROSE}</header><p>{PROSE}</p>",
        # Links in texts, tables and lists.
        f"<table><tr><td><a href=x>Name</a><td>what is behind the name<tr><td><a href=y>Other</a><td>{PROSE}</table>",
        f"<ul><li>See <a href=x>the guide</a> before you begin with it.</li><li>{PROSE}</li></ul>",
        f"<p><a href=x>Read more about it</a></p><p>{PROSE}</p>",
        f'<article><h2><a href=x>Title</a></h2><p>{PROSE}</p></article>',
    ],
)  # fmt: skip
def test_content_is_kept_whatever_it_is_called(content: str) -> None:
    bare = read_source(f"<html><body>{content}</body></html>")
    assert read(content) == bare.join_plainly()


def test_comments_are_left_out_unless_they_are_wanted() -> None:
    body = f"<p>{PROSE}</p><div class=comments><p>{PROSE}</p></div><pre><span class=hljs-comment># why</span></pre>"
    assert read(body).count("Ordinary") == 3
    assert "# why" in read(body)
    assert read(body, comments=True).count("Ordinary") == 6


def test_cells_end_without_end_tags() -> None:
    left = read(f"<table><tr><td class=menu>{LINKS}<td><p>{PROSE}<tr><td><ul>{ITEMS}</ul><td>{PROSE}</table>")
    assert "Link" not in left and left.count("Ordinary") == 6


def test_what_stands_before_and_behind_stays_apart() -> None:
    assert read(f"before<nav>{LINKS}</nav>behind <p>{PROSE}</p>").startswith("<html><body>before<div></div>behind <p>")


def test_names_of_tags_are_ascii() -> None:
    assert read(f"<P>{PROSE}<\u017fection>{PROSE}<BLOC\u212aQUOTE>end").count("Ordinary") == 6
