"""One form of text, and documents that are dropped for their size."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.config.filtering import CleaningConfig
from data_tools.document import Document, apply_filter
from data_tools.extract.normalize import normalize, normalize_text
from data_tools.filters.size import SizeLimits
from data_tools.ledger import Ledger


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("cafe\u0301", "café"),
        ("10⁶ ﬁ", "10⁶ ﬁ"),
        ("a\r\nb\rc\u2028d\x0be", "a\nb\nc\nd\ne"),
        ("a\x00b\x07c\x7fd\x9fe", "abcde"),
        ("a\ud800b", "ab"),
        ("\ufeffa\u200bb\u00adc", "abc"),
        ("5\u00a0km\u202f", "5 km"),
        ("a  \n\n\n\n\tb \n", "a\n\n\tb"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("　首行", "首行"),
        ("行\n　首行", "行\n　首行"),
    ],
)
def test_normal_form(raw, expected):
    assert normalize_text(raw) == expected


@given(st.text(st.characters(), max_size=60))
def test_normal_form_is_stable_and_can_be_written(raw):
    text = normalize_text(raw)
    assert normalize_text(text) == text
    assert unicodedata.is_normalized("NFC", text)
    text.encode("utf-8")
    assert "\x00" not in text and "\r" not in text


def test_undecodable_text_is_dropped():
    ledger = Ledger(read=3)
    texts = ["a" * 98 + "\ufffd" * 2, "a" * 99 + "\ufffd", "a" * 100]
    documents = [
        Document(record=number, media_type="plain", content=b"", text=text) for number, text in enumerate(texts)
    ]
    limits = SizeLimits(CleaningConfig(max_replacement_share=0.01))
    kept = list(apply_filter(limits, documents, name="size", ledger=ledger))
    assert [document.record for document in kept] == [1, 2]
    assert ledger.dropped == {"broken_encoding": 1}
    assert len(list(apply_filter(SizeLimits(CleaningConfig()), documents, name="size", ledger=ledger))) == 3


def test_sizes_are_counted_by_reason():
    ledger = Ledger(read=4)
    texts = ["", "abc", "abcde", "x" * 20]
    documents = [
        Document(record=number, media_type="plain", content=b"", text=text) for number, text in enumerate(texts)
    ]
    flowing = apply_filter(normalize, documents, name="normalize", ledger=ledger)
    limits = SizeLimits(CleaningConfig(min_characters=5, max_characters=10))
    kept = list(apply_filter(limits, flowing, name="size", ledger=ledger))
    assert [document.text for document in kept] == ["abcde"]
    assert ledger.dropped == {"no_text": 1, "too_short": 1, "too_long": 1}
