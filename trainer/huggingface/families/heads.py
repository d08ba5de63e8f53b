"""Map the classes of transformers that have a task's head instead of an output layer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.config.model import ModelConfig
from trainer.huggingface.config_json import ConfigReader
from trainer.huggingface.tensor_map import FusedQkv, Halves, Mapped, Names, Same

Fields = dict[str, Any]
_SEQUENCES, _TOKENS, _QUESTIONS, _NONE = "classification", "token_classification", "question_answering", "none"
_POOLINGS = {"cls": "first", "mean": "mean"}


@dataclass(frozen=True, kw_only=True)
class TaskHeadForm:
    """Hold how a family writes a model with one kind of `model.head`."""

    architecture: str
    """Class of transformers."""
    names: Names
    """Tensors of the head."""
    read: Callable[[ConfigReader], Fields]
    """Takes the head's fields from config.json."""
    write: Callable[[ModelConfig], Fields] = lambda model: {}
    """Returns the head's keys of config.json."""
    base_prefix: str | None = None
    """Prefix of the other tensors, where it is not that of the family's other classes."""


def move_base(names: Names, old: str, new: str) -> Names:
    """Return names with another prefix of those tensors that have the old one."""

    def move(name: str) -> str:
        return new + name.removeprefix(old) if name.startswith(old) else name

    moved: dict[str, Mapped] = {}
    for native, mapped in names.items():
        if isinstance(mapped, Same):
            moved[native] = Same(name=move(mapped.name), is_transposed=mapped.is_transposed)
        elif isinstance(mapped, Halves):
            moved[native] = Halves(first=move(mapped.first), second=move(mapped.second))
        else:
            moved[native] = FusedQkv(
                query=move(mapped.query),
                key=move(mapped.key),
                value=move(mapped.value),
                is_transposed=mapped.is_transposed,
            )
    return moved


def _layer(name: str, *, native: str = "head.classifier") -> dict[str, Mapped]:
    return {f"{native}.{kind}": Same(name=f"{name}.{kind}") for kind in ("weight", "bias")}


def _read_as(**fields: Any) -> Callable[[ConfigReader], Fields]:
    return lambda reader: dict(fields)


def _write_dropout(model: ModelConfig) -> Fields:
    return {"classifier_dropout": model.head_dropout}


_BERT_POOLER = _layer("bert.pooler.dense", native="head.pooler")
BERT_HEADS: Mapping[str, TaskHeadForm] = {
    _SEQUENCES: TaskHeadForm(
        architecture="BertForSequenceClassification",
        names={**_BERT_POOLER, **_layer("classifier")},
        read=_read_as(pooling="first", pooler="tanh"),
        write=_write_dropout,
    ),
    _TOKENS: TaskHeadForm(
        architecture="BertForTokenClassification", names=_layer("classifier"), read=_read_as(), write=_write_dropout
    ),
    _QUESTIONS: TaskHeadForm(
        architecture="BertForQuestionAnswering", names=_layer("qa_outputs"), read=_read_as(head_dropout=0.0)
    ),
    _NONE: TaskHeadForm(
        architecture="BertModel",
        names=_layer("pooler.dense", native="head.pooler"),
        read=_read_as(pooler="tanh"),
        base_prefix="",
    ),
}


def _read_modern(reader: ConfigReader) -> Fields:
    return {"pooler": "gelu", "pooling": reader.choice("classifier_pooling", _POOLINGS, "cls")}


def _write_modern(model: ModelConfig) -> Fields:
    names = {ours: theirs for theirs, ours in _POOLINGS.items()}
    # No class of this family takes the last token: what is read back then differs.
    return {**_write_dropout(model), "classifier_pooling": names.get(model.pooling, "cls")}


_MODERN_HEAD: Names = {
    "head.dense.weight": Same(name="head.dense.weight"),
    "head.layernorm.weight": Same(name="head.norm.weight"),
    **_layer("classifier"),
}
MODERNBERT_HEADS: Mapping[str, TaskHeadForm] = {
    head: TaskHeadForm(architecture=f"ModernBertFor{kind}", names=_MODERN_HEAD, read=_read_modern, write=_write_modern)
    for head, kind in (
        (_SEQUENCES, "SequenceClassification"),
        (_TOKENS, "TokenClassification"),
        (_QUESTIONS, "QuestionAnswering"),
    )
} | {_NONE: TaskHeadForm(architecture="ModernBertModel", names={}, read=_read_as(), base_prefix="")}


def decoder_heads(prefix: str, *, question_base: str = "model.") -> Mapping[str, TaskHeadForm]:
    """Return the heads of a family of decoders, whose classes begin with `prefix`: the last token is classified.

    Args:
        question_base: prefix of the tensors below the head that answers questions.
    """
    return {
        _SEQUENCES: TaskHeadForm(
            architecture=f"{prefix}ForSequenceClassification",
            names={"head.classifier.weight": Same(name="score.weight")},
            read=_read_as(pooling="last", head_bias=False),
        ),
        _TOKENS: TaskHeadForm(
            architecture=f"{prefix}ForTokenClassification",
            names=_layer("score"),
            read=_read_as(),
            write=_write_dropout,
        ),
        _QUESTIONS: TaskHeadForm(
            architecture=f"{prefix}ForQuestionAnswering",
            names=_layer("qa_outputs"),
            read=_read_as(),
            base_prefix=question_base,
        ),
    }
