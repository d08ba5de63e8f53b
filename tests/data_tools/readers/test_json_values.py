"""JSON arrays, and objects over many lines, are cut into their elements, wherever a read ends."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.readers import json_values
from data_tools.readers.json_values import holds_many_lines, split_values
from tests.data_tools.records import LONG, read_clean

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def split(data: bytes, *, limit: int = 1000) -> list[bytes | None]:
    values = list(split_values(io.BytesIO(data), limit))
    for offset, content in values:
        assert content is None or data[offset : offset + len(content)] == content
    return [content for _, content in values]


@given(values=st.lists(JSON, max_size=5), indent=st.sampled_from([None, 1]), size=st.integers(1, 9))
def test_elements_of_an_array(values, indent, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "READ_BYTES", size)
        found = split(json.dumps(values, indent=indent).encode())
    assert [json.loads(content) for content in found] == values


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a": 1}\n{\n "a": "}"\n}\n', [b'{"a": 1}', b'{\n "a": "}"\n}']),
        (b'[{"a": "x\\"]"},', [b'{"a": "x\\"]"}']),
        (b'[{"a": 1}, {"a": ', [b'{"a": 1}', b'{"a":']),
        (b'[{"a": 1}] \n [{"b": 2}]\n', [b'{"a": 1}', b'{"b": 2}']),
        (b'[{"a": 1}]\n{"b": 2}\n', [b'{"a": 1}', b'{"b": 2}']),
        (b'["list"]\n{"text": "x"}', [b'"list"', b'{"text": "x"}']),
        (b"[]", []),
        (b"", []),
    ],
)
def test_values_of_many_lines(data, expected):
    assert split(data) == expected


def test_what_is_too_large_is_passed_over():
    assert split(b'[{"a": 1}, {"a": "%s"}, {"b": 2}]' % (b"x" * 2000), limit=100) == [b'{"a": 1}', None, b'{"b": 2}']


def test_which_files_have_values_of_many_lines():
    assert holds_many_lines(b' \n[ {"a": 1}') and holds_many_lines(b'{\r\n "a": 1')
    assert not holds_many_lines(b'{"a": [1]}\n') and not holds_many_lines(b"")


@pytest.mark.parametrize("indent", [None, 1])
def test_a_file_with_an_array_is_read(tmp_path, indent):
    records = [{"text": LONG}, {"other": 1}, ["no object"], {"text": "[Second], {text}."}]
    (tmp_path / "a.json").write_text(json.dumps(records, indent=indent))
    documents, ledger = read_clean(tmp_path / "a.json", "jsonl")
    assert [(document.record, document.text) for document in documents] == [
        (0, LONG.strip()),
        (3, "[Second], {text}."),
    ]
    assert ledger.failed == {"json_not_an_object": 1} and ledger.dropped == {"json_text_missing": 1}


def test_a_cut_array_loses_its_end_only(tmp_path):
    data = json.dumps([{"text": LONG}, {"text": LONG + "2"}], indent=1)
    (tmp_path / "a.json").write_text(data[:-20])
    documents, ledger = read_clean(tmp_path / "a.json", "jsonl")
    assert len(documents) == 1 and ledger.failed == {"json_invalid": 1}
