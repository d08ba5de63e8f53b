"""Compute the learning rate as a pure function of the step."""

import math

from trainer.config.derived import minimum_lr, warmup_length, wsd_decay_length
from trainer.config.optim import LrScheduleConfig


def learning_rate(step: int, *, peak: float, schedule: LrScheduleConfig, train_iters: int) -> float:
    """Return the learning rate of optimizer step `step` (0 is the first).

    Warm-up rises linearly and reaches the peak in its last step, so that the first step has a rate above 0.

    Source: cosine and linear as Megatron-Core's OptimizerParamScheduler; wsd (warm-up, stable, decay) MiniCPM
        (arXiv:2404.06395), its 1 - sqrt decay Haegele et al. (arXiv:2405.18392).
    """
    warmup_steps = warmup_length(schedule, train_iters=train_iters)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    decay_steps = schedule.decay_steps or train_iters
    if schedule.style == "constant":
        return peak
    if schedule.style == "wsd":
        start = decay_steps - wsd_decay_length(schedule, train_iters=train_iters)
        share = _decayed_share(schedule.wsd_decay_style, _progress(step, start=start, end=decay_steps))
    else:
        share = _decayed_share(schedule.style, _progress(step, start=warmup_steps, end=decay_steps))
    return peak - (peak - minimum_lr(schedule, peak=peak)) * share


def _progress(step: int, *, start: int, end: int) -> float:
    """Return the share of [start, end) that is done at `step`, in [0, 1]."""
    return min(1.0, max(0.0, (step - start) / max(1, end - start)))


def _decayed_share(style: str, progress: float) -> float:
    """Return the share of the way from peak to min_lr: 0 at progress 0, 1 at progress 1."""
    if style == "cosine":
        return 0.5 * (1.0 - math.cos(math.pi * progress))
    if style == "sqrt":
        return math.sqrt(progress)
    return progress
