"""Run whole sequences through a model under any layout, with or without gradients, all rows the same tokens.

b: rows, s: tokens, v: rows of the vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func

from trainer.model.gpt import GPT
from trainer.parallel.world import World

Objective = Callable[[torch.Tensor], torch.Tensor]
"""Takes one number for each row, [b], out of logits, [b, s, v]."""


def run_forward(model: GPT, *, world: World, tokens: Sequence[int], num_rows: int = 1) -> torch.Tensor | None:
    """Compute logits without gradients; all ranks call this.

    Returns:
        [b, s, v] on all ranks of the last stage, else None.
    """
    call = _make_call(model, world=world, tokens=tokens, num_rows=num_rows)
    with torch.no_grad():
        if world.pp_size == 1:
            return call()
        outputs = get_forward_backward_func(pp_size=world.pp_size, vp_size=None)(
            forward_step_func=lambda iterator, model: (call(), lambda output, non_loss_data: output),
            data_iterator=None,
            model=model,
            num_microbatches=1,
            seq_length=len(tokens),
            micro_batch_size=num_rows,
            forward_only=True,
            collect_non_loss_data=True,
        )
    return outputs[0] if outputs else None


def run_backward(
    model: GPT, *, world: World, tokens: Sequence[int], num_rows: int, objective: Objective
) -> torch.Tensor | None:
    """Compute an objective of each row and the gradients of its sum; all ranks call this.

    Gradients are accumulated in the leaves that require them on each rank.

    Returns:
        [b] fp32, without gradients, on all ranks of the last stage, else None.
    """
    call = _make_call(model, world=world, tokens=tokens, num_rows=num_rows)
    if world.pp_size == 1:
        values = objective(call())
        torch.autograd.backward(values.sum())
        return values.detach().float()

    def measure(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values = objective(output)
        return values.sum(), values.detach().float()

    outputs = get_forward_backward_func(pp_size=world.pp_size, vp_size=None)(
        forward_step_func=lambda iterator, model: (call(), measure),
        data_iterator=None,
        model=model,
        num_microbatches=1,
        seq_length=len(tokens),
        micro_batch_size=num_rows,
        forward_only=False,
    )
    return outputs[0] if outputs else None


def _make_call(model: GPT, *, world: World, tokens: Sequence[int], num_rows: int) -> Callable[[], torch.Tensor]:
    ids = torch.tensor([list(tokens)] * num_rows, dtype=torch.int64, device=world.device)
    positions = torch.arange(len(tokens), device=world.device).expand_as(ids)

    def call() -> torch.Tensor:
        output: Any = model(ids, positions, None, runtime_gather_output=True)
        assert isinstance(output, torch.Tensor)
        return output

    return call
