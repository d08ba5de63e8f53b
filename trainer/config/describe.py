"""Describe a run when it starts: sizes, layout, and the values of settings that were left at their defaults."""

from trainer.config.derived import MAX_DEFAULT_WARMUP_STEPS, DerivedConfig, minimum_lr
from trainer.config.schema import TrainConfig
from trireme.progress import format_count, format_number


def describe_run(config: TrainConfig, derived: DerivedConfig) -> list[str]:
    """Return one line for each subject."""
    return [
        f"Run directory: {derived.run_directory}",
        *_describe_task(config),
        *_describe_adapters(config, derived),
        *_describe_teacher(config),
        _describe_size(config, derived),
        _describe_schedule(config, derived),
        _describe_validation(config),
        *_describe_evaluation(config),
    ]


def _describe_task(config: TrainConfig) -> list[str]:
    """Say what a fine-tuning run learns, and what of its settings follows from the examples."""
    finetune, model = config.finetune, config.model
    if finetune.task is None:
        return []
    parts = [f"Task: {finetune.task}, rows of {format_number(model.seq_length, 'token')}"]
    if model.num_labels is not None:
        parts.append(f"{format_number(model.num_labels, 'score')} ({model.head})")
    if finetune.num_epochs is not None:
        epochs = "1 epoch" if finetune.num_epochs == 1 else f"{finetune.num_epochs:g} epochs"
        parts.append(f"{epochs}, so {format_number(config.training.train_iters, 'step')} (finetune.num_epochs)")
    if finetune.metric != "loss":
        parts.append(f"checkpoints compared by {finetune.metric}")
    return ["; ".join(parts)]


def _describe_adapters(config: TrainConfig, derived: DerivedConfig) -> list[str]:
    lora, trained = config.lora, derived.num_trained_parameters
    if not lora.is_on:
        return []
    return [
        f"Adapters: rank {lora.rank}, scale {lora.scale:g} on {', '.join(lora.target_modules)};"
        f" {format_count(trained)} of {format_count(derived.num_parameters + trained)} parameters are trained"
        f" ({100 * trained / (derived.num_parameters + trained):.2f} %)"
    ]


def _describe_teacher(config: TrainConfig) -> list[str]:
    distill = config.distill
    if not distill.is_on:
        return []
    return [
        f"Distillation: teacher {distill.teacher}, weight {distill.weight:g} in the loss,"
        f" temperature {distill.temperature:g}"
    ]


def _describe_size(config: TrainConfig, derived: DerivedConfig) -> str:
    training, parallel = config.training, config.parallel
    sequences = format_number(training.micro_batch_size, "sequence")
    return (
        f"{format_count(derived.num_parameters)} parameters, {format_count(derived.total_tokens)} tokens in"
        f" {format_number(training.train_iters, 'step')}; {format_number(derived.world_size, 'process')}:"
        f" tensor {parallel.tensor_model_parallel_size}, pipeline {parallel.pipeline_model_parallel_size},"
        f" context {parallel.context_parallel_size}, data {derived.dp_size};"
        f" {format_number(derived.num_microbatches, 'micro batch')} of {sequences}"
    )


def _describe_schedule(config: TrainConfig, derived: DerivedConfig) -> str:
    schedule, peak = config.lr_schedule, f"{config.optimizer.lr:g}"
    if derived.warmup_steps:
        start = f"warms up to {peak} over {format_number(derived.warmup_steps, 'step')}"
        if schedule.warmup_steps is None:
            start += f" (a tenth of the run, at most {MAX_DEFAULT_WARMUP_STEPS}; set by lr_schedule.warmup_steps)"
    else:
        start = f"starts at {peak}"
    end = f"{minimum_lr(schedule, peak=config.optimizer.lr):g} at step {derived.decay_steps}"
    if schedule.style == "constant":
        rest = "constant"
    elif schedule.style == "wsd":
        decay = format_number(derived.wsd_decay_steps, "step")
        rest = f"constant, then decays over the last {decay} to {end} ({schedule.wsd_decay_style})"
    else:
        rest = f"decays to {end} ({schedule.style})"
    return f"Learning rate: {start}, then {rest}"


def _describe_validation(config: TrainConfig) -> str:
    training = config.training
    if not config.data.validation:
        return "Validation: off (data.validation is empty)"
    if training.eval_interval == 0:
        return "Validation: off (training.eval_interval=0)"
    times = ["before the first step"] if training.eval_at_start else []
    if training.eval_interval < training.train_iters:
        times.append(f"every {format_number(training.eval_interval, 'step')}")
    often = f"{', '.join(times)} and " if times else ""
    if training.eval_iters is None:
        return f"Validation: {often}after the last step, on all of data.validation"
    batches = format_number(training.eval_iters, "global batch")
    return f"Validation: {often}after the last step, on at most {batches}"


def _describe_evaluation(config: TrainConfig) -> list[str]:
    evaluation = config.evaluation
    if not evaluation.interval:
        return []
    often = f"every {format_number(evaluation.interval, 'step')} and "
    tasks = ", ".join(map(str, evaluation.tasks)) or "the whole suite"
    items = "" if evaluation.num_items is None else f", {format_number(evaluation.num_items, 'item')} of each task"
    return [
        f"Evaluation: {often if evaluation.interval < config.training.train_iters else ''}after the last step, on"
        f" {tasks}{items}"
    ]
