"""Sum the gradients of weights that several model-parallel ranks hold, before the update."""

from collections.abc import Callable, Iterator, Sequence

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import distributed, nn


def reduce_over_model_parallel(
    chunks: Sequence[GPTModel],
    *,
    config: TransformerConfig,
    groups: ProcessGroupCollection,
    gradient_of: Callable[[nn.Parameter], torch.Tensor | None],
) -> None:
    """Sum the gradients of weights that several model-parallel ranks hold and use on different data.

    Norms and biases under sequence parallelism (each rank saw a part of the sequence) and query-key norms (each rank
    saw its heads) over tensor-parallel ranks; tied embeddings over the first and last pipeline stage.

    Args:
        gradient_of: returns a parameter's accumulated gradient, which is summed in place.
    Source: Megatron-Core finalize_model_grads, without its data-parallel part.
    """
    if groups.tp.size() > 1:
        _sum_partial_gradients(chunks, config=config, group=groups.tp, gradient_of=gradient_of)
    if groups.pp.size() > 1:
        _sum_tied_embedding(chunks, groups=groups, gradient_of=gradient_of)


def reduce_partial_gradients_as_computed(
    chunks: Sequence[GPTModel], *, config: TransformerConfig, groups: ProcessGroupCollection
) -> None:
    """Make every backward pass sum over tensor-parallel ranks what `reduce_over_model_parallel` sums after the last.

    For an engine that reduces over data-parallel ranks during the backward pass and keeps a part of the result. Costs
    one small collective per such weight and micro batch. For layouts with one pipeline stage only.
    """
    if groups.tp.size() == 1:
        return

    def sum_over_ranks(gradient: torch.Tensor) -> torch.Tensor:
        summed = gradient.to(torch.float32, copy=True)
        distributed.all_reduce(summed, group=groups.tp)
        return summed.to(gradient.dtype)

    for parameter in _parameters_with_partial_gradients(chunks, config=config):
        parameter.register_hook(sum_over_ranks)


def _parameters_with_partial_gradients(
    chunks: Sequence[GPTModel], *, config: TransformerConfig
) -> Iterator[nn.Parameter]:
    """Yield the weights of which tensor-parallel ranks hold replicas that they use on different data."""
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            if not parameter.requires_grad:
                continue
            sees_part_of_sequence = config.sequence_parallel and getattr(parameter, "sequence_parallel", False)
            # Norms of compressed queries see all of them, and norms over all heads hold the weights of their own.
            is_of_heads = ("q_layernorm" in name or "k_layernorm" in name) and not config.multi_latent_attention
            sees_part_of_heads = is_of_heads and not getattr(parameter, "tensor_model_parallel", False)
            if sees_part_of_sequence or sees_part_of_heads:
                yield parameter


def _sum_partial_gradients(
    chunks: Sequence[GPTModel],
    *,
    config: TransformerConfig,
    group: distributed.ProcessGroup,
    gradient_of: Callable[[nn.Parameter], torch.Tensor | None],
) -> None:
    gradients = []
    for parameter in _parameters_with_partial_gradients(chunks, config=config):
        gradient = gradient_of(parameter)
        if gradient is not None:
            gradients.append(gradient)
    if not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat, group=group)
    for gradient, summed in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


def _sum_tied_embedding(
    chunks: Sequence[GPTModel],
    *,
    groups: ProcessGroupCollection,
    gradient_of: Callable[[nn.Parameter], torch.Tensor | None],
) -> None:
    for chunk in chunks:
        if chunk.share_embeddings_and_output_weights and (chunk.pre_process or chunk.post_process):
            weight = chunk.shared_embedding_or_output_weight()
            if not weight.requires_grad:
                continue
            gradient = gradient_of(weight)
            assert gradient is not None, "a tied embedding had no gradient"
            distributed.all_reduce(gradient, group=groups.embd)
