"""Derive the numbers that follow from a configuration: once, for all readers."""

import math
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from trainer.config.lora_math import count_trained_parameters, target_flops_per_token, trained_flops_per_token
from trainer.config.model import ModelConfig
from trainer.config.model_math import count_parameters
from trainer.config.optim import LrScheduleConfig
from trainer.config.schema import TrainConfig

MAX_DEFAULT_WARMUP_STEPS = 100
"""Maximum length of a warmup whose length is not set."""


@dataclass(frozen=True, kw_only=True)
class DerivedConfig:
    """Hold the derived numbers of one run."""

    world_size: int
    """Processes."""
    dp_size: int
    """Replicas of the model."""
    model_parallel_size: int
    """Processes that hold one replica: tensor * pipeline * context."""
    num_microbatches: int
    """Forward passes of one data-parallel rank per optimizer step."""
    vocab_size: int
    """Tokens in the unpadded vocabulary."""
    padded_vocab_size: int
    """Rows of the embedding, over all ranks."""
    eod_token_id: int | None
    """Token that ends a document; None where there is none."""
    num_parameters: int
    """Parameters of the model with the unpadded vocabulary: the published figure."""
    num_parameters_padded: int
    """Parameters of the model with the padded vocabulary."""
    num_trained_parameters: int
    """Those that are trained and saved: all with the padded vocabulary, or those of adapters and of a task's head."""
    model_flops_per_token: int
    """Floating-point operations per token with a target, forward and backward; see `lora_math`."""
    target_flops_per_token: int
    """Those of them that a token without a target does not take; 0 with a teacher, since all have logits then."""
    tokens_per_step: int
    """Tokens of one optimizer step over all ranks."""
    total_tokens: int
    """Tokens of the whole run."""
    decay_steps: int
    """Step at which the learning rate reaches its minimum."""
    warmup_steps: int
    """Steps over which the learning rate rises to its peak."""
    wsd_decay_steps: int
    """Steps of the final decay of the wsd schedule."""
    run_directory: Path
    """Directory of everything that the run writes: output_dir / run_name."""


def derive_config(
    config: TrainConfig, *, world_size: int, vocab_size: int, tokenizer_eod_id: int | None = None
) -> DerivedConfig:
    """Derive the numbers of a run.

    Args:
        config: valid for this world size, see `validate`.
        world_size: number of processes.
        vocab_size: tokens in the vocabulary: model.vocab_size, or the tokenizer's where that is null.
        tokenizer_eod_id: token that ends a document where data.eod_token_id is null.
    """
    model, training = config.model, config.training
    dp_size = find_dp_size(config, world_size=world_size)
    assert dp_size is not None
    padded_vocab_size = pad_vocab_size(model, vocab_size)
    tokens_per_step = training.global_batch_size * model.seq_length
    return DerivedConfig(
        world_size=world_size,
        dp_size=dp_size,
        model_parallel_size=config.parallel.model_parallel_size,
        num_microbatches=training.global_batch_size // (training.micro_batch_size * dp_size),
        vocab_size=vocab_size,
        padded_vocab_size=padded_vocab_size,
        eod_token_id=tokenizer_eod_id if config.data.eod_token_id is None else config.data.eod_token_id,
        num_parameters=count_parameters(model, vocab_size),
        num_parameters_padded=count_parameters(model, padded_vocab_size),
        num_trained_parameters=count_trained_parameters(model, config.lora, padded_vocab_size),
        model_flops_per_token=trained_flops_per_token(model, config.lora, vocab_size),
        target_flops_per_token=(0 if config.distill.is_on else target_flops_per_token(model, config.lora, vocab_size)),
        tokens_per_step=tokens_per_step,
        total_tokens=tokens_per_step * training.train_iters,
        decay_steps=find_decay_steps(config),
        warmup_steps=find_warmup_steps(config),
        wsd_decay_steps=find_wsd_decay_steps(config),
        run_directory=Path(config.output_dir, config.run_name),
    )


def count_processes(config: TrainConfig) -> int:
    """Return the world size that a launcher starts.

    Returns:
        cluster.num_nodes * cluster.gpus_per_node where the latter is set; otherwise the product of the parallel sizes
        with a data-parallel size of null counting as 1.
    """
    if config.cluster.gpus_per_node is not None:
        return config.cluster.num_nodes * config.cluster.gpus_per_node
    return config.parallel.model_parallel_size * (config.parallel.data_parallel_size or 1)


def minimum_lr(schedule: LrScheduleConfig, *, peak: float) -> float:
    """Return the learning rate at the end of the decay; by default a tenth of the peak, in decimal digits."""
    return float(Decimal(repr(peak)) / 10) if schedule.min_lr is None else schedule.min_lr


def find_dp_size(config: TrainConfig, *, world_size: int | None) -> int | None:
    """Return the replicas of the model: as configured, or derived from the world size; None when neither works."""
    model_parallel_size = config.parallel.model_parallel_size
    if config.parallel.data_parallel_size is not None or world_size is None or world_size % model_parallel_size:
        return config.parallel.data_parallel_size
    return world_size // model_parallel_size


def pad_vocab_size(model: ModelConfig, vocab_size: int) -> int:
    """Return the rows of the embedding: the vocabulary padded to a multiple that does not depend on the layout."""
    return math.ceil(vocab_size / model.make_vocab_size_divisible_by) * model.make_vocab_size_divisible_by


def find_decay_steps(config: TrainConfig) -> int:
    """Return the step at which the learning rate's decay ends."""
    decay_steps = config.lr_schedule.decay_steps
    return config.training.train_iters if decay_steps is None else decay_steps


def find_warmup_steps(config: TrainConfig) -> int:
    """Return the warmup steps: a tenth of all, at most 100, unless set."""
    return warmup_length(config.lr_schedule, train_iters=config.training.train_iters)


def warmup_length(schedule: LrScheduleConfig, *, train_iters: int) -> int:
    """Return the warmup steps, for callers that have the schedule but not the whole configuration."""
    if schedule.warmup_steps is not None:
        return schedule.warmup_steps
    decay_steps = train_iters if schedule.decay_steps is None else schedule.decay_steps
    held_back = schedule.wsd_decay_steps or 0 if schedule.style == "wsd" else 0
    return max(0, min(MAX_DEFAULT_WARMUP_STEPS, decay_steps // 10, decay_steps - held_back))


def find_wsd_decay_steps(config: TrainConfig) -> int:
    """Return the steps of the final decay of the wsd schedule: a tenth of all unless set, and at least one."""
    return wsd_decay_length(config.lr_schedule, train_iters=config.training.train_iters)


def wsd_decay_length(schedule: LrScheduleConfig, *, train_iters: int) -> int:
    """Return the steps of the final decay of a wsd schedule, for callers without the whole configuration."""
    if schedule.wsd_decay_steps is not None:
        return schedule.wsd_decay_steps
    return max((train_iters if schedule.decay_steps is None else schedule.decay_steps) // 10, 1)
