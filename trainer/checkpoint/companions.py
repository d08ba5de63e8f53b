"""Read the files that a model of the Hugging Face world brings along, next to the tokenizer in its checkpoints.

An import, and every run that starts from it with its tokenizer, keeps them in each checkpoint, so that chat, server and
export find them there.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trireme.errors import ConfigError, Violation
from trireme.tokenizer.backends import CONFIG_NAMES

CHAT_TEMPLATE_NAME = "chat_template.jinja"
GENERATION_CONFIG_NAME = "generation_config.json"
COMPANION_NAMES = (
    *CONFIG_NAMES,
    CHAT_TEMPLATE_NAME,
    GENERATION_CONFIG_NAME,
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
"""Files next to a tokenizer that belong to its model: names and settings of the tokenizer, the chat template, defaults
of generation, and other forms of the same vocabulary, which llama.cpp and older versions of transformers read."""
_FIX = "Restore the file, or import the model again."


def read_companions(directory: Path) -> dict[str, bytes]:
    """Read the companions in a directory, by name.

    Raises:
        OSError: one of them cannot be read.
    """
    paths = [directory / name for name in COMPANION_NAMES]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


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
            raise ConfigError(
                [Violation(path=str(path), value="", message=f"cannot be read: {error}", fix=_FIX)]
            ) from error
    template = _read_object(directory / CONFIG_NAMES[0]).get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template if isinstance(entry, Mapping)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def read_generation_config(directory: Path) -> dict[str, Any]:
    """Return the model's defaults of generation, such as `eos_token_id` (a number or a list), temperature and top_p.

    Args:
        directory: a checkpoint, or a directory with the files of a model.
    Returns:
        The content of generation_config.json; empty if there is none.
    Raises:
        ConfigError: the file is damaged.
    """
    return _read_object(directory / GENERATION_CONFIG_NAME)


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            [Violation(path=str(path), value="", message=f"cannot be read: {error}", fix=_FIX)]
        ) from error
    if not isinstance(content, dict):
        raise ConfigError([Violation(path=str(path), value="", message="must be a JSON object", fix=_FIX)])
    return content
