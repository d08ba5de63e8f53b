"""Lists of paths and WACZ stand for the files in them; other containers are refused by name."""

import gzip
import zipfile
from pathlib import Path

import pytest

from data_tools.config.schema import SourceConfig
from data_tools.inputs.expand import list_patterns
from data_tools.inputs.files import open_input, resolve_inputs
from tests.data_tools.sample_inputs import make_text, run_prepare, write_warc


def resolve(*paths: object, kind: str = "warc"):
    return resolve_inputs([SourceConfig(name="s", kind=kind, paths=[str(path) for path in paths])])  # type: ignore[arg-type]


def write_wacz(path: Path, *, num_archives: int = 2) -> Path:
    with zipfile.ZipFile(path, "w") as wacz:
        wacz.writestr("datapackage.json", "{}")
        for number in range(num_archives):
            warc = write_warc(path.with_suffix(f".{number}.warc.gz"), [make_text(number)])
            wacz.write(warc, f"archive/data{number}.warc.gz")
            warc.unlink()
    return path


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_list_stands_for_its_files(tmp_path, pack):
    for name in ("a.warc", "b.warc"):
        (tmp_path / name).write_text(name)
    name = "warc.paths" if pack is bytes else "warc.paths.gz"
    (tmp_path / name).write_bytes(pack(f"# two\n{tmp_path}/b.warc\r\n\na.warc\n".encode()))
    for pattern in (name, "*.paths*"):
        files, violations = resolve(tmp_path / pattern)
        assert not violations
        assert [Path(file.path).name for file in files] == ["b.warc", "a.warc"]


def test_lists_of_common_crawl_name_files_on_its_server(tmp_path):
    path = "crawl-data/CC-MAIN-2024-10/segments/1/warc/a.warc.gz"
    (tmp_path / "warc.paths").write_text(f"{path}\n")
    source = SourceConfig(name="s", kind="warc", paths=["x.warc", str(tmp_path / "warc.paths")])
    assert list(list_patterns(source)) == [(0, "x.warc"), (1, f"https://data.commoncrawl.org/{path}")]
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
    assert list(list_patterns(source))[1] == (1, str(tmp_path / path))


def test_a_file_that_a_list_names_wrongly_is_told(tmp_path):
    (tmp_path / "a.paths").write_text("none.warc\n")
    files, (violation,) = resolve(tmp_path / "a.paths")
    assert not files and violation.message == "no such file" and violation.value == str(tmp_path / "none.warc")


def test_a_wacz_stands_for_its_archives(tmp_path):
    files, violations = resolve(write_wacz(tmp_path / "a.wacz"))
    assert not violations
    assert [file.path for file in files] == [
        f"zip://archive/data{number}.warc.gz::{tmp_path / 'a.wacz'}" for number in (0, 1)
    ]
    assert all(file.version and file.bytes for file in files)
    with open_input(files[1]) as stream:
        assert stream.read(2) == b"\x1f\x8b"


def test_the_command_reads_a_wacz(tmp_path):
    wacz = write_wacz(tmp_path / "a.wacz", num_archives=8)
    done = run_prepare(
        f"data_prep.sources=[{{name:w,kind:warc,paths:['{wacz}']}}]",
        f"data_prep.output_dir={tmp_path / 'out'}",
        "data_prep.tokenizer.vocab_size=384",
        "data_prep.tokenizer.num_threads=1",
        "data_prep.split.validation_fraction=0",
        "data_prep.num_workers=1",
    )
    assert done.returncode == 0, done.stderr
    assert "8 documents" in done.stdout


@pytest.mark.parametrize(
    ("name", "kind", "rule"),
    [
        ("a.7z", "wikipedia", "7-Zip archives are not supported"),
        ("a.tar.gz", "text", "compressed tar archives are not supported"),
        ("a.zip", "jsonl", "must not be a zip archive itself"),
        ("a.wacz", "text", "a WACZ contains web archives"),
        ("a.wacz", "warc", "cannot read the zip archive: File is not a zip file"),
    ],
)
def test_other_containers_are_named(tmp_path, name, kind, rule):
    (tmp_path / name).write_bytes(b"7z\xbc\xaf")
    files, (violation,) = resolve(tmp_path / name, kind=kind)
    assert not files and violation.message == rule and "FILE" not in violation.fix


def test_files_in_a_zip_are_named_by_a_pattern(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("b.txt", "a.txt", "c.dat"):
            archive.writestr(name, name)
    files, violations = resolve(f"zip://*.txt::{tmp_path / 'a.zip'}", kind="text")
    assert not violations
    contents = []
    for file in files:
        with open_input(file) as stream:
            contents.append(stream.read())
    assert contents == [b"a.txt", b"b.txt"]
