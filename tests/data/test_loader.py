"""The loader: the right tokens, the same on every layout, resumed by a number, and a thread that ends."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.data.shards import make_documents, write_counting_shard, write_shard
from trainer.config.run import DatasetConfig
from trainer.data.loader import BatchLoader, build_loader
from trainer.data.micro_batch import MicroBatch
from trainer.data.mixture import Mixture
from trainer.data.prefetch import Prefetcher
from trainer.data.sample_ranges import SampleRanges
from trireme.errors import ConfigError, RunStopped

SEQ_LENGTH = 8


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> list[DatasetConfig]:
    """Two data sets of 60 and 25 windows; the tokens of the second begin at 100,000."""
    directory = tmp_path_factory.mktemp("shards")
    first = [write_counting_shard(directory / f"a{i}", start=i * 161, num_tokens=161) for i in range(3)]
    second = write_counting_shard(directory / "b", start=100_000, num_tokens=202)
    return [
        DatasetConfig(paths=[str(prefix) for prefix in first], weight=0.7),
        DatasetConfig(paths=[str(second)], weight=0.3),
    ]


def _build(configs: list[DatasetConfig], **changes: Any) -> BatchLoader:
    settings: dict[str, Any] = {
        "seed": 3,
        "seq_length": SEQ_LENGTH,
        "dp_rank": 0,
        "dp_size": 1,
        "micro_batch_size": 2,
        "global_batch_size": 12,
        "prefetch_steps": 2,
    }
    return build_loader(configs, **{**settings, **changes})


def _wait_until_full(loader: BatchLoader) -> None:
    """Let the thread read as far ahead as it may."""
    assert loader._prefetcher is not None
    while not loader._prefetcher._ready.full():
        time.sleep(0.005)


def _rows(steps: list[list[MicroBatch]]) -> dict[int, list[int]]:
    """Sample number -> its tokens and last label."""
    rows = {}
    for step in steps:
        for batch in step:
            for i, sample in enumerate(batch.sample_ids):
                rows[sample] = [*batch.tokens[i].tolist(), int(batch.labels[i, -1])]
    return rows


def _read(configs: list[DatasetConfig], num_steps: int, **changes: Any) -> dict[int, list[int]]:
    with _build(configs, **changes) as loader:
        return _rows([loader.next_step() for _ in range(num_steps)])


def test_micro_batch(configs: list[DatasetConfig]) -> None:
    with _build(configs, dp_rank=1, dp_size=2, consumed_samples=24) as loader:
        step = loader.next_step()
    assert [batch.sample_ids for batch in step] == [(26, 27), (30, 31), (34, 35)]
    for batch in step:
        for tensor in (batch.tokens, batch.labels, batch.position_ids):
            assert tensor.shape == (2, SEQ_LENGTH) and tensor.dtype == torch.int64 and tensor.is_contiguous()
        assert batch.loss_mask.dtype == torch.float32 and bool((batch.loss_mask == 1).all())
        # The shards count up, so the next token is the token plus one.
        assert torch.equal(batch.labels, batch.tokens + 1)
        assert batch.position_ids.tolist() == [list(range(SEQ_LENGTH))] * 2


def test_an_epoch_holds_each_window_once(configs: list[DatasetConfig]) -> None:
    rows = _read(configs[:1], 5)
    starts = sorted(row[0] for row in rows.values())
    assert starts == list(range(0, 60 * SEQ_LENGTH, SEQ_LENGTH))


@pytest.mark.parametrize("layout", [(2, 1), (2, 3), (3, 2), (4, 3), (12, 1), (1, 12)])
def test_every_layout_reads_the_same_global_order(configs: list[DatasetConfig], layout: tuple[int, int]) -> None:
    dp_size, micro_batch_size = layout
    together: dict[int, list[int]] = {}
    for dp_rank in range(dp_size):
        part = _read(configs, 9, dp_rank=dp_rank, dp_size=dp_size, micro_batch_size=micro_batch_size)
        assert not set(part) & set(together)
        together |= part
    assert together == _read(configs, 9)


@given(consumed_steps=st.integers(0, 30), prefetch_steps=st.integers(0, 3), dp_size=st.sampled_from([1, 2, 3]))
def test_resume_is_a_number(
    configs: list[DatasetConfig], consumed_steps: int, prefetch_steps: int, dp_size: int
) -> None:
    """A loader that starts at consumed_samples gives what one that ran there gives, also on another layout."""
    uninterrupted = _read(configs, consumed_steps + 2)
    resumed: dict[int, list[int]] = {}
    for dp_rank in range(dp_size):
        resumed |= _read(
            configs,
            2,
            consumed_samples=12 * consumed_steps,
            prefetch_steps=prefetch_steps,
            dp_rank=dp_rank,
            dp_size=dp_size,
        )
    assert resumed == {sample: row for sample, row in uninterrupted.items() if sample >= 12 * consumed_steps}


def test_consumed_samples_counts_what_was_handed_out(configs: list[DatasetConfig]) -> None:
    with _build(configs, consumed_samples=24) as loader:
        loader.next_step()
        _wait_until_full(loader)
        assert loader.consumed_samples == 36


def test_a_changed_mixture_goes_on_without_repeats(configs: list[DatasetConfig]) -> None:
    with _build(configs) as loader:
        rows = _rows([loader.next_step() for _ in range(2)])
        record = loader.mixture.to_record()
    changed = [DatasetConfig(paths=configs[1].paths, weight=0.5), DatasetConfig(paths=configs[0].paths, weight=0.5)]
    rows |= _read(changed, 2, consumed_samples=24, former_mixture=Mixture.from_record(record))
    assert len({row[0] for row in rows.values()}) == 48


@pytest.mark.parametrize("layout", [(1, 2, 0), (2, 3, 2), (3, 2, 1)])
def test_samples_that_are_left_out_are_read_by_no_rank_and_the_others_move_up(
    configs: list[DatasetConfig], layout: tuple[int, int, int]
) -> None:
    dp_size, micro_batch_size, prefetch_steps = layout
    skipped_samples = SampleRanges.of([(5, 9), (12, 12), (30, 54)])
    whole = _read(configs, 9)
    together: dict[int, list[int]] = {}
    for dp_rank in range(dp_size):
        changes = {"dp_rank": dp_rank, "dp_size": dp_size, "prefetch_steps": prefetch_steps}
        with _build(configs, micro_batch_size=micro_batch_size, skipped_samples=skipped_samples, **changes) as loader:
            steps, ends = [], []
            for _ in range(5):
                steps.append(loader.next_step())
                ends.append(loader.consumed_samples)
        # What a checkpoint at any of these places gives.
        assert ends == [16, 28, 64, 76, 88]
        together |= _rows(steps)
    remaining = [sample for sample in range(88) if not (5 <= sample < 9 or 30 <= sample < 54)]
    assert together == {sample: whole[sample] for sample in remaining}
    assert len(remaining) == 5 * 12
    resumed = _read(configs, 2, consumed_samples=28, skipped_samples=skipped_samples)
    assert resumed == {sample: whole[sample] for sample in remaining if 28 <= sample < 76}


@pytest.mark.parametrize("prefetch_steps", [0, 2])
def test_seek_goes_on_from_another_place(configs: list[DatasetConfig], prefetch_steps: int) -> None:
    whole = _read(configs, 9)
    with _build(configs, prefetch_steps=prefetch_steps) as loader:
        for _ in range(4):
            loader.next_step()
        loader.seek(24, skipped_samples=SampleRanges.of([(24, 40)]))
        assert _prefetch_threads() == (prefetch_steps > 0)
        rows = _rows([loader.next_step() for _ in range(2)])
        assert rows == {sample: whole[sample] for sample in range(40, 64)}
        assert loader.consumed_samples == 64
    assert _prefetch_threads() == 0


def test_a_changed_mixture_leaves_out_nothing_of_the_former_one(configs: list[DatasetConfig]) -> None:
    with _build(configs) as loader:
        former = loader.mixture
    changed = [DatasetConfig(paths=configs[1].paths, weight=0.5), DatasetConfig(paths=configs[0].paths, weight=0.5)]
    skipped_samples = SampleRanges.of([(3, 5), (20, 40)])
    with _build(changed, consumed_samples=24, former_mixture=former, skipped_samples=skipped_samples) as loader:
        assert loader.skipped_samples == SampleRanges.of([(3, 5), (20, 24)])
    with _build(configs, consumed_samples=24, former_mixture=former, skipped_samples=skipped_samples) as loader:
        assert loader.skipped_samples == skipped_samples


def test_seeds_have_their_own_order(configs: list[DatasetConfig]) -> None:
    assert _read(configs, 2) != _read(configs, 2, seed=4)


def test_megatron_like_shard_without_manifest_trains(tmp_path: Path) -> None:
    prefix = write_shard(tmp_path / "s", make_documents(num_tokens=500))
    assert len(_read([DatasetConfig(paths=[str(prefix)])], 2)) == 24


def test_token_beyond_the_vocabulary_is_named(configs: list[DatasetConfig]) -> None:
    with _build(configs, vocab_size=100_000) as loader, pytest.raises(ConfigError) as error:
        loader.next_step()
    message = str(error.value)
    assert f"{configs[1].paths[0]} (data set 1): token " in message
    assert "is outside of the model's vocabulary of 100000 (got token id 100" in message


def test_batches_that_do_not_divide(configs: list[DatasetConfig]) -> None:
    with pytest.raises(ValueError, match="12 is not a multiple of 10"):
        _build(configs, dp_size=5)


def test_problems_of_all_data_sets_are_named(tmp_path: Path, configs: list[DatasetConfig]) -> None:
    bad = [DatasetConfig(paths=[str(tmp_path / "x")]), configs[0], DatasetConfig(paths=[str(tmp_path / "y")])]
    with pytest.raises(ConfigError) as error:
        _build(bad)
    assert len(error.value.violations) == 4


# The thread


def _prefetch_threads() -> int:
    return sum(thread.name == "data-prefetch" for thread in threading.enumerate())


@pytest.mark.parametrize("num_steps", [0, 1, 5])
def test_close_ends_the_thread_and_the_files(configs: list[DatasetConfig], num_steps: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    loader = _build(configs)
    assert _prefetch_threads() == 1
    for _ in range(num_steps):
        loader.next_step()
    loader.close()
    loader.close()
    assert _prefetch_threads() == 0
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(RuntimeError, match="closed"):
        loader.next_step()


def test_no_thread_without_prefetch(configs: list[DatasetConfig]) -> None:
    with _build(configs, prefetch_steps=0) as loader:
        loader.next_step()
        assert _prefetch_threads() == 0


@pytest.mark.parametrize("prefetch_steps", [0, 2])
def test_a_read_error_reaches_next_step(tmp_path: Path, prefetch_steps: int) -> None:
    prefix = write_counting_shard(tmp_path / "s", start=0, num_tokens=100_000)
    config = DatasetConfig(paths=[str(prefix)])
    with _build([config], prefetch_steps=0, global_batch_size=2) as whole:
        last_good = whole.next_step()
    loader = _build([config], prefetch_steps=prefetch_steps, global_batch_size=2)
    assert torch.equal(loader.next_step()[0].tokens, last_good[0].tokens)
    os.truncate(f"{prefix}.bin", 4)
    for _ in range(2):
        with pytest.raises(RunStopped, match="bytes when the run started"):
            for _ in range(prefetch_steps + 2):
                loader.next_step()
    loader.close()
    assert _prefetch_threads() == 0


def test_prefetcher_reads_ahead_only_as_far_as_told() -> None:
    made: list[int] = []

    def produce() -> int:
        made.append(len(made))
        return made[-1]

    prefetcher = Prefetcher(produce, depth=3)
    deadline = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    # Three ready, and one that waits for room.
    assert made == [0, 1, 2, 3]
    assert [prefetcher.get() for _ in range(10)] == list(range(10))
    prefetcher.close()
    with pytest.raises(RuntimeError, match="closed"):
        prefetcher.get()


def test_prefetcher_keeps_the_cause_of_an_error() -> None:
    def produce() -> int:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error

    prefetcher = Prefetcher(produce, depth=1)
    for _ in range(2):
        with pytest.raises(ValueError, match="outer") as raised:
            prefetcher.get()
        assert isinstance(raised.value.__cause__, KeyError)
        assert any(entry.name == "produce" for entry in raised.traceback)
    prefetcher.close()


def test_reading_is_ahead_of_the_consumer(configs: list[DatasetConfig]) -> None:
    """While a step runs, the next ones are read: they can be taken when no more can be read."""
    with _build(configs) as loader:
        reader = loader._reader
        real_read = reader.read
        may_read = threading.Event()
        may_read.set()

        def read_if_allowed(*arguments: Any, **named: Any) -> list[MicroBatch]:
            may_read.wait()
            return real_read(*arguments, **named)

        reader.read = read_if_allowed  # type: ignore[method-assign]
        for _ in range(4):
            loader.next_step()
        _wait_until_full(loader)
        may_read.clear()
        try:
            for _ in range(2):
                loader.next_step()
        finally:
            may_read.set()


def test_values_are_those_of_the_shard(tmp_path: Path) -> None:
    documents = make_documents(num_tokens=400, vocab_size=60_000)
    prefix = write_shard(tmp_path / "s", documents)
    tokens = np.concatenate(documents)
    rows = _read([DatasetConfig(paths=[str(prefix)])], 4)
    expected = {tuple(tokens[w * 8 : w * 8 + 9].tolist()) for w in range(49)}
    assert {tuple(row) for row in rows.values()} <= expected
    assert len({tuple(row) for row in rows.values()}) == 48
