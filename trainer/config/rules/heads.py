"""Check what follows the last layer of the model."""

from collections.abc import Iterator

from trainer.config.finetune import HEAD_OF_TASK
from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trireme.errors import Violation

_HEAD = "model.head"
_TASK = "finetune.task"
_CP = "parallel.context_parallel_size"


@reads(_HEAD, _TASK)
def _head_is_of_the_task(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    head, task = config.model.head, config.finetune.task
    if task is None:
        if not config.model.has_output_layer:
            yield Violation(
                path=_HEAD,
                value=head,
                message=f"must be lm or mlm with {_TASK}=null: pretraining predicts tokens",
                fix=f"Use lm or mlm, or set {_TASK}.",
            )
    elif head != HEAD_OF_TASK[task]:
        needed = HEAD_OF_TASK[task]
        yield Violation(
            path=_HEAD,
            value=head,
            message=f"must be {needed} with {_TASK}={task}",
            fix=f"Use {needed}.",
        )


@reads(_HEAD, "model.num_labels")
def _classes_are_counted(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if model.head in ("classification", "token_classification") and model.num_labels is None:
        yield Violation(
            path="model.num_labels",
            value="null",
            message=f"must be set with {_HEAD}={model.head}",
            fix="Use the number of classes, or 1 to predict a number.",
        )


@reads(_HEAD, "model.pooling", "model.attention_mask")
def _pooled_token_has_seen_all(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if model.head == "classification" and model.pooling == "first" and model.attention_mask == "causal":
        yield Violation(
            path="model.pooling",
            value="first",
            message="must be last or mean with model.attention_mask=causal: a first token sees nothing after it",
            fix="Use last, or mean.",
        )


@reads(_HEAD, "model.pooler")
def _pooler_has_documents(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if model.pooler == "tanh" and model.head not in ("classification", "none"):
        yield Violation(
            path="model.pooler",
            value="tanh",
            message=f"requires {_HEAD}=classification: it transforms what was pooled from a document",
            fix="Use none.",
        )
    elif model.pooler == "gelu" and model.has_output_layer:
        yield Violation(
            path="model.pooler",
            value="gelu",
            message=f"must be none with {_HEAD}={model.head}: an output layer follows",
            fix="Use none.",
        )


@reads(_HEAD, _CP)
def _documents_are_whole(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    head, size = config.model.head, config.parallel.context_parallel_size
    if head in ("classification", "question_answering") and size > 1:
        yield Violation(
            path=_CP,
            value=size,
            message=f"must be 1 with {_HEAD}={head}: a whole document is needed on one rank",
            fix="Use 1, and tensor or pipeline parallelism for long rows.",
        )


RULES = (
    _head_is_of_the_task,
    _classes_are_counted,
    _pooled_token_has_seen_all,
    _pooler_has_documents,
    _documents_are_whole,
)
