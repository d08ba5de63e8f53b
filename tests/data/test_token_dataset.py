"""Windows over shards laid end to end."""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.shards import write_counting_shard, write_shard
from trainer.data.token_dataset import TokenDataset
from trireme.errors import EXIT_BAD_INPUT, ConfigError, RunStopped


def _read(dataset: TokenDataset, windows: list[int]) -> np.ndarray:
    out = np.full((len(windows), dataset.seq_length + 1), -7)
    dataset.read_windows(np.array(windows), out=out, rows=range(len(windows)))
    return out


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6), seq_length=st.integers(1, 40))
def test_windows_of_any_shards(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], seq_length: int) -> None:
    directory, total = tmp_path_factory.mktemp("shards"), sum(sizes)
    starts = np.cumsum([0, *sizes])
    prefixes = [
        write_counting_shard(directory / f"s{i}", start=int(starts[i]), num_tokens=size) for i, size in enumerate(sizes)
    ]
    if total <= seq_length:
        with pytest.raises(ConfigError, match=rf"is shorter than one window .*\(got {total} tokens?\)"):
            TokenDataset(prefixes, seq_length=seq_length)
        return
    dataset = TokenDataset(prefixes, seq_length=seq_length)
    assert dataset.num_windows == (total - 1) // seq_length
    windows = list(range(dataset.num_windows))
    expected = np.array(windows)[:, None] * seq_length + np.arange(seq_length + 1)
    np.testing.assert_array_equal(_read(dataset, windows), expected)
    dataset.close()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_every_integer_type_comes_out_as_int64(tmp_path: Path, dtype: type) -> None:
    top = min(np.iinfo(dtype).max, 2**40)
    dataset = TokenDataset([write_shard(tmp_path / "s", [np.array([top, 0, 1])], dtype=dtype)], seq_length=2)
    assert _read(dataset, [0]).tolist() == [[top, 0, 1]]


def test_shards_may_differ_in_type(tmp_path: Path) -> None:
    one = write_shard(tmp_path / "a", [np.array([1, 2])], dtype=np.uint16)
    other = write_shard(tmp_path / "b", [np.array([100000, 3])], dtype=np.int32)
    assert _read(TokenDataset([one, other], seq_length=3), [0]).tolist() == [[1, 2, 100000, 3]]


def test_few_files_stay_open(tmp_path: Path) -> None:
    prefixes = [write_counting_shard(tmp_path / f"s{i}", start=i * 4, num_tokens=4) for i in range(10)]
    before = len(os.listdir("/proc/self/fd"))
    dataset = TokenDataset(prefixes, seq_length=2, max_open_files=3)
    assert len(os.listdir("/proc/self/fd")) == before
    windows = list(range(dataset.num_windows)) * 2
    np.testing.assert_array_equal(_read(dataset, windows)[:, 0], np.array(windows) * 2)
    assert len(os.listdir("/proc/self/fd")) == before + 3
    dataset.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert _read(dataset, [1]).tolist() == [[2, 3, 4]]
    dataset.close()


def test_problems_of_all_shards_are_named(tmp_path: Path) -> None:
    good = write_counting_shard(tmp_path / "good", start=0, num_tokens=9)
    cut = write_counting_shard(tmp_path / "cut", start=0, num_tokens=9)
    os.truncate(f"{cut}.bin", 8)
    with pytest.raises(ConfigError) as error:
        TokenDataset([tmp_path / "gone", good, cut], seq_length=4)
    paths = [violation.path for violation in error.value.violations]
    assert paths == [f"{tmp_path}/gone.idx", f"{tmp_path}/gone.bin", f"{cut}.bin"]


def test_a_file_that_shrinks_under_the_run_is_an_error_with_its_name(tmp_path: Path) -> None:
    prefix = write_counting_shard(tmp_path / "s", start=0, num_tokens=1000)
    dataset = TokenDataset([prefix], seq_length=10)
    os.truncate(f"{prefix}.bin", 2000)
    with pytest.raises(
        RunStopped, match=rf"{prefix}\.bin: had 4000 bytes when the run started \(got 2000 bytes\)"
    ) as error:
        _read(dataset, [49])
    assert error.value.exit_code == EXIT_BAD_INPUT
    dataset.close()


def test_a_file_that_shrinks_between_the_look_at_its_size_and_the_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = write_counting_shard(tmp_path / "s", start=0, num_tokens=1000)
    dataset = TokenDataset([prefix], seq_length=10)
    read = os.pread

    def shrink_then_read(descriptor: int, num_bytes: int, offset: int) -> bytes:
        os.truncate(f"{prefix}.bin", 2000)
        return read(descriptor, num_bytes, offset)

    monkeypatch.setattr(os, "pread", shrink_then_read)
    with pytest.raises(RunStopped, match=rf"{prefix}\.bin: had 4000 bytes when the run started \(got 2000 bytes\)"):
        _read(dataset, [49])
    dataset.close()


def test_other_tokens_under_the_same_name_are_an_error(tmp_path: Path) -> None:
    written = write_counting_shard(tmp_path / "written", start=0, num_tokens=1000)
    replaced = write_counting_shard(tmp_path / "replaced", start=0, num_tokens=1000)
    dataset = TokenDataset([written, replaced], seq_length=10)
    _read(dataset, [0, 150])
    with open(f"{written}.bin", "r+b") as file:
        file.write(b"other")
    os.utime(f"{written}.bin", ns=(0, 1))  # a clock tick later, whatever the file system's resolution
    with pytest.raises(RunStopped, match=rf"{written}\.bin: has been modified during the run"):
        _read(dataset, [0])
    os.rename(write_counting_shard(tmp_path / "new", start=7, num_tokens=1000).with_suffix(".bin"), f"{replaced}.bin")
    assert _read(dataset, [150])[0, 0] == 500, "the file that was opened is still the old one"
    dataset.close()
    with pytest.raises(RunStopped, match=rf"{replaced}\.bin: has been replaced by another file \(got inode \d+\)"):
        _read(dataset, [150])


def test_a_file_that_is_touched_or_put_back_as_it_was_is_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    large, small = 400_000, 1000  # beyond the size that is compared whole, and below it
    for name, num_tokens, with_manifest in (("a", large, False), ("b", small, True), ("c", small, False)):
        prefix = write_shard(tmp_path / name, [np.arange(num_tokens)], dtype=np.int32, with_manifest=with_manifest)
        dataset, path = TokenDataset([prefix], seq_length=10), Path(f"{prefix}.bin")
        caplog.clear()
        with caplog.at_level(logging.INFO):
            _read(dataset, [0])
            os.utime(path, ns=(0, 1))
            assert _read(dataset, [5, 7])[:, 0].tolist() == [50, 70]
        assert caplog.text.count(f"{path} has another modification time, but the same content") == 1
        dataset.close()
        os.rename(shutil.copy(path, tmp_path / "copy"), path)
        with caplog.at_level(logging.INFO):
            assert _read(dataset, [6])[0, 0] == 60
        assert f"{path} is another file, but the same content" in caplog.text
        dataset.close()


@pytest.mark.parametrize(("num_tokens", "with_manifest", "changed"), [(1000, False, 517), (400_000, True, 5_001)])
def test_one_other_token_is_found_where_all_are_compared(
    tmp_path: Path, num_tokens: int, with_manifest: bool, changed: int
) -> None:
    prefix = write_shard(tmp_path / "s", [np.arange(num_tokens)], dtype=np.int32, with_manifest=with_manifest)
    dataset = TokenDataset([prefix], seq_length=10)
    _read(dataset, [0])
    with open(f"{prefix}.bin", "r+b") as file:
        file.seek(4 * changed)
        file.write(b"odd!")
    os.utime(f"{prefix}.bin", ns=(0, 1))
    with pytest.raises(RunStopped, match="bin: has been modified during the run"):
        _read(dataset, [0])
    dataset.close()


def test_a_file_that_vanishes_is_named_and_read_while_it_is_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prefix = write_counting_shard(tmp_path / "s", start=0, num_tokens=1000)
    dataset = TokenDataset([prefix], seq_length=10)
    _read(dataset, [0])
    os.unlink(f"{prefix}.bin")
    for _ in range(2):
        assert _read(dataset, [3])[0, 0] == 30
    assert caplog.text.count(f"{prefix}.bin was deleted or replaced") == 1
    dataset.close()
    with pytest.raises(RunStopped, match=rf"{prefix}\.bin: can no longer be read: No such file"):
        _read(dataset, [3])


def test_identity_follows_content_and_not_place(tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    here = write_counting_shard(tmp_path / "s", start=0, num_tokens=50)
    moved = write_counting_shard(tmp_path / "moved" / "s", start=0, num_tokens=50)
    longer = write_counting_shard(tmp_path / "t", start=0, num_tokens=51)
    identity = TokenDataset([here], seq_length=5).identity
    assert TokenDataset([moved], seq_length=5).identity == identity
    others = [TokenDataset([here], seq_length=6), TokenDataset([longer], seq_length=5)]
    assert identity not in [other.identity for other in others]
