"""Find the family of a config.json, and the family in which a model can be written."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.config.model import ModelConfig
from trainer.huggingface.check_model import check_model
from trainer.huggingface.config_json import CONFIG_NAME, ConfigReader
from trainer.huggingface.families.bert import BERT, MODERNBERT
from trainer.huggingface.families.deepseek import DEEPSEEK_V3
from trainer.huggingface.families.family import Family, computed_values, config_of, find_differences
from trainer.huggingface.families.gemma import GEMMA, GEMMA2, GEMMA3
from trainer.huggingface.families.gpt2 import GPT2
from trainer.huggingface.families.llama import LLAMA, MISTRAL, MIXTRAL
from trainer.huggingface.families.olmo import OLMO2
from trainer.huggingface.families.qwen import QWEN2, QWEN2_MOE, QWEN3, QWEN3_MOE
from trainer.huggingface.tensor_map import UnmappedTensorError, build_rules
from trireme.config.suggest import did_you_mean, join_or, to_yaml
from trireme.errors import ConfigError, Violation, raise_if_any

_LOGGER = logging.getLogger(__name__)
FAMILIES = (
    LLAMA,
    QWEN2,
    QWEN3,
    MISTRAL,
    MIXTRAL,
    QWEN3_MOE,
    QWEN2_MOE,
    OLMO2,
    GEMMA,
    GEMMA2,
    GEMMA3,
    GPT2,
    DEEPSEEK_V3,
    BERT,
    MODERNBERT,
)
"""In the order in which they are tried for an export."""
_BY_TYPE = {family.model_type: family for family in FAMILIES}


def find_family(content: Mapping[str, Any]) -> Family:
    """Return the family of a config.json.

    Raises:
        ConfigError: it is none of `FAMILIES`.
    """
    found = content.get("model_type")
    if isinstance(found, str) and found in _BY_TYPE:
        return _BY_TYPE[found]
    names = ", ".join(sorted(_BY_TYPE))
    message = "is not a family that can be imported"
    fix = f"{did_you_mean(str(found), list(_BY_TYPE))} Supported are {names}.".strip()
    raise ConfigError([Violation(path=f"{CONFIG_NAME}: model_type", value=found, message=message, fix=fix)])


def read_model(content: Mapping[str, Any]) -> tuple[Family, ModelConfig]:
    """Translate a config.json, and log what the user should know of it.

    Raises:
        ConfigError: every key that cannot be represented, at once.
    """
    family = find_family(content)
    reader = ConfigReader(content)
    architectures = content.get("architectures") or [family.architecture]
    named = architectures if isinstance(architectures, list) else []
    head = next((head for head, form in family.heads.items() if form.architecture in named), None)
    fields = family.read_fields(reader, head=head)
    reader.check_token_ids()
    violations = reader.finish()
    if head is None and family.architecture not in named:
        known = [family.architecture, *(form.architecture for form in family.heads.values())]
        message = f"must be {join_or(known)}: other heads are not imported"
        fix = "Give a model with one of these heads."
        violations.append(
            Violation(path=f"{CONFIG_NAME}: architectures", value=architectures, message=message, fix=fix)
        )
    raise_if_any(violations)
    model = ModelConfig(**fields)
    raise_if_any(check_model(model, content))
    for message in reader.warnings:
        _LOGGER.warning("%s.", message)
    return family, model


def choose_family(model: ModelConfig, *, vocab_size: int, preferred: str | None = None) -> Family:
    """Return the first family whose config.json means the very same model.

    Args:
        model: to write.
        vocab_size: rows of its embedding.
        preferred: the model_type that it was imported from, which is tried first.
    Raises:
        ConfigError: none does; the message says what the nearest ones lack.
    """
    order = sorted(FAMILIES, key=lambda family: family.model_type != preferred)
    misfits: list[Misfit] = []
    for family in order:
        misfit = find_misfit(family, model, vocab_size=vocab_size)
        if misfit is None:
            return family
        misfits.append(misfit)
    nearest = sorted(misfits, key=lambda misfit: (not misfit.is_same_kind, not misfit.is_known, len(misfit.needs)))
    shown = "; ".join(f"{misfit.model_type} needs {', '.join(misfit.needs)}" for misfit in nearest[:2])
    message = f"is no model of a family of Hugging Face transformers. The nearest are: {shown}"
    fix = "Train a model with the settings of a supported family to export it."
    raise ConfigError([Violation(path="model", value="", message=message, fix=fix)])


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """Hold why a model cannot be written in a family."""

    model_type: str
    needs: list[str]
    """Settings with the values that the family has, or keys and tensors that it has no place for."""
    is_same_kind: bool = False
    """Whether both see tokens on the same sides, and both or none have experts and latent attention."""
    is_known: bool = True
    """Whether all settings could be compared."""


def find_misfit(family: Family, model: ModelConfig, *, vocab_size: int) -> Misfit | None:
    """Return what keeps a model out of a family: fields that its config.json does not keep, or tensors; or None.

    Args:
        vocab_size: rows of the model's embedding.
    """
    reader = ConfigReader(config_of(family, model, vocab_size=vocab_size))
    try:
        written = ModelConfig(**family.read_fields(reader, head=model.head if model.head in family.heads else None))
    except (TypeError, ValueError, ZeroDivisionError):
        return Misfit(model_type=family.model_type, needs=["another kind of layers"], is_known=False)
    is_same_kind = _kind_of(model) == _kind_of(written)
    if reader.finish():
        keys = [str(violation.path) for violation in reader.violations]
        return Misfit(model_type=family.model_type, needs=keys, is_same_kind=is_same_kind, is_known=False)
    found = find_differences(model, written)
    # Fields without effect in the family follow from the others.
    used = {name: theirs for name, (_, theirs) in found.items() if name in computed_values(written)}
    needs = [_show_need(name, value) for name, value in used.items()] or [f"another model.{name}" for name in found]
    if not needs:
        try:
            build_rules(model, family.names_of(model), vocab_size=vocab_size, padded_vocab_size=vocab_size)
        except UnmappedTensorError as error:
            needs = [f"no {name}" for name in error.names]
    return Misfit(model_type=family.model_type, needs=needs, is_same_kind=is_same_kind) if needs else None


def _kind_of(model: ModelConfig) -> tuple[object, ...]:
    return model.attention_mask, model.num_moe_experts is not None, model.multi_latent_attention


def _show_need(name: str, value: Any) -> str:
    """Return a setting with its value, as a user writes it; without one where that differs by layer."""
    if isinstance(value, list | tuple):
        return f"another model.{name}"
    return f"model.{name}={to_yaml(value)}"
