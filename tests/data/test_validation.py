"""The validation set: the same windows each time, each once, equally many passes on every rank."""

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.shards import write_counting_shard
from trainer.config.run import DatasetConfig
from trainer.data.validation import ValidationLoader, build_validation_loader

SEQ_LENGTH = 8


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> list[DatasetConfig]:
    """Data sets of 50 and 5 windows."""
    directory = tmp_path_factory.mktemp("shards")
    first = write_counting_shard(directory / "a", start=0, num_tokens=50 * SEQ_LENGTH + 1)
    second = write_counting_shard(directory / "b", start=10_000, num_tokens=5 * SEQ_LENGTH + 1)
    return [DatasetConfig(paths=[str(first)]), DatasetConfig(paths=[str(second)])]


def _build(configs: list[DatasetConfig], **changes: Any) -> ValidationLoader:
    settings = {"dp_rank": 0, "dp_size": 1, "micro_batch_size": 2, "global_batch_size": 12, "eval_iters": 3}
    return build_validation_loader(configs, seq_length=SEQ_LENGTH, **{**settings, **changes})


def _starts(loader: ValidationLoader) -> list[int]:
    """First token of every sequence that counts."""
    found = []
    for step in loader.steps():
        for batch in step:
            for i, sample in enumerate(batch.sample_ids):
                assert bool((batch.loss_mask[i] == (0.0 if sample < 0 else 1.0)).all())
                if sample >= 0:
                    found.append(int(batch.tokens[i, 0]))
    loader.close()
    return found


def test_each_pass_gives_the_same_windows(configs: list[DatasetConfig]) -> None:
    loader = _build(configs[:1])
    first = _starts(loader)
    assert _starts(loader) == first == _starts(_build(configs[:1]))
    assert len(set(first)) == len(first) == 36 == loader.num_windows
    assert loader.num_steps == 3


@pytest.mark.parametrize(("dp_size", "micro_batch_size"), [(2, 3), (3, 4), (12, 1), (4, 1)])
@pytest.mark.parametrize("eval_iters", [3, 20])
def test_windows_do_not_depend_on_the_layout(
    configs: list[DatasetConfig], dp_size: int, micro_batch_size: int, eval_iters: int
) -> None:
    layout = {"dp_size": dp_size, "micro_batch_size": micro_batch_size, "eval_iters": eval_iters}
    parts = [_starts(_build(configs, dp_rank=dp_rank, **layout)) for dp_rank in range(dp_size)]
    expected = _starts(_build(configs, eval_iters=eval_iters))
    assert sorted(itertools.chain(*parts)) == sorted(expected)


@pytest.mark.parametrize(("dp_size", "micro_batch_size"), [(1, 1), (2, 3), (4, 3)])
def test_a_small_set_counts_each_window_once_on_equally_many_passes(
    configs: list[DatasetConfig], dp_size: int, micro_batch_size: int, caplog: pytest.LogCaptureFixture
) -> None:
    starts, passes = [], []
    for dp_rank in range(dp_size):
        with caplog.at_level(logging.WARNING):
            loader = _build(
                configs[:1], dp_rank=dp_rank, dp_size=dp_size, micro_batch_size=micro_batch_size, eval_iters=10
            )
        passes.append([len(step) for step in loader.steps()])
        starts += _starts(loader)
        assert (loader.num_windows, loader.num_steps) == (50, 5)
    assert sorted(starts) == list(range(0, 50 * SEQ_LENGTH, SEQ_LENGTH))
    assert passes == [[12 // (dp_size * micro_batch_size)] * 5] * dp_size
    assert "Validation uses 50 windows of 8 tokens, each once" in caplog.text
    assert "training.eval_iters=10" in caplog.text


def test_a_small_set_in_a_blend_is_not_repeated(configs: list[DatasetConfig]) -> None:
    starts = _starts(_build(configs))
    assert len(set(starts)) == len(starts)
    # 18 of the 36 come from each; the second has 5.
    assert sum(start >= 10_000 for start in starts) == 5
    assert len(starts) == 18 + 5


def test_padding_is_zeros_with_an_invalid_number(configs: list[DatasetConfig]) -> None:
    *_, last = _build(configs[:1], eval_iters=5).steps()
    padded = last[-1]
    assert padded.sample_ids == (-1, -1)
    assert not padded.loss_mask.any() and not padded.tokens.any()
    assert padded.tokens.shape == (2, SEQ_LENGTH)


def test_the_mean_over_a_pass_is_that_over_the_windows(configs: list[DatasetConfig]) -> None:
    """Token-weighted sums over all ranks give the exact mean, padding or not."""
    total, count = 0.0, 0.0
    for dp_rank in range(3):
        for step in _build(configs[:1], dp_rank=dp_rank, dp_size=3, eval_iters=9).steps():
            for batch in step:
                total += float((batch.labels * batch.loss_mask).sum())
                count += float(batch.loss_mask.sum())
    assert total / count == np.mean(np.arange(1, 50 * SEQ_LENGTH + 1))


def test_a_set_of_one_window(tmp_path: Path) -> None:
    prefix = write_counting_shard(tmp_path / "s", start=0, num_tokens=SEQ_LENGTH + 1)
    assert _starts(_build([DatasetConfig(paths=[str(prefix)])])) == [0]


@pytest.mark.parametrize("dp_size", [1, 3])
def test_null_takes_every_window_of_every_set_once(configs: list[DatasetConfig], dp_size: int) -> None:
    parts = [_starts(_build(configs, dp_rank=rank, dp_size=dp_size, eval_iters=None)) for rank in range(dp_size)]
    first, second = range(0, 50 * SEQ_LENGTH, SEQ_LENGTH), range(10_000, 10_000 + 5 * SEQ_LENGTH, SEQ_LENGTH)
    assert sorted(itertools.chain(*parts)) == [*first, *second]
