"""Lines on a full disk: a real, small file system, filled and freed again."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trireme.small_disk import fill, small_file_system
from trireme.files import LineFile


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_file_system(tmp_path / "disk", kibibytes=64) as place:
        yield place


def test_lines_wait_for_room_whole_and_in_order_and_it_is_said_once(small_disk: Path) -> None:
    said: list[str] = []
    path = small_disk / "lines"
    file = LineFile(path, say=said.append, max_waiting=100)
    lines = [f"line {number} " + "x" * 990 for number in range(20)]
    for line in lines[:3]:
        file.write(line)
    filler = fill(small_disk)
    for line in lines[3:15]:
        file.write(line)
    assert len(said) == 1
    assert said[0].startswith(f"{path}: cannot be written (No space left on device). The run continues")
    on_disk = path.read_text()
    assert on_disk.endswith("\n"), "no line is cut"
    assert lines[: on_disk.count("\n")] == on_disk.splitlines() and on_disk.count("\n") < 15
    filler.unlink()
    for line in lines[15:]:
        file.write(line)
    file.close()
    assert path.read_text().splitlines() == lines
    assert len(said) == 2 and "can be written again" in said[1]


def test_lines_that_never_fit_are_counted(small_disk: Path) -> None:
    said: list[str] = []
    file = LineFile(small_disk / "lines", say=said.append, max_waiting=4)
    fill(small_disk)
    for number in range(10):
        file.write(f"{number}" + "x" * 5000)
    file.close()
    assert said[1:] == [f"{small_disk}/lines: the last 10 lines could not be written (No space left on device)"]


def test_a_recreated_file_is_written_again(tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "mount"
    file = LineFile(folder / "lines", say=said.append, max_waiting=100)
    file.write("a")
    # What a stale mount looks like: the open descriptor is of no use, and the path leads nowhere.
    os.close(file._descriptor or -1)
    folder.rename(tmp_path / "gone")
    file.write("b")
    (tmp_path / "gone").rename(folder)
    file.write("c")
    file.close()
    assert (folder / "lines").read_text() == "a\nb\nc\n"
    assert [text.split(" (")[0] for text in said] == [
        f"{folder}/lines: cannot be written",
        f"{folder}/lines: can be written again. Wrote 2 lines from memory.",
    ]
