"""Spools of many workers are read with few open files."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_tools.dedup.minhash import KEYS_NAME, read_bands
from data_tools.errors import PreparationError
from data_tools.stages import run as stages
from data_tools.stages.cache import Stage
from data_tools.stages.preparation import Preparation, Share
from data_tools.stages.run import run_stage
from data_tools.work.spool import DOCUMENTS_NAME, MIN_OPEN_FILES, BlobRef, SpoolReader, SpoolWriter, raise_file_limit

NUM_SPOOLS = 144
"""Shares times workers of a small cluster."""


@contextlib.contextmanager
def few_files(*, free: int) -> Iterator[None]:
    """Let this process open only so many files more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + free, hard))
    holes = []
    try:
        # Descriptors are given out from the lowest free one on: fill the gaps below the highest.
        with contextlib.suppress(OSError):
            while (descriptor := os.open("/dev/null", os.O_RDONLY)) <= highest:
                holes.append(descriptor)
            os.close(descriptor)
        yield
    finally:
        for descriptor in holes:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def write_spools(directory: Path, *, name: str, values: list[bytes]) -> list[BlobRef]:
    refs = []
    for number, value in enumerate(values):
        writer = SpoolWriter(directory, spool=f"{number:04d}", name=name)
        refs.append(writer.append_bytes(value))
        del writer
    return refs


def test_more_spools_than_files_may_be_open(tmp_path: Path) -> None:
    keys = [np.arange(2, dtype=np.uint64).tobytes() for _ in range(NUM_SPOOLS)]
    refs = write_spools(tmp_path, name=KEYS_NAME, values=keys)
    with few_files(free=MIN_OPEN_FILES // 2):
        bands = list(
            read_bands(
                tmp_path, [(blob_ref, n, 1) for n, blob_ref in enumerate(refs)], num_bands=2, num_documents=NUM_SPOOLS
            )
        )
        assert [set(band.tolist()) for band in bands] == [{0}, {1}]


def test_what_was_read_last_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = write_spools(tmp_path, name=DOCUMENTS_NAME, values=[bytes([n]) for n in range(NUM_SPOOLS)])
    opened: list[str] = []
    real_open = os.open

    def count(path: Path, flags: int) -> int:
        opened.append(Path(path).name)
        return real_open(path, flags)

    monkeypatch.setattr("data_tools.work.spool.os.open", count)
    with SpoolReader(tmp_path, name=DOCUMENTS_NAME) as reader:
        for blob_ref in [*refs, *refs]:
            assert reader.read(blob_ref) == bytes([int(blob_ref.spool)])
    assert len(opened) == len(set(opened)), "where the limit allows, each file is opened once"


def test_a_spool_that_is_gone_is_named(tmp_path: Path) -> None:
    (blob_ref,) = write_spools(tmp_path, name=DOCUMENTS_NAME, values=[b"x"])
    (tmp_path / "documents_0000.spool").unlink()
    with (
        SpoolReader(tmp_path, name=DOCUMENTS_NAME) as reader,
        pytest.raises(PreparationError, match="documents_0000.spool: cannot read the file: No such file"),
    ):
        reader.read(blob_ref)


def test_the_limit_is_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard) // 2, hard))
        assert raise_file_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= soft
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_stage_without_files_tells_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(24, os.strerror(24), "/data/train.bin")

    monkeypatch.setattr(stages, "assemble", fail)
    preparation = object.__new__(Preparation)
    with pytest.raises(
        PreparationError,
        match=r"/data/train.bin: Too many open files \(this process may open \d+ files\). Raise the limit",
    ):
        run_stage(Stage.ASSEMBLE, preparation, Share())
