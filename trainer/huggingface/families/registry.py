"""Find the family of a config.json, and the family in which a model can be written."""

from collections.abc import Mapping
from typing import Any

from trainer.config.model import ModelConfig
from trainer.huggingface.check_model import check_model
from trainer.huggingface.config_json import CONFIG_NAME, ConfigReader
from trainer.huggingface.families.bert import BERT, MODERNBERT
from trainer.huggingface.families.deepseek import DEEPSEEK_V3
from trainer.huggingface.families.family import Family, config_of, find_differences
from trainer.huggingface.families.gemma import GEMMA, GEMMA2, GEMMA3
from trainer.huggingface.families.gpt2 import GPT2
from trainer.huggingface.families.llama import LLAMA, MISTRAL, MIXTRAL
from trainer.huggingface.families.olmo import OLMO2
from trainer.huggingface.families.qwen import QWEN2, QWEN2_MOE, QWEN3, QWEN3_MOE
from trainer.huggingface.tensor_map import UnmappedTensorError, build_rules
from trireme.config.suggest import did_you_mean, join_or
from trireme.errors import ConfigError, Violation, raise_if_any

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
    """Translate a config.json.

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
    reasons: dict[str, list[str]] = {}
    for family in order:
        lacking = find_lacking(family, model, vocab_size=vocab_size)
        if not lacking:
            return family
        reasons[family.model_type] = lacking
    nearest = sorted(reasons.items(), key=lambda item: len(item[1]))[:2]
    shown = "; ".join(f"{name} differs in {', '.join(lacking)}" for name, lacking in nearest)
    message = f"is no model of a family of Hugging Face transformers: {shown}"
    fix = "Train a model with the settings of a supported family to export it."
    raise ConfigError([Violation(path="model", value="", message=message, fix=fix)])


def find_lacking(family: Family, model: ModelConfig, *, vocab_size: int) -> list[str]:
    """Return the fields of a model that a family's config.json does not keep, or the tensors that it does not have."""
    reader = ConfigReader(config_of(family, model, vocab_size=vocab_size))
    try:
        written = ModelConfig(**family.read_fields(reader, head=model.head if model.head in family.heads else None))
    except (TypeError, ValueError, ZeroDivisionError):
        return ["the kind of its layers"]
    if reader.finish():
        return [str(violation.path) for violation in reader.violations]
    lacking = [f"model.{name}" for name in find_differences(model, written)]
    if lacking:
        return lacking
    try:
        build_rules(model, family.names_of(model), vocab_size=vocab_size, padded_vocab_size=vocab_size)
    except UnmappedTensorError as error:
        return list(error.names)
    return []
