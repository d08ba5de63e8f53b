"""Check batch sizes, steps and the learning-rate schedule."""

from collections.abc import Iterator

from trainer.config.derived import find_decay_steps, find_dp_size, find_warmup_steps, find_wsd_decay_steps
from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trireme.config.suggest import divisors, join_or, nearest_multiples, nearest_values
from trireme.errors import Violation
from trireme.progress import format_number

_SIZES = (
    "parallel.tensor_model_parallel_size",
    "parallel.pipeline_model_parallel_size",
    "parallel.context_parallel_size",
    "parallel.data_parallel_size",
)


@reads("training.global_batch_size", "training.micro_batch_size", *_SIZES)
def _global_batch_is_whole_micro_batches(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    training = config.training
    dp_size = find_dp_size(config, world_size=world_size)
    sequences = training.micro_batch_size * (dp_size or 1)
    if training.global_batch_size % sequences == 0:
        return
    factors = f"training.micro_batch_size={training.micro_batch_size}"
    if dp_size is not None:
        factors += f" * data-parallel size {dp_size} = {sequences}"
    fix = f"Use {join_or(nearest_multiples(training.global_batch_size, sequences))}"
    if training.global_batch_size % (dp_size or 1) == 0:
        per_rank = training.global_batch_size // (dp_size or 1)
        micro_batch_sizes = nearest_values(training.micro_batch_size, divisors(per_rank), count=4)
        fix += f", or set training.micro_batch_size to {join_or(micro_batch_sizes)}"
    yield Violation(
        path="training.global_batch_size",
        value=training.global_batch_size,
        message=f"must be a multiple of {factors}",
        fix=f"{fix}.",
    )


@reads("training.stop_after_step", "training.train_iters")
def _stop_is_inside_the_run(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    stop, train_iters = config.training.stop_after_step, config.training.train_iters
    if stop is not None and stop > train_iters:
        yield Violation(
            path="training.stop_after_step",
            value=stop,
            message=f"must be at most training.train_iters={train_iters}",
            fix=f"Use 1 to {train_iters}, or null to train to the end.",
        )


@reads("lr_schedule.decay_steps", "lr_schedule.warmup_steps", "training.train_iters")
def _warmup_ends_before_decay(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    schedule, decay_steps = config.lr_schedule, find_decay_steps(config)
    end = "training.train_iters" if schedule.decay_steps is None else "lr_schedule.decay_steps"
    if schedule.warmup_steps is not None and schedule.warmup_steps > decay_steps:
        yield Violation(
            path="lr_schedule.warmup_steps",
            value=schedule.warmup_steps,
            message=f"must be at most {end}={decay_steps}, where the decay ends",
            fix=f"Use 0 to {decay_steps}, or null for a tenth of the steps, or set {end} to {schedule.warmup_steps} or"
            " more.",
        )


@reads("lr_schedule.decay_steps", "training.train_iters")
def _decay_ends_inside_the_run(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    decay_steps, train_iters = config.lr_schedule.decay_steps, config.training.train_iters
    if decay_steps is not None and decay_steps > train_iters:
        yield Violation(
            path="lr_schedule.decay_steps",
            value=decay_steps,
            message=f"must be at most training.train_iters={train_iters}",
            fix=f"Use {train_iters} or less. For the first part of a longer run set training.train_iters={decay_steps}"
            f" and training.stop_after_step={train_iters}.",
        )


@reads("lr_schedule.min_lr", "optimizer.lr")
def _min_lr_is_below_the_peak(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    min_lr, lr = config.lr_schedule.min_lr, config.optimizer.lr
    if min_lr is not None and min_lr > lr:
        yield Violation(
            path="lr_schedule.min_lr",
            value=min_lr,
            message=f"must be at most the peak, optimizer.lr={lr}",
            fix=f"Use 0.0 to {lr}, null for a tenth of it, or set optimizer.lr to {min_lr} or more.",
        )


@reads(
    "lr_schedule.style",
    "lr_schedule.warmup_steps",
    "lr_schedule.decay_steps",
    "lr_schedule.wsd_decay_steps",
    "training.train_iters",
)
def _wsd_decay_fits(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    schedule, decay_steps = config.lr_schedule, find_decay_steps(config)
    if schedule.style != "wsd":
        if schedule.wsd_decay_steps is not None:
            yield Violation(
                path="lr_schedule.wsd_decay_steps",
                value=schedule.wsd_decay_steps,
                message="requires lr_schedule.style=wsd",
                fix="Use null, or lr_schedule.style=wsd.",
            )
        return
    warmup_steps = find_warmup_steps(config)
    room = decay_steps - warmup_steps
    wsd_decay_steps = find_wsd_decay_steps(config)
    # A negative number means that the warm-up is too long, which the rule above reports.
    if 0 <= room < wsd_decay_steps:
        written = "null" if schedule.wsd_decay_steps is None else schedule.wsd_decay_steps
        end = "training.train_iters" if schedule.decay_steps is None else "lr_schedule.decay_steps"
        yield Violation(
            path="lr_schedule.wsd_decay_steps",
            value=written,
            message=f"the decay of {format_number(wsd_decay_steps, 'step')} must fit between lr_schedule.warmup_steps="
            f"{warmup_steps} and {end}={decay_steps}",
            fix=f"Use 1 to {room}." if room else "Reduce lr_schedule.warmup_steps.",
        )


RULES = (
    _global_batch_is_whole_micro_batches,
    _stop_is_inside_the_run,
    _warmup_ends_before_decay,
    _decay_ends_inside_the_run,
    _min_lr_is_below_the_peak,
    _wsd_decay_fits,
)
