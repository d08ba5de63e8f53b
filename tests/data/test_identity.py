"""Which data set is which at a resume: told from what it holds, not from names and sizes."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data.shards import write_shard
from trainer.config.run import DatasetConfig
from trainer.data.loader import BatchLoader, build_loader
from trainer.data.mixture import DatasetIdentity, Mixture, describe_mixture_change
from trainer.data.token_dataset import TokenDataset
from trireme.errors import ConfigError

SEQ_LENGTH = 8
NUM_WINDOWS = 64
GLOBAL_BATCH_SIZE = 16


def make_pair(directory: Path, *, with_manifest: bool) -> list[Path]:
    """Two data sets of equal base names and counts, one below the other's token ids."""
    size = NUM_WINDOWS * SEQ_LENGTH + 1
    return [
        write_shard(
            directory / name / "tokens",
            [np.arange(start, start + size)],
            dtype=np.int32,
            with_manifest=with_manifest,
        )
        for name, start in (("first", 0), ("second", size))
    ]


def open_loader(prefixes: list[Path], *, consumed: int = 0, former: Mixture | None = None) -> BatchLoader:
    return build_loader(
        [DatasetConfig(paths=[str(prefix)]) for prefix in prefixes],
        seed=1,
        seq_length=SEQ_LENGTH,
        dp_rank=0,
        dp_size=1,
        micro_batch_size=GLOBAL_BATCH_SIZE,
        global_batch_size=GLOBAL_BATCH_SIZE,
        consumed_samples=consumed,
        prefetch_steps=0,
        former_mixture=former,
    )


def read_steps(loader: BatchLoader, count: int) -> list[int]:
    """The first token of each window: every window has another one."""
    with loader:
        return [first for _ in range(count) for batch in loader.next_step() for first in batch.tokens[:, 0].tolist()]


def identity_of(prefix: Path) -> DatasetIdentity:
    return TokenDataset([prefix], seq_length=SEQ_LENGTH).identity


@pytest.mark.parametrize("with_manifest", [True, False])
def test_two_data_sets_of_equal_names_and_counts_that_change_places_are_read_once_each(
    tmp_path: Path, with_manifest: bool
) -> None:
    pair = make_pair(tmp_path, with_manifest=with_manifest)
    first = open_loader(pair)
    record = first.mixture.to_record()
    read = read_steps(first, 3)
    second = open_loader(pair[::-1], consumed=3 * GLOBAL_BATCH_SIZE, former=Mixture.from_record(record))
    assert [entry.stream for entry in second.mixture.active] == [1, 0]
    read += read_steps(second, 5)
    assert len(read) == len(set(read)) == 2 * NUM_WINDOWS


def test_a_data_set_keeps_its_place_under_another_name_and_with_or_without_its_manifest(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, with_manifest=True)
    former = open_loader(pair).mixture
    moved = []
    for number, prefix in enumerate(pair):
        (tmp_path / "moved").mkdir(exist_ok=True)
        moved.append(tmp_path / "moved" / f"part-{number}")
        for suffix in (".bin", ".idx"):
            shutil.copy(f"{prefix}{suffix}", f"{moved[-1]}{suffix}")
    again = open_loader(moved, consumed=GLOBAL_BATCH_SIZE, former=former).mixture
    assert again.draws_as(former)
    assert [entry.checksum for entry in again.active] == [entry.checksum for entry in former.active], "not forgotten"
    assert open_loader(pair, consumed=GLOBAL_BATCH_SIZE, former=again).mixture == former


def test_a_manifest_tells_apart_what_differs_in_the_middle_only(tmp_path: Path) -> None:
    tokens = np.zeros(40_000, dtype=np.int64)
    other = tokens.copy()
    other[20_000] = 1
    one = identity_of(write_shard(tmp_path / "a" / "s", [tokens], with_manifest=True))
    two = identity_of(write_shard(tmp_path / "b" / "s", [other], with_manifest=True))
    assert (one.content, one.name) == (two.content, two.name)
    assert one.checksum != two.checksum


def test_a_checkpoint_that_knows_names_and_counts_only_goes_on(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, with_manifest=True)
    now = open_loader(pair).mixture
    identities = [TokenDataset([prefix], seq_length=SEQ_LENGTH).identity for prefix in pair]
    older = replace(
        now,
        entries=tuple(
            replace(entry, identity=identity.name or "", checksum=None)
            for entry, identity in zip(now.entries, identities, strict=True)
        ),
    )
    record = older.to_record()
    for entry in record["entries"]:
        del entry["checksum"]
    assert open_loader(pair, consumed=GLOBAL_BATCH_SIZE, former=Mixture.from_record(record)).mixture == now


def test_data_that_was_replaced_under_its_name_is_a_new_data_set_and_told(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, with_manifest=False)
    former = open_loader(pair).mixture
    write_shard(pair[1], [np.arange(7, 7 + NUM_WINDOWS * SEQ_LENGTH + 1)], dtype=np.int32)
    mixture = open_loader(pair, consumed=GLOBAL_BATCH_SIZE, former=former).mixture
    assert describe_mixture_change(mixture, former=former, consumed_samples=16) == [
        "The data mixture changes at sample 16: data.train[0] continues after 8 samples.",
        "The data mixture changes at sample 16: data.train[1] is a new data set and starts at its first sample.",
        "The data mixture changes at sample 16: 1 of the former 2 data sets are no longer used.",
    ]
    assert describe_mixture_change(former, former=former, consumed_samples=16) == []


def test_tokens_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    prefix = make_pair(tmp_path, with_manifest=False)[0]
    dataset = TokenDataset([prefix], seq_length=SEQ_LENGTH)
    Path(f"{prefix}.bin").unlink()
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        _ = dataset.identity
