"""Check settings of fine-tuning."""

from collections.abc import Iterator

from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trireme.errors import Violation

_TASK = "finetune.task"
METRICS: dict[str, tuple[str, ...]] = {
    "sft": ("loss",),
    "classify": ("loss", "accuracy", "f1_macro", "f1_micro", "matthews_correlation", "spearman"),
    "tag": ("loss", "accuracy", "entity_f1"),
    "qa": ("loss", "exact_match", "f1"),
    "dpo": ("loss", "reward_accuracy"),
}
"""What each task is measured by."""


@reads(_TASK, "finetune.num_epochs", "finetune.class_weights", "finetune.metric")
def _settings_need_a_task(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    finetune = config.finetune
    if finetune.task is not None:
        return
    settings = {
        "num_epochs": finetune.num_epochs,
        "class_weights": finetune.class_weights or None,
        "metric": None if finetune.metric == "loss" else finetune.metric,
    }
    for name, value in settings.items():
        if value is not None:
            yield Violation(
                path=f"finetune.{name}",
                value=value,
                message=f"requires {_TASK}",
                fix=f"Set {_TASK} to sft, classify, tag, qa or dpo, or remove this setting.",
            )


@reads(_TASK, "data.mask_prob")
def _examples_are_not_masked(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    task, mask_prob = config.finetune.task, config.data.mask_prob
    if task is not None and mask_prob is not None:
        yield Violation(
            path="data.mask_prob",
            value=mask_prob,
            message=f"must be null with {_TASK}={task}: examples have labels of their own",
            fix=f"Use null, or {_TASK}=null.",
        )


@reads(_TASK, "model.attention_mask")
def _answers_are_written_forwards(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    task, sides = config.finetune.task, config.model.attention_mask
    if task in ("sft", "dpo") and sides == "bidirectional":
        yield Violation(
            path=_TASK,
            value=task,
            message="requires model.attention_mask=causal: the model would see the tokens that it predicts",
            fix="Use classify, tag or qa with this model, or a causal one.",
        )


@reads(_TASK, "finetune.metric")
def _metric_is_of_the_task(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    task, metric = config.finetune.task, config.finetune.metric
    if task is not None and metric not in METRICS[task]:
        yield Violation(
            path="finetune.metric",
            value=metric,
            message=f"is not a score of {_TASK}={task}",
            fix=f"Use {' or '.join(METRICS[task])}.",
        )


@reads("finetune.early_stopping_patience", "finetune.metric", "data.validation", "training.eval_interval")
def _best_needs_validations(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    finetune = config.finetune
    datasets, interval = config.data.validation, config.training.eval_interval
    if datasets and interval > 0:
        return
    for name, value, is_used in (
        ("early_stopping_patience", finetune.early_stopping_patience, finetune.early_stopping_patience is not None),
        ("metric", finetune.metric, finetune.metric != "loss"),
    ):
        if is_used:
            yield Violation(
                path=f"finetune.{name}",
                value=value,
                message="requires validations: data.validation and training.eval_interval",
                fix="Set data.validation to held-out examples and training.eval_interval to a number of steps.",
            )


@reads(_TASK, "finetune.class_weights", "model.num_labels")
def _weights_are_of_classes(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    task, weights, num_labels = config.finetune.task, config.finetune.class_weights, config.model.num_labels
    if task is None or not weights:
        return
    path = "finetune.class_weights"
    shown = f"[{', '.join(f'{weight:g}' for weight in weights)}]"
    if task not in ("classify", "tag"):
        message = f"has no effect with {_TASK}={task}, which has no classes"
        yield Violation(path=path, value=shown, message=message, fix="Remove it.")
    elif num_labels is not None and len(weights) != num_labels:
        message = f"must have a weight for each of the {num_labels} classes"
        yield Violation(path=path, value=shown, message=message, fix=f"Give {num_labels} numbers.")
    elif min(weights) <= 0:
        message = "must be more than 0 each"
        fix = "Use positive numbers, small ones for classes that should hardly count."
        yield Violation(path=path, value=shown, message=message, fix=fix)


@reads(_TASK, "parallel.context_parallel_size")
def _examples_are_whole(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    task, size = config.finetune.task, config.parallel.context_parallel_size
    if task in ("dpo", "tag") and size > 1:
        what = "the log-probability of a whole answer is" if task == "dpo" else "the tags of a whole text are"
        yield Violation(
            path="parallel.context_parallel_size",
            value=size,
            message=f"must be 1 with {_TASK}={task}: {what} needed on one rank",
            fix="Use 1, and tensor or pipeline parallelism for long rows.",
        )


@reads(_TASK, "pretrained_checkpoint")
def _reference_is_given(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    task, checkpoint = config.finetune.task, config.pretrained_checkpoint
    if task == "dpo" and checkpoint is None:
        yield Violation(
            path="pretrained_checkpoint",
            value="null",
            message=f"must be set with {_TASK}=dpo: the weights that a run starts from are its reference",
            fix="Set it to the model that is to be tuned, best one that sft has taught to answer.",
        )


@reads(_TASK, "model.transformer_impl")
def _documents_need_torch_layers(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    task, implementation = config.finetune.task, config.model.transformer_impl
    if task is not None and implementation == "transformer_engine":
        yield Violation(
            path=_TASK,
            value=task,
            message="not supported with model.transformer_impl=transformer_engine: a row has several documents",
            fix="Use model.transformer_impl=torch.",
        )


RULES = (
    _settings_need_a_task,
    _examples_are_not_masked,
    _answers_are_written_forwards,
    _metric_is_of_the_task,
    _best_needs_validations,
    _weights_are_of_classes,
    _examples_are_whole,
    _reference_is_given,
    _documents_need_torch_layers,
)
