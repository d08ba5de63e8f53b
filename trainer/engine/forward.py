"""Run Megatron-Core's pipeline schedule over one rank's micro batches, for every engine.

b: sequences of a micro batch, s: tokens of a sequence.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import distributed, nn

from trainer.data.micro_batch import MicroBatch
from trainer.engine.objective import Objective, TokenObjective
from trainer.engine.routing import sum_routing
from trainer.model.sequence_exchange import slice_for_context_parallel
from trireme.records import LayerRouting

PREDICT_NEXT = TokenObjective()
"""The objective of pretraining."""
Observe = Callable[[torch.Tensor, MicroBatch], None]
"""Receives the model's output of each micro batch, and the batch on its device, on the last pipeline stage."""


@dataclass(frozen=True, kw_only=True)
class LossSum:
    """Hold the summed loss of a global batch, the same on every rank."""

    loss_sum: float
    """Sum of the losses of all targets, in nats."""
    num_tokens: float
    """Targets, weighted as their losses are: for tokens, the sum of the loss mask."""
    routing: tuple[LayerRouting, ...] | None = None
    """Routing of each mixture-of-experts layer, in training."""


def forward_backward(
    chunks: Sequence[GPTModel],
    micro_batches: Sequence[MicroBatch],
    *,
    groups: ProcessGroupCollection,
    device: torch.device,
    forward_only: bool,
    skip_update: bool = False,
    objective: Objective = PREDICT_NEXT,
    observe: Observe | None = None,
) -> LossSum:
    """Run every micro batch through the pipeline and accumulate gradients of the mean loss per target.

    The gradient on each rank is scaled so that its mean over the data-and-context-parallel group is the gradient of
    the global batch's mean loss, under every layout and loss mask.

    Args:
        chunks: this stage's model chunks, in order.
        micro_batches: this data-parallel rank's, the same on every rank of a model-parallel group.
        groups: process groups of the layout.
        device: of the model.
        forward_only: compute the loss only, without gradients.
        skip_update: make every gradient NaN, so that the engine skips the update; losses do not change.
        objective: computes losses from the model's output.
        observe: sees every output.
    """
    objective.prepare(micro_batches)
    first = micro_batches[0]
    weight = _gradient_weight(micro_batches, objective=objective, groups=groups, device=device)
    if skip_update:
        weight = weight * math.nan
    schedule = get_forward_backward_func(pp_size=groups.pp.size(), vp_size=len(chunks) if len(chunks) > 1 else None)
    with torch.set_grad_enabled(not forward_only):
        losses: list[torch.Tensor] = schedule(
            forward_step_func=_forward_step(
                weight, objective=objective, observe=observe, cp_group=groups.cp, device=device
            ),
            # Each chunk reads the same micro batches from its own iterator.
            data_iterator=[iter(micro_batches) for _ in chunks],
            model=list(chunks),
            num_microbatches=len(micro_batches),
            seq_length=first.tokens.shape[1],
            micro_batch_size=first.tokens.shape[0],
            forward_only=forward_only,
        )
    total = _sum_over_ranks(losses, groups=groups, device=device)
    if forward_only:
        return total
    routing = sum_routing(chunks, num_microbatches=len(micro_batches), groups=groups, device=device)
    return replace(total, routing=routing)


def evaluate_step(
    chunks: Sequence[GPTModel],
    micro_batches: Sequence[MicroBatch],
    *,
    groups: ProcessGroupCollection,
    device: torch.device,
    objective: Objective = PREDICT_NEXT,
    observe: Observe | None = None,
) -> tuple[float, float]:
    """Return the sum of losses and the number of targets of the global batch, without dropout."""
    for chunk in chunks:
        chunk.eval()
    losses = forward_backward(
        chunks,
        micro_batches,
        groups=groups,
        device=device,
        forward_only=True,
        objective=objective,
        observe=observe,
    )
    return losses.loss_sum, losses.num_tokens


def _gradient_weight(
    micro_batches: Sequence[MicroBatch],
    *,
    objective: Objective,
    groups: ProcessGroupCollection,
    device: torch.device,
) -> torch.Tensor:
    """Return dp_size * num_microbatches / targets of the global batch; NaN without targets, to skip the update.

    The schedule divides by num_microbatches and multiplies by cp_size, the engine averages over dp_size * cp_size.
    """
    num_targets = torch.stack([objective.count_targets(batch) for batch in micro_batches]).sum().to(device)
    distributed.all_reduce(num_targets, group=groups.dp)
    # Weights of classes may sum to less than 1.
    least = torch.finfo(num_targets.dtype).tiny
    weight = groups.dp.size() * len(micro_batches) / num_targets.clamp(min=least)
    return torch.where(num_targets > 0, weight, math.nan)


def _forward_step(
    weight: torch.Tensor,
    *,
    objective: Objective,
    observe: Observe | None,
    cp_group: distributed.ProcessGroup,
    device: torch.device,
) -> Callable[[Iterator[MicroBatch], nn.Module], tuple[torch.Tensor, Callable[[torch.Tensor], Any]]]:
    def part_of(values: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of every sequence."""
        return slice_for_context_parallel(values, cp_rank=cp_group.rank(), cp_size=cp_group.size())

    def on_this_rank(batch: MicroBatch) -> MicroBatch:
        """Return this rank's part of every sequence, on the device."""

        def take(values: torch.Tensor | None) -> torch.Tensor | None:
            return None if values is None else part_of(values).to(device, non_blocking=True)

        names = [field.name for field in fields(batch) if field.name != "sample_ids"]
        parts: dict[str, Any] = {name: take(getattr(batch, name)) for name in names}
        # Of the whole sequence: attention knows which queries this rank has.
        starts = None if batch.document_starts is None else batch.document_starts.to(device, non_blocking=True)
        return replace(batch, **{**parts, "document_starts": starts})

    def forward_step(
        iterator: Iterator[MicroBatch], model: nn.Module
    ) -> tuple[torch.Tensor, Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]]:
        whole = next(iterator)
        batch = on_this_rank(whole)
        further = {} if batch.token_types is None else {"token_types": batch.token_types}
        # The beginnings of documents are passed as Megatron-Core's attention mask.
        output = model(
            batch.tokens,
            batch.position_ids,
            batch.document_starts,
            labels=batch.labels if objective.takes_labels else None,
            loss_mask=part_of(whole.loss_mask),
            **further,
        )

        def weighted_loss(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if observe is not None:
                observe(output.detach(), batch)
            loss_sum = objective.sum_losses(output, batch)
            # A loss that is not finite may have a finite gradient: 0 * inf makes it NaN, so that no rank updates.
            guarded = weight + 0 * loss_sum.detach()
            # The schedule changes the loss in place; the logged values are separate tensors.
            return loss_sum * guarded, torch.stack([loss_sum.detach(), objective.count_targets(batch)]).double()

        return output, weighted_loss

    return forward_step


def _sum_over_ranks(losses: Sequence[torch.Tensor], *, groups: ProcessGroupCollection, device: torch.device) -> LossSum:
    """Add [loss sum, tokens] over the last stages' ranks; tensor-parallel ranks hold copies of the same losses."""
    total = torch.stack(list(losses)).sum(dim=0) if losses else torch.zeros(2, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    loss_sum, num_tokens = (total / groups.tp.size()).tolist()
    return LossSum(loss_sum=loss_sum, num_tokens=num_tokens)
