"""Which files a configuration names, and what becomes of those that cannot be read."""

import io
import os

import fsspec
import pytest

from data_tools.config.rules import validate
from data_tools.config.schema import DataPrepConfig, SourceConfig
from data_tools.errors import UnreadableInputError
from data_tools.inputs.files import InputFile, open_input, resolve_inputs
from data_tools.inputs.streams import CountedStream, decompress
from data_tools.output.publish import describe_preparation
from tests.data_tools.records import read_raw


def resolve(*paths, **settings):
    return resolve_inputs([SourceConfig(name="s", kind="text", paths=[str(path) for path in paths], **settings)])


def test_files_are_listed_in_order_each_once(tmp_path):
    for name in ("b.txt", "a.txt", "[x].txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "directory.txt").mkdir()
    files, violations = resolve(tmp_path / "[x].txt", tmp_path / "?.txt", tmp_path / "a.txt")
    assert not violations
    assert [os.path.basename(file.path) for file in files] == ["[x].txt", "a.txt", "b.txt"]
    assert [(file.index, file.bytes) for file in files] == [(0, 7), (1, 5), (2, 5)]
    assert all(file.version for file in files)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("none.txt", "no such file"),
        ("*.none", "no file matches"),
        ("directory", "no files of kind text in this folder"),
    ],
)
def test_what_is_no_file_is_refused(tmp_path, name, rule):
    (tmp_path / "directory").mkdir()
    files, (violation,) = resolve(tmp_path / name)
    assert not files
    assert (violation.path, violation.message) == ("sources[0].paths[0]", rule)


def test_unreadable_files_can_be_skipped(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    files, violations = resolve(
        tmp_path / "none.txt", tmp_path / "good.txt", "nosuchprotocol://a/b", skip_unreadable=True
    )
    assert not violations
    assert [file.index for file in files] == [0, 1, 2]
    for file, reason in ((files[0], "file_missing"), (files[2], "file_unreadable")):
        with open_input(file) as stream, pytest.raises(UnreadableInputError) as error:
            stream.read(1)
        assert error.value.reason == reason
    # A pattern that matches nothing is a mistake of whoever wrote it.
    assert resolve(tmp_path / "*.none", skip_unreadable=True)[1]


@pytest.mark.parametrize("kind", ["warc", "wikipedia", "jsonl", "parquet", "text"])
def test_a_missing_file_counts_as_one_failed_record(tmp_path, kind):
    documents, ledger, _ = read_raw(tmp_path / "none", kind, source={"skip_unreadable": True})
    assert not documents
    assert (ledger.read, ledger.failed) == (1, {"file_missing": 1})


def test_a_file_that_goes_away_is_told_by_the_first_read(tmp_path):
    source = SourceConfig(name="s", kind="text", paths=[])
    file = InputFile(index=0, source=source, path=str(tmp_path), bytes=None, version="")
    with open_input(file) as stream, pytest.raises(UnreadableInputError, match="IsADirectoryError"):
        decompress(stream)


def test_what_is_peeked_at_is_still_to_be_read():
    stream = CountedStream(io.BytesIO(bytes(range(100))))
    assert stream.peek(5) == bytes(range(5))
    assert stream.peek(3) == bytes(range(3))
    assert stream.tell() == 0
    assert stream.read(2) == bytes([0, 1])
    assert (stream.tell(), stream.bytes_read) == (2, 5)
    assert stream.seek(1, 1) == 3
    assert stream.read(2) == bytes([3, 4])
    stream.peek(10)
    assert stream.read() == bytes(range(5, 100))
    assert stream.peek(10) == b""


def test_how_files_are_reached_makes_no_other_preparation(tmp_path):
    (tmp_path / "a.txt").write_text("text")

    def describe(**settings):
        source = SourceConfig(name="s", kind="text", paths=[str(tmp_path / "a.txt")], **settings)
        files, _ = resolve_inputs([source])
        return describe_preparation(DataPrepConfig(output_dir="x", sources=[source]), files, evaluation_files=[])

    other = describe(max_retries=1, retry_seconds=3.0, skip_unreadable=True, storage_options={"token": "secret"})
    assert other == describe()
    assert "secret" not in str(other)
    assert describe(wrong_digests="fail") != describe()


@pytest.mark.parametrize("field", ["max_retries", "retry_seconds"])
def test_fewer_than_no_retries_are_refused(tmp_path, field):
    source = SourceConfig(name="s", kind="text", paths=["a"], **{field: -1})
    violations = validate(DataPrepConfig(output_dir=str(tmp_path), sources=[source]))
    assert [violation.path for violation in violations] == [f"data_prep.sources[0].{field}"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_files_are_refused_or_skipped(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "a.txt").chmod(0)
    (violation,) = resolve(tmp_path / "a.txt")[1]
    assert violation.message.startswith("cannot be read")
    (file,), violations = resolve(tmp_path / "a.txt", skip_unreadable=True)
    assert not violations
    with open_input(file) as stream, pytest.raises(UnreadableInputError, match="PermissionError"):
        stream.read(1)


@pytest.mark.parametrize(
    ("kind", "chosen"),
    [
        ("text", ["a.html", "a.jsonl.gz", "below/b.txt", "c.parquet", "d.warc.gz"]),
        ("jsonl", ["a.jsonl.gz"]),
        ("warc", ["d.warc.gz"]),
    ],
)
def test_a_folder_stands_for_its_files_of_the_kind(tmp_path, kind, chosen):
    for name in ("a.html", "a.jsonl.gz", "below/b.txt", "c.parquet", "d.warc.gz", ".hidden", ".git/config", "e.7z"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    for folder in (tmp_path, f"{tmp_path}/", f"file://{tmp_path}"):
        files, violations = resolve_inputs([SourceConfig(name="s", kind=kind, paths=[str(folder)])])
        assert not violations
        assert [os.path.relpath(file.path, tmp_path) for file in files] == chosen


def test_a_folder_of_a_server_is_one_too():
    file_system = fsspec.filesystem("memory")
    for name in ("/listed/a.txt", "/listed/below/b.txt", "/listed/.c"):
        file_system.pipe(name, b"text")
    files, violations = resolve("memory://listed")
    assert not violations
    assert [file.path for file in files] == ["memory:///listed/a.txt", "memory:///listed/below/b.txt"]
