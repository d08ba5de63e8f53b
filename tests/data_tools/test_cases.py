"""Files rebuilt from users' reports, in cases/: the text that is read out of each, as a person judged it."""

from pathlib import Path
from typing import Any

import pytest

from tests.data_tools.records import read_clean

CASES = Path(__file__).parent / "cases"
LOST_WRAPPERS = {"b24-modal.html", "b29-role-complementary.html", "b35-visually-hidden.html"}
"""What hides its text, and boxes beside a page that has nothing around its content."""


@pytest.mark.parametrize(("name", "size"), [("anchors", 1510), ("lists", 463)])
def test_open_anchors_and_short_lists_take_no_text_away(name: str, size: int) -> None:
    documents, _ = read_clean(CASES / f"{name}.warc.gz", "warc")
    assert [len(document.text) for document in documents] == [size] * 6  # the six pages differ in their tags alone


def test_wrappers_of_sites_keep_their_text() -> None:
    documents, _ = read_clean(CASES / "wrappers.warc.gz", "warc")
    lost = {document.url.rpartition("/")[2] for document in documents if "MARK" not in document.text}
    assert len(documents) == 35 and lost == LOST_WRAPPERS


def test_raised_numbers_of_thousands_of_verses() -> None:
    (document,), _ = read_clean(CASES / "many_sup.warc.gz", "warc")
    assert "¹²³ In the beginning of verse 123" in document.text


@pytest.mark.parametrize(
    ("name", "source", "beginnings"),
    [
        ("array.json", {}, ["First text of a JSON array, which is", "Second text."]),
        ("crlf_bom.jsonl", {}, ["A text with BOM and CRLF that is"]),
        ("utf16.jsonl", {}, ["A text in UTF-16 that is"]),
        ("nested.jsonl", {"text_field": "content.text"}, ["A nested text that is"]),
    ],
)
def test_json_in_the_forms_in_which_people_have_it(name: str, source: dict[str, Any], beginnings: list[str]) -> None:
    documents, _ = read_clean(CASES / name, "jsonl", source=source)
    assert len(documents) == len(beginnings)
    for document, beginning in zip(documents, beginnings, strict=True):
        assert document.text.startswith(beginning)


def test_code_keeps_its_whitespace_and_what_is_no_text_is_counted() -> None:
    documents, ledger = read_clean(CASES / "code.jsonl", "jsonl", source={"keep_whitespace": True})
    assert [document.text for document in documents] == [
        "    return x\n\n\ndef g():\n\treturn 1   \n\n\n\nclass A:\n    pass\n",
        "--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n a\n-b\n+c\n \n d\n",
        "line with hard break  \nnext line\n\n\n\nAfter three blank lines",
        "Korean decomposed \u1112\u1161\u11ab and Angstrom \u212b ohm \u2126 compat \uf900 \ufb2a hebrew \u05e9\u05c1",
        "soft\u00adhyphen zero\u200bwidth word\u2060joiner BOM\ufeffmid",
        "ID3 is an algorithm that builds a decision tree.",
        "a\nb",
        "lone  surrogate and pair \U0001f600",
        "nan",
    ]
    assert ledger.dropped == {"json_text_not_a_string": 1, "json_text_missing": 1}
    assert ledger.failed == {"json_invalid": 1, "json_not_an_object": 1}


def test_prose_that_begins_as_a_binary_file_does_is_kept() -> None:
    documents, _ = read_clean(CASES / "magic.parquet", "parquet")
    assert [document.text.split()[0] for document in documents] == ["ID3", "RIFF", "GIF89a", "PK", "BZh"]


@pytest.mark.parametrize("name", ["dewiki", "jawiki", "enwiki"])
def test_wiki_pages_of_three_languages(name: str) -> None:
    documents, _ = read_clean(CASES / f"{name}.xml", "wikipedia")
    expected = (CASES / f"{name}.txt").read_text(encoding="utf-8")
    assert "\n\f\n".join(document.text for document in documents) + "\n" == expected
