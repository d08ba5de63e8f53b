"""What follows the last attention, at targets only: the losses, scores and gradients of all positions, from fewer."""

from dataclasses import dataclass, replace

import pytest
import torch

from tests.checkpoint.fragments import MODEL, PADDED_VOCAB_SIZE, build_chunks, open_world
from tests.distributed.harness import run_distributed
from tests.model.test_heads import ENCODER
from trainer.config.parallel import ParallelConfig
from trainer.model.target_positions import find_target_positions

CPU = torch.device("cpu")
MASKED = replace(ENCODER, head="mlm", num_labels=None)
CAPPED = replace(MODEL, final_logit_softcapping=2.0, untie_embeddings_and_output_weights=True)
MODELS = {
    "tied": MODEL,
    "capped": CAPPED,
    "masked": MASKED,
    "experts": replace(MODEL, num_moe_experts=2, moe_ffn_hidden_size=8),
    "texts": replace(ENCODER, pooler="tanh"),
    "tags": replace(ENCODER, head="token_classification"),
    "means": replace(ENCODER, pooling="mean"),
}
LAYOUTS = {
    "tp2": ParallelConfig(tensor_model_parallel_size=2),
    "tp2 sp": ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True),
}
FULL = ParallelConfig(recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1)
PLACES = {
    "none": [],
    "one": [(1, 3)],
    "second half": [(0, 9), (0, 15), (1, 12)],
    "uneven": [(0, 0), (0, 1), (0, 7), (1, 2), (1, 15)],
    "nearly all": [(row, place) for row in (0, 1) for place in range(15)],
}


def mask_of(name: str) -> torch.Tensor:
    """[2, 16], with the weights of two classes."""
    mask = torch.zeros(2, 16)
    for number, place in enumerate(PLACES[name]):
        mask[place] = 1 + number % 2
    return mask


@dataclass(frozen=True, kw_only=True)
class Pass:
    losses: torch.Tensor
    """Or scores."""
    gradients: dict[str, torch.Tensor]
    num_ends: int
    """Positions that the output layer or a head computes."""
    num_last: int
    """Those of the last layer's MLP on this rank."""


def run_pass(chunk: torch.nn.Module, mask: torch.Tensor, *, is_given: bool) -> Pass:
    generator = torch.Generator().manual_seed(5)
    tokens, labels = torch.randint(0, PADDED_VOCAB_SIZE, (2, 2, 16), generator=generator)
    ends, lasts = [], []
    has_labels = hasattr(chunk, "output_layer")
    end = chunk.output_layer if has_labels else chunk.head.classifier
    hooks = [
        end.register_forward_hook(lambda _, __, output: ends.append((output[0] if has_labels else output)[..., 0])),
        chunk.decoder.layers[-1].mlp.register_forward_pre_hook(lambda _, inputs: lasts.append(inputs[0][..., 0])),
    ]
    chunk.zero_grad()
    further = {"loss_mask": mask} if is_given else {}
    # Documents of one token, so that each position may have a class.
    starts = None if has_labels else torch.arange(16, dtype=torch.int32).repeat(2, 1)
    labelled = {"labels": labels} if has_labels else {}
    losses = chunk(tokens, torch.arange(16).repeat(2, 1), starts, **labelled, **further)
    for hook in hooks:
        hook.remove()
    weights = mask if has_labels else mask[..., None] * torch.tensor([1.0, -2.0, 0.5, 1.0, 3.0])[: losses.shape[-1]]
    (losses * weights).sum().backward()
    gradients = {name: value.grad.clone() for name, value in chunk.named_parameters()}
    return Pass(losses=losses.detach(), gradients=gradients, num_ends=ends[0].numel(), num_last=lasts[0].numel())


def compare(parallel: ParallelConfig, kind: str, name: str) -> None:
    mask, model = mask_of(name), replace(MODELS[kind], seq_length=16)
    with open_world(parallel) as world:
        (chunk,) = build_chunks(parallel, world, model=model)
        whole, picked = (run_pass(chunk, mask, is_given=is_given) for is_given in (False, True))
    is_target, num_ranks = mask > 0, 2 if parallel.sequence_parallel else 1
    # The same products of other sizes: the library may add their terms in another order. The losses are about 4.
    torch.testing.assert_close(picked.losses[is_target], whole.losses[is_target], rtol=0, atol=2e-6)
    torch.testing.assert_close(picked.gradients, whole.gradients, rtol=1e-5, atol=2e-6)
    assert (whole.num_ends, whole.num_last) == (32, 32 // num_ranks)
    if name == "nearly all" or kind == "means":
        assert (picked.num_ends, picked.num_last) == (whole.num_ends, whole.num_last)
        torch.testing.assert_close(picked.losses, whole.losses, rtol=0, atol=0)
        return
    most = max(1, *(int(part.sum()) for part in is_target.chunk(num_ranks, dim=1)))
    assert picked.num_ends == most * num_ranks
    assert picked.num_last == (32 if kind == "experts" else most)
    if name != "none":
        assert not picked.losses[~is_target].any()


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("kind", MODELS)
def test_losses_and_gradients_are_those_of_all_positions(kind: str, name: str) -> None:
    compare(ParallelConfig(), kind, name)


def test_a_layer_that_is_computed_again_picks_the_same() -> None:
    compare(FULL, "tied", "uneven")


def compare_layouts() -> None:
    for parallel in LAYOUTS.values():
        for kind in ("tied", "masked", "texts", "tags"):
            for name in PLACES:
                compare(parallel, kind, name)


def test_tensor_parallel_ranks_pick_the_targets_of_their_part() -> None:
    run_distributed(compare_layouts, 2)


def test_ranks_get_equally_many_positions() -> None:
    found = find_target_positions(mask_of("uneven"), num_ranks=2, rank=0, device=CPU)
    assert found is not None
    # Numbers in [s, b]: of (0, 0), (0, 1), (1, 2), (0, 7), and of the second rank (1, 15); 32 is padding.
    assert found.positions.tolist() == [[0, 2, 5, 14], [31, 32, 32, 32]]
    losses = torch.arange(1.0, 9.0)[None]
    expected = torch.zeros(2, 16)
    for place, value in zip([(0, 0), (0, 1), (1, 2), (0, 7), (1, 15)], range(1, 6), strict=True):
        expected[place] = value
    torch.testing.assert_close(found.spread(losses), expected, rtol=0, atol=0)


def test_a_gradient_that_is_not_a_number_arrives_where_nothing_is_a_target() -> None:
    """By it engines learn on all ranks that a step has no target."""
    with open_world(ParallelConfig()) as world:
        (chunk,) = build_chunks(ParallelConfig(), world, model=replace(MODEL, seq_length=16))
        found = run_pass(chunk, mask_of("none") * torch.nan, is_given=False)
        assert all(value.isnan().any() for value in found.gradients.values())
        tokens = torch.zeros(2, 16, dtype=torch.int64)
        chunk.zero_grad()
        losses = chunk(tokens, torch.arange(16).repeat(2, 1), None, labels=tokens, loss_mask=mask_of("none"))
        (losses * mask_of("none") * torch.nan).sum().backward()
        assert all(value.grad.isnan().any() for value in chunk.parameters())
