"""Run forward passes through pipeline stages, and share batches among replicas of a model."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from torch import distributed

from trainer.model.gpt import GPT
from trainer.parallel.world import World

_Batch = TypeVar("_Batch")


def run_stages(
    model: GPT, call: Callable[[], torch.Tensor], *, world: World, num_rows: int, num_tokens: int
) -> torch.Tensor | None:
    """Run one forward pass; all ranks of a replica call this.

    Args:
        model: this stage.
        call: computes the stage's output.
        num_tokens: of each row, padding included; stages exchange [num_tokens, num_rows, hidden size].
    Returns:
        on the ranks of the last stage its output, else None.
    """
    if world.groups.pp.size() == 1:
        return call()
    outputs: list[torch.Tensor] = get_forward_backward_func(pp_size=world.groups.pp.size(), vp_size=None)(
        forward_step_func=lambda iterator, model: (call(), lambda output, non_loss_data: output),
        data_iterator=None,
        model=model,
        num_microbatches=1,
        seq_length=num_tokens,
        micro_batch_size=num_rows,
        forward_only=True,
        collect_non_loss_data=True,
    )
    return outputs[0] if outputs else None


def share_batches(
    batches: Sequence[_Batch], compute: Callable[[_Batch], dict[int, Any]], *, world: World
) -> Iterator[dict[int, Any]]:
    """Compute batches, each by one replica; all ranks call this with the same batches and exhaust the iterator.

    Args:
        compute: returns results by number, or an empty dictionary on ranks that have none.
    Yields:
        after every batch of all replicas, their results; on other ranks than 0 an empty dictionary.
    """
    dp = world.groups.dp
    for first in range(0, len(batches), dp.size()):
        share = batches[first : first + dp.size()]
        found: dict[int, Any] = {}
        if dp.rank() < len(share):
            found = compute(share[dp.rank()])
        elif world.groups.ep.size() > 1:
            compute(share[0])  # the other replicas' tokens may need this one's experts
        yield _collect(found, is_driver=world.rank == 0)


def _collect(found: dict[int, Any], *, is_driver: bool) -> dict[int, Any]:
    """Return what all replicas have found, on rank 0."""
    if distributed.get_world_size() == 1:
        return found
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, found)
    return {number: value for part in gathered for number, value in part.items()} if is_driver else {}
