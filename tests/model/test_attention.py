"""Attention inside documents: as if each document were alone, on every kernel, forward and backward.

Tolerance: fp32 sums of a few hundred terms of size 1 in another order.
"""

import itertools
import warnings
from collections.abc import Callable

import pytest

from trainer.parallel import cpu_shim

cpu_shim.install()

import torch  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.nn.attention.flex_attention import create_block_mask  # noqa: E402

from trainer.model import attention  # noqa: E402
from trainer.model.attention import attend_in_blocks, attend_with_scores, one_document  # noqa: E402
from trainer.model.key_intervals import (  # noqa: E402
    BLOCK_SIZE,
    IntervalMasks,
    build_block_mask,
    build_dense_mask,
    find_intervals,
)

TOLERANCE = 1e-5
BATCH, HEADS, GROUPS, CHANNELS = 2, 4, 2, 16
# Begins of documents, by sequence; tiles of 128 make 300 positions two whole tiles and a part of one.
DOCUMENTS = [[0, 1, 2, 100, 128, 256, 257], [0, 130, 299]]
LENGTH = 300


def starts_of(documents: list[list[int]], length: int) -> torch.Tensor:
    starts = torch.zeros(len(documents), length, dtype=torch.int32)
    for row, begins in zip(starts, documents, strict=True):
        for begin in begins:
            row[begin:] = begin
    return starts


@pytest.fixture
def starts() -> torch.Tensor:
    return starts_of(DOCUMENTS, LENGTH)


@pytest.fixture
def inputs() -> list[torch.Tensor]:
    """Query, key and value, [b, heads, S, d]."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(BATCH, heads, LENGTH, CHANNELS, generator=generator) for heads in (HEADS, GROUPS, GROUPS)]


def each_document_alone(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The definition."""
    rows = []
    for row, begins in enumerate(DOCUMENTS):
        parts = [
            functional.scaled_dot_product_attention(
                *(tensor[row : row + 1, :, begin:end] for tensor in (query, key, value)),
                is_causal=True,
                enable_gqa=True,
            )
            for begin, end in itertools.pairwise([*begins, LENGTH])
        ]
        rows.append(torch.cat(parts, dim=2))
    return torch.cat(rows)


def in_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, first: int, starts: torch.Tensor
) -> torch.Tensor:
    intervals = find_intervals(starts, first_query=first, num_queries=query.shape[2])
    mask = build_block_mask(intervals, num_keys=key.shape[2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # uncompiled, FlexAttention is slow; these inputs are small
        return attend_in_blocks(query, key, value, block_mask=mask, scale=None, enable_gqa=True)


def masked(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, first: int, starts: torch.Tensor
) -> torch.Tensor:
    intervals = find_intervals(starts, first_query=first, num_queries=query.shape[2])
    mask = build_dense_mask(intervals, num_keys=key.shape[2])
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)


def output_and_gradients(attend: Callable[..., torch.Tensor], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    output = attend(*leaves)
    output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(2)))
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    assert len(gradients) == 3
    return [output.detach(), *gradients]


def test_documents_attend_as_if_alone(inputs: list[torch.Tensor], starts: torch.Tensor) -> None:
    ours = output_and_gradients(lambda *tensors: masked(*tensors, first=0, starts=starts), inputs)
    for mine, expected in zip(ours, output_and_gradients(each_document_alone, inputs), strict=True):
        torch.testing.assert_close(mine, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_documents_attend_as_if_alone_in_blocks(inputs: list[torch.Tensor], starts: torch.Tensor) -> None:
    with torch.no_grad():  # on a CPU FlexAttention has no backward pass
        ours = in_blocks(*inputs, first=0, starts=starts)
    torch.testing.assert_close(ours, each_document_alone(*inputs), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kernel", [in_blocks, masked])
@pytest.mark.parametrize(("first", "end"), [(0, 75), (75, 150), (150, 300), (299, 300)])
def test_a_part_of_the_queries_sees_what_it_sees_in_the_whole(
    kernel: Callable[..., torch.Tensor], first: int, end: int, inputs: list[torch.Tensor], starts: torch.Tensor
) -> None:
    query, key, value = inputs
    part = kernel(query[:, :, first:end], key[:, :, :end], value[:, :, :end], first=first, starts=starts)
    torch.testing.assert_close(part, each_document_alone(*inputs)[:, :, first:end], rtol=TOLERANCE, atol=TOLERANCE)


def ends_of(starts: torch.Tensor) -> torch.Tensor:
    """The last position of each position's document, by counting."""
    ends = torch.zeros_like(starts)
    for row, begins in zip(ends, starts.tolist(), strict=True):
        for position, begin in enumerate(begins):
            row[position] = max(other for other, its in enumerate(begins) if its == begin)
    return ends


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 7, 200])
def test_a_mask_is_its_definition(window: int | None, is_causal: bool, starts: torch.Tensor) -> None:
    intervals = find_intervals(starts, first_query=50, num_queries=200, window=window, is_causal=is_causal)
    query, key = torch.arange(50, 250)[:, None], torch.arange(LENGTH)
    distance = query - key
    in_window = distance.abs() < (LENGTH if window is None else window)
    is_seen = in_window & (distance >= 0) if is_causal else in_window
    in_document = (key >= starts[:, 50:250, None]) & (key <= ends_of(starts)[:, 50:250, None])
    assert torch.equal(build_dense_mask(intervals, num_keys=LENGTH), (is_seen & in_document)[:, None])


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("window", [None, 40, 150])
@pytest.mark.parametrize(("first", "num_queries"), [(0, LENGTH), (44, 256), (172, 128)])
def test_tiles_are_those_that_flex_attention_finds_itself(
    first: int, num_queries: int, window: int | None, is_causal: bool, starts: torch.Tensor
) -> None:
    num_keys = first + num_queries if is_causal else LENGTH
    intervals = find_intervals(starts, first_query=first, num_queries=num_queries, window=window, is_causal=is_causal)
    ours = build_block_mask(intervals, num_keys=num_keys)
    ends, width = ends_of(starts), LENGTH if window is None else window

    def sees(b: torch.Tensor, _: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        position = query + first
        last = position if is_causal else torch.minimum(ends[b, position], position + width - 1)
        return (key <= last) & (key >= starts[b, position]) & (key > position - width)

    theirs = create_block_mask(sees, BATCH, None, num_queries, num_keys, device="cpu", BLOCK_SIZE=BLOCK_SIZE)
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert int(ours.full_kv_num_blocks.sum()) + int(ours.kv_num_blocks.sum()) < ours.to_dense().numel()


def test_masks_are_kept_until_another_micro_batch_comes(starts: torch.Tensor) -> None:
    masks = IntervalMasks()
    where = {"first_query": 0, "num_queries": LENGTH, "num_keys": LENGTH}
    mask = masks.dense(**where, starts=starts, dtype=torch.float32)
    expected = build_dense_mask(find_intervals(starts, first_query=0, num_queries=LENGTH), num_keys=LENGTH)
    assert torch.equal(mask == 0, expected)
    assert torch.equal(mask == -torch.inf, ~expected)
    assert masks.dense(**where, starts=starts, dtype=torch.float32) is mask
    as_recomputed = starts.detach()  # the same tensor, as recomputation hands it on
    assert masks.dense(**where, starts=as_recomputed, dtype=torch.float32) is mask
    assert masks.dense(**where, starts=starts, dtype=torch.bfloat16).dtype is torch.bfloat16
    assert masks.blocks(**where, starts=starts) is masks.blocks(**where, starts=starts)
    windowed = masks.dense(**where, starts=starts, dtype=torch.float32, window=3)
    assert not torch.equal(windowed, mask) and masks.dense(**where, starts=starts, dtype=torch.float32) is mask
    other = masks.dense(**where, starts=torch.zeros_like(starts), dtype=torch.float32)
    assert not torch.equal(other, mask)
    assert torch.equal(masks.dense(**where, starts=starts, dtype=torch.float32), mask)


def test_bounded_scores_are_those_of_flex_attention(inputs: list[torch.Tensor], starts: torch.Tensor) -> None:
    intervals = find_intervals(starts, first_query=0, num_queries=LENGTH, window=50)
    mask = torch.zeros(BATCH, 1, LENGTH, LENGTH).masked_fill(~build_dense_mask(intervals, num_keys=LENGTH), -torch.inf)
    given = {"scale": 2.0, "enable_gqa": True, "softcapping": 3.0}
    ours = attend_with_scores(*inputs, attn_mask=mask, **given)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        theirs = attend_in_blocks(*inputs, block_mask=build_block_mask(intervals, num_keys=LENGTH), **given)
    torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


def test_sequences_of_one_document_have_a_row_each(inputs: list[torch.Tensor]) -> None:
    """What a context-parallel rank attends with where documents are not told apart: the later half of the queries."""
    query, key, value = inputs
    where = {"first": 150, "starts": one_document(BATCH, LENGTH, device=query.device)}
    expected = functional.scaled_dot_product_attention(*inputs, is_causal=True, enable_gqa=True)[:, :, 150:]
    for kernel in (in_blocks, masked):
        part = kernel(query[:, :, 150:], key, value, **where)
        torch.testing.assert_close(part, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(("threads", "is_repeated"), [(1, False), (2, True), (3, False), (5, True)])
def test_key_heads_that_threads_cannot_share_evenly_are_repeated(threads: int, is_repeated: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(1, heads, 20, 8, generator=generator) for heads in (9, 3, 3)]
    expected = functional.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        query, key, value = (part.requires_grad_() for part in parts)
        assert attention._is_uneven(query, key) is is_repeated
        result = attention._sdpa(query, key, value, is_causal=True, enable_gqa=True)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(result, expected, rtol=0, atol=TOLERANCE)
    assert torch.autograd.grad(result.sum(), [key])[0].shape == key.shape
