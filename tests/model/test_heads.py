"""Task heads: what they score, on packed rows and under every layout, and what transformers' classes compute."""

import dataclasses
from typing import Any

import pytest
import torch

from tests.checkpoint.fragments import MODEL, PADDED_VOCAB_SIZE, build_chunks, open_world
from trainer.config.parallel import ParallelConfig
from trainer.model.sharding import describe_parameters

ENCODER = dataclasses.replace(
    MODEL,
    attention_mask="bidirectional",
    position_embedding_type="learned_absolute",
    normalization="LayerNorm",
    norm_placement="sum",
    embedding_layernorm=True,
    activation="gelu",
    add_bias_linear=True,
    num_tokentypes=2,
    vocab_bias=True,
    init_method_std=0.2,
    head="classification",
    num_labels=3,
)
LENGTHS = ((5, 1, 10), (16,))
"""Documents of each row."""


def packed_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, positions and beginnings of documents."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, PADDED_VOCAB_SIZE, (2, 16), generator=generator)
    starts = torch.zeros(2, 16, dtype=torch.int32)
    for row, lengths in enumerate(LENGTHS):
        first = 0
        for length in lengths:
            starts[row, first : first + length] = first
            first += length
    return tokens, torch.arange(16)[None] - starts, starts


@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
@pytest.mark.parametrize("pooler", ["none", "tanh", "gelu"])
def test_scores_of_a_document_do_not_depend_on_its_row(pooling: Any, pooler: Any) -> None:
    model = dataclasses.replace(ENCODER, pooling=pooling, pooler=pooler)
    tokens, positions, starts = packed_batch()
    with open_world(ParallelConfig()) as world, torch.no_grad():
        (chunk,) = build_chunks(ParallelConfig(), world, model=model)
        chunk.eval()
        packed = chunk(tokens, positions, starts)
        assert packed.shape == (2, 16, 3) and packed.dtype == torch.float32
        for row, lengths in enumerate(LENGTHS):
            first = 0
            for length in lengths:
                here = slice(first, first + length)
                alone = chunk(tokens[row : row + 1, here], torch.arange(length)[None], None)
                # Sums of 16 terms in another order; the scores are of size 1.
                torch.testing.assert_close(packed[row, first], alone[0, 0], rtol=0, atol=2e-6)
                assert not packed[row, first + 1 : first + length].any(), "scores are at the first token only"
                first += length
        others = packed[0, [0, 5, 6]]
        assert (others[0] - others[1]).abs().max() > 1e-2, "documents have different scores"


@pytest.mark.parametrize("head", ["token_classification", "question_answering"])
def test_token_heads_score_every_token(head: Any) -> None:
    model = dataclasses.replace(ENCODER, head=head, num_labels=5, pooler="none")
    with open_world(ParallelConfig()) as world, torch.no_grad():
        (chunk,) = build_chunks(ParallelConfig(), world, model=model)
        hidden = []
        chunk.head.register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
        scores = chunk.eval()(*packed_batch())
    assert scores.shape == (2, 16, 5 if head == "token_classification" else 2)
    expected = hidden[0].transpose(0, 1) @ chunk.head.classifier.weight.T
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)


def test_a_head_has_no_output_layer_and_names_of_its_own() -> None:
    with open_world(ParallelConfig()) as world:
        chunks = build_chunks(ParallelConfig(), world, model=dataclasses.replace(ENCODER, pooler="tanh"))
        described = describe_parameters(chunks)
        keys = {block.key for sharded in described for block in sharded.blocks}
    assert {key for key in keys if key.startswith(("head.", "output_layer."))} == {
        "head.pooler.weight",
        "head.pooler.bias",
        "head.classifier.weight",
        "head.classifier.bias",
    }


def test_without_a_task_hidden_states_are_returned() -> None:
    model = dataclasses.replace(ENCODER, head="none", num_labels=None)
    with open_world(ParallelConfig()) as world, torch.no_grad():
        (chunk,) = build_chunks(ParallelConfig(), world, model=model)
        assert chunk.eval()(*packed_batch()).shape == (2, 16, ENCODER.hidden_size)


def test_token_types_reach_the_embedding() -> None:
    tokens, positions, starts = packed_batch()
    with open_world(ParallelConfig()) as world, torch.no_grad():
        (chunk,) = build_chunks(ParallelConfig(), world, model=ENCODER)
        chunk.eval()
        plain = chunk(tokens, positions, starts)
        assert torch.equal(chunk(tokens, positions, starts, token_types=torch.zeros_like(tokens)), plain)
        second = chunk(tokens, positions, starts, token_types=torch.ones_like(tokens))
    assert (second - plain).abs().max() > 1e-2
