"""What of a web page is its text: nothing is lost to broken tags, and notation keeps its sense."""

import pytest

from data_tools.config.schema import HtmlConfig
from tests.data_tools.extract.html.test_extractor import extract
from tests.data_tools.records import LONG, page

HEAD = "All about apples"
SECTIONS = "".join(
    f"<div class=s>{{anchor}}<h2>Section {number}</h2><p>Paragraph {number} says what <code>apples</code> are.</p>"
    f"<pre>if ready({number}):\n    go()</pre><table><tr><td>Red apple</td><td>{number}99 cents</td></tr></table></div>"
    for number in range(1, 4)
)
WHOLE_SECTIONS = "".join(
    f"Section {number}\n\nParagraph {number} says what apples are.\n\nif ready({number}):\n    go()\n"
    f"Red apple\t\t{number}99 cents\n\n"
    for number in range(1, 4)
).strip()


@pytest.mark.parametrize(
    "anchor",
    [
        '<a id="x"/>', '<a name="x">', "<a name=x>", '<a name="x"></a>', '<A NAME="x">', '<a class="t" id="x" />',
        '<a href="#x"/>', "<span/>", '<div class="nav"/>', '<iframe src="x"/>', '<script src="x"/>', "<select>",
        "<textarea/>", "<noscript>", '<svg class="icon"><path d="x"/>', "<button/>", "<label/>", "<object/>",
    ],
)  # fmt: skip
def test_no_open_or_self_closed_tag_takes_text_away(tmp_path, anchor):
    body = f"<html><body><h1>{HEAD}</h1>{SECTIONS.replace('{anchor}', anchor)}</body></html>"
    assert extract(tmp_path, body.encode())[0] == f"{HEAD}\n\n{WHOLE_SECTIONS}"


def test_xhtml_closes_what_closes_itself(tmp_path):
    body = (
        '<?xml version="1.0" encoding="UTF-8"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/>'
        f'<script src="a.js"/></head><body><h1>{HEAD}</h1>{SECTIONS}</body></html>'
    )
    body = body.replace("{anchor}", '<a id="x"/>')
    text, _ = extract(tmp_path, body.encode(), Content_Type="application/xhtml+xml")
    assert text == f"{HEAD}\n\n{WHOLE_SECTIONS}"


def test_unclosed_links_are_no_menu(tmp_path):
    body = f"<html><body><h1>{HEAD}</h1>{SECTIONS.replace('{anchor}', '<a href=y>Up')}</body></html>"
    text, _ = extract(tmp_path, body.encode())
    assert text is not None
    assert text.replace("Up", "").split() == f"{HEAD} {WHOLE_SECTIONS}".split()


def test_slashes_and_signs_within_attributes_are_text_of_theirs(tmp_path):
    body = page(f'<a href=http://x/>one</a> <a title="x > y" href="z">two</a> <b title="/>">three</b> {LONG}')
    assert extract(tmp_path, body.encode())[0].startswith("one two three The quick")


@pytest.mark.parametrize(
    "wrapper", ["{}", "<main>{}</main>", "<main><article>{}</article></main>", "<div><div>{}</div></div>"]
)
def test_lists_of_prose_are_kept_at_any_depth(tmp_path, wrapper):
    items = (
        "<ul><li>Never paint when it is colder than 8 degrees.</li>"
        "<li>Sand the posts, as <a href=x>the guide to posts</a> tells, with grain 120.</li></ul>"
    )
    menu = "<ul><li><a href=1>Home</a></li><li><a href=2>Contact us</a></li><li><a href=3>News</a> |</li></ul>"
    body = f"<html><body>{wrapper.format(f'{menu}<h1>Fences</h1>{items}<p>That is all of it.</p>')}</body></html>"
    assert extract(tmp_path, body.encode())[0] == (
        "Fences\n\n  • Never paint when it is colder than 8 degrees.\n"
        "  • Sand the posts, as the guide to posts tells, with grain 120.\n\nThat is all of it."
    )


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        ('<figure class="highlight"><pre><code>for i in x:\n    print(i)</code></pre></figure>',
         "for i in x:\n    print(i)"),
        ("<figure><table><tr><td>2019</td><td>1,204</td></tr></table></figure>", "2019\t\t1,204"),
        ("<figure><blockquote><p>A quotation.</p></blockquote></figure>", "A quotation."),
        ('<figure><img src=x alt="words for nobody"><figcaption>The bridge in 1911.</figcaption></figure>',
         "The bridge in 1911."),
    ],
)  # fmt: skip
def test_figures_are_kept_but_not_what_describes_pictures(tmp_path, figure, expected):
    text, _ = extract(tmp_path, f"<html><body><div><p>{LONG}</p>{figure}<p>End.</p></div></body></html>".encode())
    assert text is not None
    assert text.removeprefix(LONG.strip()).strip().replace("\n\n", "\n") == f"{expected}\nEnd."


KATEX = (
    '<span class="katex"><span class="katex-mathml"><math xmlns="x"><semantics><mrow><mi>E</mi></mrow><annotation'
    ' encoding="application/x-tex">E=mc^2</annotation></semantics></math></span><span class="katex-html"'
    ' aria-hidden="true"><span>E</span><span>=mc2</span></span></span>'
)
MEDIAWIKI = (
    '<span class="mwe-math-mathml-a11y" style="display: none;"><math alttext="{\\displaystyle E=mc^{2}}"><mi>E</mi>'
    '</math></span><img class="mwe-math-fallback-image-inline" alt="{\\displaystyle E=mc^{2}}">'
)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        (KATEX, "$E=mc^2$"),
        (MEDIAWIKI, "$E=mc^{2}$"),
        ('<span class="MathJax_Preview">E=</span><script type="math/tex">a<b</script>', "$a<b$"),
        ('<script type="math/tex; mode=display">\\sum_i x</script>', "$$\\sum_i x$$"),
        ('<img class="latex" src=x alt="a &lt; b">', "$a < b$"),
        ("<math><msup><mi>x</mi><mn>2</mn></msup><mo>=</mo><mfrac><mn>1</mn><mrow><mi>y</mi></mrow></mfrac></math>",
         "$x^2 = \\frac{1}{y}$"),
        ('<math display="block"><msqrt><msub><mi>a</mi><mn>10</mn></msub></msqrt></math>', "$$\\sqrt{a_{10}}$$"),
    ],
)  # fmt: skip
def test_formulas_are_written_once_as_latex(tmp_path, formula, expected):
    assert (extract(tmp_path, page(f"{LONG}So {formula} is known.").encode())[0] or "").endswith(
        f"So {expected} is known."
    )


@pytest.mark.parametrize("sign", ["¶", "&para;", "&#182;", "#", "\ue157", "&#xf0c1;"])
def test_what_links_a_heading_to_itself_is_no_text(tmp_path, sign):
    body = f"<html><body><div><h2>Use<a class='headerlink' href='#use'>{sign}</a></h2><p>{LONG}</p></div></body></html>"
    assert extract(tmp_path, body.encode())[0] == f"Use\n\n{LONG.strip()}"
    whole = HtmlConfig(main_content=False)
    assert extract(tmp_path, body.encode(), html=whole)[0] == f"Use\n\n{LONG.strip()}"


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ("<ol start=3><li>a<li><p>b</p></ol>", "3. a 4. b"),
        ("<ol start=-1><li>a<li>b<li>c</ol>", "-1. a 0. b 1. c"),
        ("<ol reversed><li>a<li>b</ol>", "2. a 1. b"),
        ("<ol><li value=5>a<li>b</ol><ol><li>c</ol>", "5. a 6. b 1. c"),
        ("<ol type=a start=26><li>a<li>b</ol>", "z. a aa. b"),
        ("<ol type=I start=9><li>a<li>b</ol>", "IX. a X. b"),
    ],
)
def test_lists_are_numbered_as_pages_say(tmp_path, items, expected):
    text, _ = extract(tmp_path, f"<html><body><p>{LONG}</p>{items}</body></html>".encode())
    assert text is not None and " ".join(text.removeprefix(LONG.strip()).split()) == expected


def test_buttons_and_summaries_of_sections_are_headings(tmp_path):
    body = (
        f"<html><body><h2><button class=x>How much is it?</button></h2><p>{LONG}</p>"
        f"<details><summary>And why?</summary>{LONG}</details><button>Send</button></body></html>"
    )
    assert extract(tmp_path, body.encode())[0] == f"How much is it?\n\n{LONG.strip()}\n\nAnd why?\n{LONG.strip()}"
