"""Logits of targets only: the losses and gradients of logits of all positions, from fewer of them."""

from dataclasses import dataclass, replace

import pytest
import torch

from tests.checkpoint.fragments import MODEL, PADDED_VOCAB_SIZE, build_chunks, open_world
from tests.distributed.harness import run_distributed
from tests.model.test_heads import ENCODER
from trainer.config.model import ModelConfig
from trainer.config.parallel import ParallelConfig
from trainer.model.target_positions import find_target_positions

CPU = torch.device("cpu")
MASKED = replace(ENCODER, head="mlm", num_labels=None)
CAPPED = replace(MODEL, final_logit_softcapping=2.0, untie_embeddings_and_output_weights=True)
LAYOUTS = {
    "tp2": ParallelConfig(tensor_model_parallel_size=2),
    "tp2 sp": ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True),
}
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
    gradients: dict[str, torch.Tensor]
    num_logits: int


def run_pass(chunk: torch.nn.Module, mask: torch.Tensor, *, is_given: bool) -> Pass:
    generator = torch.Generator().manual_seed(5)
    tokens, labels = torch.randint(0, PADDED_VOCAB_SIZE, (2, 2, 16), generator=generator)
    seen = []
    hook = chunk.output_layer.register_forward_hook(lambda _, __, output: seen.append(output[0].shape[:2].numel()))
    chunk.zero_grad()
    further = {"loss_mask": mask} if is_given else {}
    losses = chunk(tokens, torch.arange(16).repeat(2, 1), None, labels=labels, **further)
    hook.remove()
    (losses * mask).sum().backward()
    gradients = {name: value.grad.clone() for name, value in chunk.named_parameters()}
    return Pass(losses=losses.detach(), gradients=gradients, num_logits=seen[0])


def compare(parallel: ParallelConfig, model: ModelConfig, name: str) -> None:
    mask = mask_of(name)
    with open_world(parallel) as world:
        (chunk,) = build_chunks(parallel, world, model=model)
        whole, picked = (run_pass(chunk, mask, is_given=is_given) for is_given in (False, True))
    is_target = mask > 0
    # The same products of other sizes: the library may add their terms in another order. The losses are about 4.
    torch.testing.assert_close(picked.losses[is_target], whole.losses[is_target], rtol=0, atol=2e-6)
    torch.testing.assert_close(picked.gradients, whole.gradients, rtol=1e-5, atol=2e-6)
    assert whole.num_logits == 32
    if name == "nearly all":
        assert picked.num_logits == 32
        torch.testing.assert_close(picked.losses, whole.losses, rtol=0, atol=0)
        return
    most = max(1, *(int(part.sum()) for part in is_target.chunk(2 if parallel.sequence_parallel else 1, dim=1)))
    assert picked.num_logits == most * (2 if parallel.sequence_parallel else 1)
    if name != "none":
        assert not picked.losses[~is_target].any()


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("model", [MODEL, CAPPED, MASKED], ids=["tied", "capped", "masked"])
def test_losses_and_gradients_are_those_of_all_positions(model: ModelConfig, name: str) -> None:
    compare(ParallelConfig(), replace(model, seq_length=16), name)


def compare_layouts() -> None:
    for parallel in LAYOUTS.values():
        for model in (MODEL, MASKED):
            if parallel.sequence_parallel and model is MASKED:
                continue  # refused for encoders
            for name in PLACES:
                compare(parallel, replace(model, seq_length=16), name)


def test_tensor_parallel_ranks_pick_the_targets_of_their_part() -> None:
    run_distributed(compare_layouts, 2)


def test_ranks_get_equally_many_positions() -> None:
    found = find_target_positions(mask_of("uneven"), num_ranks=2, device=CPU)
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
