"""Wiki mark-up to prose: what is kept, what is left out, and that numbers stay what they were."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.config import WikipediaConfig
from data_tools.extract_wikitext import WikitextExtractor

EXTRACT = WikitextExtractor(WikipediaConfig())


def clean(markup: str, **options) -> str:
    return EXTRACT.clean(markup, **options)


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("a {{convert|5|km|mi}} walk", "a 5 km walk"),
        ("{{convert|1,300.5|mi|km|abbr=on}}", "1,300.5 mi"),
        ("{{convert|5|-|10|ft|m}}", "5–10 ft"),
        ("{{convert|5|ft|6|in|m}}", "5 ft 6 in"),
        ("{{convert|5|ft|m|1}}", "5 ft"),
        ("{{convert|2381741|km2|sqmi}}", "2381741 km²"),
        ("{{cvt|15|C|F}}", "15 °C"),
        ("{{formatnum:1234567}} people", "1234567 people"),
        ("{{val|1.5|0.2|e=-6|u=kg}}", "1.5±0.2×10⁻⁶ kg"),
        ("born {{birth date and age|1990|1|31}}", "born January 31, 1990"),
        ("{{death date|df=yes|1865|4|15|1809|2|12}}", "15 April 1865"),
        ("{{start date|2001|05}}", "May 2001"),
        ("{{as of|2014|lc=y}}", "as of 2014"),
        ("{{circa|1900}}", "c. 1900"),
        ("{{frac|1|2}} and {{frac|3|1|4}}", "1/2 and 3 1/4"),
        ("10<sup>6</sup> m, H<sub>2</sub>O, x<sup>n+1</sup>", "10⁶ m, H₂O, xⁿ⁺¹"),
        ("1<sup>st</sup>, XIX<sup>e</sup>, 2<sup>a/b</sup>", "1st, XIXe, 2a/b"),
        ("{{chem|H|2|O}} {{chem2|C6H12O6}} 10{{sup|3}}", "H₂O C₆H₁₂O₆ 10³"),
        ("{{nowrap|{{formatnum:{{#if:x|12}}}} km}}", "12 km"),
        ("1{{ndash}}2{{nbsp}}&nbsp;%", "1–2 \xa0%"),
        ("{{lang|fr|été}} {{lang-de|Größe}} {{nihongo|Aikido|合気道|Aikidō}}", "été Größe Aikido (合気道, Aikidō)"),
        ("{{nowrap|1=a=b}} {{nowrap|[[X|c=d]]}}", "a=b c=d"),
    ],
)
def test_numbers_and_words_in_templates_survive(markup, expected):
    assert clean(markup) == expected


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("{{Infobox|a={{b|c={{d}}}}\n|e=[[f]]}}\nText", "Text"),
        ("A<ref name=x>{{cite|1}} <b>r</b></ref> b<ref name=x /> c.", "A b c."),
        ("'''Bold''' and ''italic'' and '''''both'''''", "Bold and italic and both"),
        ("l'''Iliade'' et d''''x'''", "l'Iliade et d'x"),
        ("[[bus]]es, [[A|b]], [[A#B]], [[:Category:C]]", "buses, b, A#B, Category:C"),
        ("a[[File:x.jpg|thumb|see [[b]] {{c}}]]b[[category:d|e]][[Datei:y.png]]", "ab"),
        ("[[de:Seite]][[zh-min-nan:x]]", ""),
        ("see [http://a.b/c?d=e the [[site]]] and [https://x.y]", "see the site and"),
        ("a <!-- b {{ [[ --> c", "a c"),
        ("<math>\n x^{2} \\frac{{a}}{b}</math>", "$x^{2} \\frac{{a}}{b}$"),
        ("<nowiki>[[x]] {{y}}</nowiki>", "[[x]] {{y}}"),
        ("Name ({{IPA-en|x}}; born 1900) is ({{foo}}) a ( , ) b", "Name (born 1900) is a b"),
        ("&lt;b&gt; &amp;amp; <b>x</b> a < b > c", "<b> &amp; x a < b > c"),
        ("__NOTOC__\n{{PAGENAME}} {{{1|default}}} -{zh-hans:一;zh-hant:二}- -{T|x}-", "P default 一"),
        ("line<br />next<br>last", "line\nnext\nlast"),
        ("* a\n** b\n# c\n# d\n#: e\n; t : u\n: v", "- a\n  - b\n1. c\n2. d\ne\nt : u\nv"),
        ("<pre>\n  code [[x]]\n</pre>", "code [[x]]"),
        ("prose\n{{unclosed and [[more", "prose"),
    ],
)
def test_mark_up_is_resolved(markup, expected):
    assert clean(markup, title="P", link_prefixes=("Datei", "Kategorie")) == expected


def test_sections_without_prose_are_left_out():
    markup = (
        "Intro\n== A ==\ntext\n=== Empty ===\n== See also ==\n* x\n=== Deeper ===\ny\n== B ==\n=== C ===\nmore\n== D =="
    )
    assert clean(markup) == "Intro\n\nA\n\ntext\n\nB\n\nC\n\nmore"


def test_tables_become_rows():
    markup = (
        '{| class="wikitable" style="a"\n|+ Albedos\n! Surface !! width=5 | Value\n|-\n| style="x" '
        "| [[Sand|Dry sand]]\n| 0.40<br>dry\n|-\n|\n{|\n| inner\n|}\n| 5 || 6\n|}\nAfter\n{| class=infobox\n| gone\n|}"
    )
    assert clean(markup) == "Albedos\nSurface | Value\nDry sand | 0.40 dry\ninner | 5 | 6\n\nAfter"
    assert clean("{|\n| never closed\n== Heading ==\nprose") == "never closed\n\nHeading\n\nprose"


def test_settings():
    plain = WikitextExtractor(WikipediaConfig(keep_math=False, drop_sections=[]))
    assert plain.clean("a <math>x</math>b\n== Notes ==\nc") == "a b\n\nNotes\n\nc"


@pytest.mark.parametrize(
    "piece",
    [
        "{{", "[[", "{{a|", "{{nowrap|", "\n{|\n|a|", "<ref>", "<ref ", "<math>", "<!--", "'''x ", "-{", "(,", ", ,",
        "\t", "=", "a=b ", "*", "\n#a\n##b", "<sup>", "<div ", "|", "||", "{{a|b=", "[http://a ", "[[a|\n\n", "}}",
        "]]",
    ],
)  # fmt: skip
def test_time_is_linear_in_the_text(piece):
    """Mark-up that never closes: quadratic time would take minutes for a page of the largest size."""
    start = time.process_time()
    clean(piece * (200_000 // len(piece)) + "x")
    clean("{|\n|" + piece * (100_000 // len(piece)))
    assert time.process_time() - start < 5


PIECES = "{{ }} [[ ]] [ ] | = {| |} |- ! '' ''' <ref> </ref> <nowiki> </nowiki> <!-- --> a File: convert|5|km == \x7f 1"


@given(st.lists(st.sampled_from([*PIECES.split(), " ", "\n"]), max_size=40))
def test_any_mark_up_is_survived(pieces):
    text = clean("".join(pieces))
    assert "\x7f" not in text
