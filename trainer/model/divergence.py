"""Compare two models' probabilities over a vocabulary that is sharded over tensor-parallel ranks.

b: sequences, s: tokens of a sequence, v: vocabulary rows of this rank.
"""

import torch
from megatron.core.tensor_parallel import reduce_from_tensor_model_parallel_region
from torch import distributed

from trainer.model.cross_entropy import count_columns


def vocab_parallel_divergence(
    logits: torch.Tensor,
    *,
    teacher_logits: torch.Tensor,
    temperature: float,
    group: distributed.ProcessGroup,
    vocab_size: int | None,
) -> torch.Tensor:
    """Return KL(teacher, model) of each token in nats, fp32, times the square of the temperature.

    Args:
        logits: [b, s, v] of the model.
        teacher_logits: [b, s, v]; no gradient goes there.
        temperature: divides both.
        group: tensor-parallel ranks; each holds consecutive rows of the vocabulary, in rank order.
        vocab_size: tokens, without padding, whose columns count; None takes all.
    Returns:
        [b, s].
    Source: Hinton et al. 2015 (arXiv:1503.02531), section 2.
    """
    width = logits.shape[-1]
    count = width if vocab_size is None else count_columns(vocab_size, width=width, rank=group.rank())
    own = logits[..., :count].float() / temperature
    with torch.no_grad():
        teacher = teacher_logits[..., :count].float() / temperature
        teacher_log = teacher - _logsumexp(teacher, group=group)[..., None]
        probabilities = teacher_log.exp()
        entropy = _sum(probabilities * teacher_log, group=group)
    expected = _sum(probabilities * own, group=group)
    divergence: torch.Tensor = (entropy - expected + _logsumexp(own, group=group)) * temperature**2
    return divergence


def _logsumexp(values: torch.Tensor, *, group: distributed.ProcessGroup) -> torch.Tensor:
    """[b, s, v] to [b, s], over the columns of all ranks."""
    shape = values.shape[:-1]
    tops = values.detach().amax(dim=-1) if values.shape[-1] else values.new_full(shape, -torch.inf)
    if group.size() > 1:
        distributed.all_reduce(tops, op=distributed.ReduceOp.MAX, group=group)
    return _sum((values - tops[..., None]).exp(), group=group).log() + tops


def _sum(values: torch.Tensor, *, group: distributed.ProcessGroup) -> torch.Tensor:
    """[b, s, v] to [b, s], over the columns of all ranks; each rank's gradient is that of its own columns."""
    total: torch.Tensor = reduce_from_tensor_model_parallel_region(values.sum(dim=-1), group=group)
    return total
