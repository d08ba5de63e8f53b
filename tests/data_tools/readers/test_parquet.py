"""Parquet files: rows in constant memory, and what missing columns and damage cost."""

import io
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.config.filtering import CleaningConfig
from data_tools.config.schema import DataPrepConfig, SourceConfig
from data_tools.filters.decontamination import read_evaluations
from data_tools.inputs.files import InputFile, resolve_inputs
from data_tools.inputs.streams import CountedStream
from data_tools.ledger import Ledger
from data_tools.readers.parquet import read_parquet
from tests.data_tools.records import LONG, read_clean, read_raw


def write(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


def numbered(count):
    return [f"{LONG}{number * 7919}" for number in range(count)]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_rows_become_documents(tmp_path, kind):
    columns = {"body": pa.array(numbered(5)).cast(kind), "key": [7, None, 9, 10, 11], "url": ["http://a/"] + [None] * 4}
    path = write(tmp_path / "a.parquet", columns | {"other": [1.5] * 5}, row_group_size=2)
    documents, ledger = read_clean(path, "parquet", source={"text_field": "body", "id_field": "key"})
    assert [document.text for document in documents] == numbered(5)
    assert [document.id for document in documents] == ["7", "", "9", "10", "11"]
    assert [(document.url, document.title) for document in documents[:2]] == [("http://a/", ""), ("", "")]
    assert [document.record for document in documents] == list(range(5))
    assert (ledger.read, ledger.kept) == (5, 5)


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.binary()), pa.list_(pa.string(), 2)]
)
def test_each_text_of_a_list_becomes_a_line(tmp_path, kind):
    rows = [["one", "two"], ["three", None], None]
    path = write(tmp_path / "a.parquet", {"text": pa.array(rows).cast(pa.list_(pa.string())).cast(kind)})
    documents, ledger = read_clean(path, "parquet")
    assert [document.text for document in documents] == ["one\ntwo", "three"]
    assert ledger.dropped == {"parquet_text_missing": 1}


def test_fields_within_structures(tmp_path):
    columns = {
        "content": [{"text": LONG, "deep": {"id": 7}}, {"text": None, "deep": None}, None],
        "meta.url": ["http://a/", "http://b/", "http://c/"],
    }
    path = write(tmp_path / "a.parquet", columns)
    fields = {"text_field": "content.text", "id_field": "content.deep.id", "url_field": "meta.url"}
    (document,), ledger = read_clean(path, "parquet", source=fields)
    assert (document.text, document.id, document.url) == (LONG.strip(), "7", "http://a/")
    assert ledger.dropped == {"parquet_text_missing": 2}
    assert [example.name for example in ledger.examples] == ["http://b/", "http://c/"]


def test_text_is_the_text_of_jsonl(tmp_path):
    """Surrogates, NUL bytes and wrong UTF-8 end in neither a crash nor the document."""
    texts = [LONG, "a\0b" + LONG, "é漢字🦊" + LONG]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    write(tmp_path / "a.parquet", {"text": texts})
    parquet, _ = read_clean(tmp_path / "a.parquet", "parquet")
    assert [d.text for d in parquet] == [d.text for d in read_clean(tmp_path / "a.jsonl", "jsonl")[0]]
    broken = pa.Array.from_buffers(
        pa.string(), 1, pa.array([b"\xed\xa0\x80 \xff" + LONG.encode()]).buffers(), null_count=0
    )
    write(tmp_path / "b.parquet", {"text": broken})
    (document,), _ = read_clean(tmp_path / "b.parquet", "parquet")
    assert document.text.encode().decode() == document.text
    assert LONG.strip() in document.text


def test_rows_without_text_or_too_large_are_dropped(tmp_path):
    path = write(tmp_path / "a.parquet", {"text": [LONG, None, "x" * 5000, LONG + "2"], "id": list("abcd")})
    limits = CleaningConfig(min_characters=1, max_record_bytes=4000)
    documents, ledger = read_clean(path, "parquet", cleaning=limits)
    assert [document.id for document in documents] == ["a", "d"]
    assert ledger.dropped == {"parquet_text_missing": 1, "record_too_large": 1}
    assert {(example.record, example.name) for example in ledger.examples} == {(1, "b"), (2, "c")}


@pytest.mark.parametrize(
    ("columns", "problem"),
    [({"content": [LONG], "url": ["u"]}, "no column 'text'; its columns are content, url"),
     ({"text": [1]}, "column 'text' with int64, which is no text; its columns are text"),
     ({"a": [{"b": "x", "c": {"d": "y"}}]}, "no column 'text'; its columns are a.b, a.c.d"),
     ({"text": [[1]]}, "column 'text' with list<element: int64>, which is no text; its columns are text")],
)  # fmt: skip
def test_a_missing_column_is_told_before_and_counted_once(tmp_path, columns, problem):
    path = write(tmp_path / "a.parquet", {name: values * 50 for name, values in columns.items()})
    source = SourceConfig(name="s", kind="parquet", paths=[str(tmp_path / "*.parquet")])
    (violation,) = resolve_inputs([source])[1]
    assert (violation.path, violation.value) == ("sources[0].text_field", "text")
    assert violation.message == f"{path} has {problem}"
    # A file behind a server is looked at when it is read.
    ledger = Ledger()
    file = InputFile(index=0, source=source, path="https://a/a.parquet", bytes=None, version="")
    stream = CountedStream(io.BytesIO(path.read_bytes()))
    assert not list(read_parquet(file, stream=stream, ledger=ledger, max_record_bytes=1000))
    assert ledger.failed == {"parquet_column_missing": 1}
    assert ledger.examples[0].detail == f"the file has {problem}"


def test_a_damaged_row_group_costs_its_own_rows(tmp_path):
    path = write(tmp_path / "a.parquet", {"text": numbered(500)}, row_group_size=100, compression="zstd")
    chunk = pq.ParquetFile(path).metadata.row_group(2).column(0)
    data = bytearray(path.read_bytes())
    start = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
    data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(data)
    documents, ledger, _ = read_raw(path, "parquet")
    assert [document.record for document in documents] == [*range(200), *range(300, 500)]
    assert ledger.failed == {"parquet_corrupt": 100}
    assert [outcome.record for outcome in ledger.outcomes] == list(range(200, 300))
    assert "row group 2, rows 200 to 299" in ledger.examples[0].detail


def test_a_footer_that_contradicts_itself_fails_as_one(tmp_path):
    path = write(tmp_path / "a.parquet", {"text": numbered(300)}, row_group_size=100)
    # The second 300 of the footer's numbers, written as Thrift does (zigzag), is the count of the whole file.
    data = path.read_bytes()
    at = data.rindex(bytes([0xD8, 0x04]), 0, data.rindex(bytes([0xC8, 0x01])))
    path.write_bytes(data[:at] + bytes([0xDA, 0x04]) + data[at + 2 :])
    documents, ledger, _ = read_raw(path, "parquet")
    assert not documents
    assert ledger.failed == {"parquet_corrupt": 1}
    assert "its row groups hold 300 rows, and the file 301" in ledger.examples[0].detail


def test_columns_of_one_name_tell_no_origin(tmp_path):
    table = pa.table([numbered(2), ["a", "b"], ["c", "d"], [{"x": 1}] * 2], names=["text", "id", "id", "url"])
    pq.write_table(table, tmp_path / "a.parquet")
    documents, _ = read_clean(tmp_path / "a.parquet", "parquet")
    assert [(document.text, document.id, document.url) for document in documents] == [
        (text, "", "") for text in numbered(2)
    ]


@pytest.mark.parametrize("keep", [0, 3, 100, -1], ids=["empty", "3 bytes", "100 bytes", "all but one"])
def test_a_cut_file_fails_as_one(tmp_path, keep):
    path = write(tmp_path / "a.parquet", {"text": numbered(50)})
    path.write_bytes(path.read_bytes()[:keep])
    documents, ledger, _ = read_raw(path, "parquet")
    assert not documents
    assert ledger.failed == {"parquet_corrupt": 1}
    assert ledger.examples[0].name == str(path)


def test_a_stream_that_cannot_seek_is_read(tmp_path):
    class Unseekable(io.BytesIO):
        def seekable(self):
            return False

    data = write(tmp_path / "a.parquet", {"text": numbered(5)}).read_bytes()
    source = SourceConfig(name="s", kind="parquet", paths=[])
    file = InputFile(index=0, source=source, path="a", bytes=None, version="")
    stream = CountedStream(Unseekable(data))
    documents = list(read_parquet(file, stream=stream, ledger=Ledger(), max_record_bytes=1000))
    assert len(documents) == 5


@pytest.mark.parametrize("row_group_size", [1_000_000, 1000], ids=["one row group", "many"])
def test_memory_does_not_grow_with_the_file(tmp_path, row_group_size):
    """100 MB of text; what Arrow holds, and what Python does."""
    texts = pa.array([f"{number:09} " * 1000 for number in range(10_000)])
    path = write(tmp_path / "a.parquet", {"text": texts}, row_group_size=row_group_size, use_dictionary=False)
    del texts
    source = SourceConfig(name="s", kind="parquet", paths=[str(path)])
    config = DataPrepConfig(output_dir="", sources=[source])
    (file,), _ = resolve_inputs([source])
    tracemalloc.start()
    before, peak_arrow = pa.total_allocated_bytes(), 0
    with path.open("rb") as stream:
        count = 0
        for _ in read_parquet(
            file,
            stream=CountedStream(stream),
            ledger=Ledger(),
            max_record_bytes=config.cleaning.max_record_bytes,
        ):
            count += 1
            peak_arrow = max(peak_arrow, pa.total_allocated_bytes() - before)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10_000
    assert peak < 30 << 20
    assert peak_arrow < 60 << 20


def test_evaluation_texts_may_lie_in_parquet(tmp_path):
    path = write(tmp_path / "a.parquet", {"question": numbered(3), "id": [1, 2, 3]})
    source = SourceConfig(name="quiz", kind="parquet", paths=[str(path)], text_field="question")
    config = DataPrepConfig(output_dir="unused", sources=[], evaluations=[source])
    files, violations = resolve_inputs(config.evaluations, name="evaluations")
    assert not violations
    evaluations = read_evaluations(files, config)
    assert evaluations.origins == [("quiz", 0), ("quiz", 1), ("quiz", 2)]
