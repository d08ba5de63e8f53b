"""Find the tokenizer and chat template of a run, an import, a checkpoint, or a directory with the files of a model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trireme.errors import ConfigError, Violation
from trireme.tokenizer.backends import CONFIG_NAMES
from trireme.tokenizer.tokenizer import HUGGINGFACE_NAME

CHAT_TEMPLATE_NAME = "chat_template.jinja"
TOKENIZER_NAMES = ("tokenizer.model", HUGGINGFACE_NAME)
_CHECKPOINTS = "checkpoints"
_MANIFEST = "manifest.json"
_FIX = "Restore the file, or import the model again."


def find_model_directory(path: Path) -> Path | None:
    """Return the directory that holds a model's tokenizer.

    Args:
        path: a run or an import, whose latest checkpoint is taken, a checkpoint, or a directory with a tokenizer.
    Returns:
        None if there is no tokenizer.
    """
    saved = sorted(path.glob(f"{_CHECKPOINTS}/step_*/{_MANIFEST}"), reverse=True)
    places = [path, *(manifest.parent for manifest in saved if manifest.parent.name.removeprefix("step_").isdigit())]
    return next((place for place in places if find_tokenizer_file(place) is not None), None)


def find_tokenizer_file(directory: Path) -> Path | None:
    """Return the tokenizer in a directory; None when there is none.

    Of two forms of one vocabulary the tokenizer.json is taken, as imports do: it has the chat markers too.
    """
    found = [directory / name for name in TOKENIZER_NAMES if (directory / name).is_file()]
    return found[-1] if found else None


def read_chat_template(directory: Path) -> str | None:
    """Return the Jinja template that turns a conversation into the model's prompt.

    Args:
        directory: a checkpoint, or a directory with the files of a model.
    Returns:
        The text of chat_template.jinja, or else `chat_template` of tokenizer_config.json, where one of several is
        named `default`. None if there is none: the model continues text and was not trained on conversations.
    Raises:
        ConfigError: a file is damaged.
    Source: transformers, PreTrainedTokenizerBase.from_pretrained.
    """
    path = directory / CHAT_TEMPLATE_NAME
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _damaged(path, error) from error
    template = read_object(directory / CONFIG_NAMES[0]).get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template if isinstance(entry, Mapping)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty when there is no such file.

    Raises:
        ConfigError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(content, dict):
        raise ConfigError([Violation(path=str(path), value="", message="must be a JSON object", fix=_FIX)])
    return content


def _damaged(path: Path, error: Exception) -> ConfigError:
    return ConfigError([Violation(path=str(path), value="", message=f"cannot be read: {error}", fix=_FIX)])
