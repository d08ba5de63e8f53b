"""Documents inside windows: attention, positions and loss mask, for training and validation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.shards import write_shard
from trainer.config.run import DatasetConfig
from trainer.data.loader import build_loader
from trainer.data.micro_batch import DocumentConfig, MicroBatch, build_micro_batch, find_document_starts
from trainer.data.validation import build_validation_loader

EOD = 9
WINDOWS = torch.tensor(
    [
        [1, 2, EOD, 3, 4, 5, EOD, EOD, 6],
        [EOD, 1, 1, 1, 1, 1, 1, 1, EOD],
        [1, 2, 3, 4, 5, 6, 7, 8, 1],
    ]
)
STARTS = torch.tensor([[0, 0, 0, 3, 3, 3, 3, 7], [0, 1, 1, 1, 1, 1, 1, 1], [0] * 8], dtype=torch.int32)


def batch_of(documents: DocumentConfig | None, is_real: tuple[bool, ...] = (True, True, True)) -> MicroBatch:
    return build_micro_batch(WINDOWS, is_real=torch.tensor(is_real), sample_ids=(0, 1, 2), documents=documents)


def test_a_document_begins_behind_the_mark_that_ends_the_one_before() -> None:
    assert torch.equal(find_document_starts(WINDOWS[:, :-1], eod_token_id=EOD), STARTS)


def test_each_setting_changes_one_thing() -> None:
    plain = batch_of(None)
    assert plain.document_starts is None
    assert torch.equal(plain.position_ids, torch.arange(8).expand(3, -1))
    assert bool((plain.loss_mask == 1).all())

    unchanged = batch_of(DocumentConfig(eod_token_id=EOD))
    attention = batch_of(DocumentConfig(eod_token_id=EOD, reset_attention_mask=True))
    positions = batch_of(DocumentConfig(eod_token_id=EOD, reset_position_ids=True))
    loss = batch_of(DocumentConfig(eod_token_id=EOD, eod_mask_loss=True))
    assert attention.document_starts is not None
    assert torch.equal(attention.document_starts, STARTS)
    assert torch.equal(positions.position_ids, torch.arange(8) - STARTS)
    assert torch.equal(loss.loss_mask, (WINDOWS[:, :-1] != EOD).float())
    for batch in (unchanged, attention, positions, loss):
        assert torch.equal(batch.tokens, plain.tokens)
        assert torch.equal(batch.labels, plain.labels)
        assert (batch.document_starts is None) == (batch is not attention)
        assert torch.equal(batch.position_ids, plain.position_ids) == (batch is not positions)
        assert torch.equal(batch.loss_mask, plain.loss_mask) == (batch is not loss)
        assert batch.position_ids.dtype == torch.int64
        assert batch.loss_mask.dtype == torch.float32


def test_sequences_that_only_fill_a_batch_stay_without_loss() -> None:
    loss = batch_of(DocumentConfig(eod_token_id=EOD, eod_mask_loss=True), is_real=(True, False, True))
    assert loss.loss_mask.sum(dim=1).tolist() == [5.0, 0.0, 8.0]


@pytest.fixture
def shard(tmp_path: Path) -> DatasetConfig:
    generator = np.random.default_rng(1)
    documents = [
        np.append(generator.integers(0, EOD, size=length), EOD) for length in generator.integers(1, 20, size=40)
    ]
    write_shard(tmp_path / "shard", documents)
    return DatasetConfig(paths=[str(tmp_path / "shard")])


def test_training_and_validation_read_documents(shard: DatasetConfig) -> None:
    documents = DocumentConfig(eod_token_id=EOD, reset_attention_mask=True, reset_position_ids=True)
    sizes = {"seq_length": 16, "dp_rank": 0, "dp_size": 1, "micro_batch_size": 2, "global_batch_size": 4}
    with build_loader([shard], seed=1, prefetch_steps=0, documents=documents, **sizes) as loader:
        training = loader.next_step()
    validation = build_validation_loader([shard], eval_iters=1, documents=documents, **sizes)
    (step,) = validation.steps()
    validation.close()
    for batch in (*training, *step):
        assert batch.document_starts is not None
        assert torch.equal(batch.document_starts, find_document_starts(batch.tokens, eod_token_id=EOD))
        assert torch.equal(batch.position_ids, torch.arange(16) - batch.document_starts)
        assert batch.document_starts.max() > 0
