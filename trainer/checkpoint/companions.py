"""Read the files that a model of the Hugging Face world brings along, next to the tokenizer in its checkpoints.

An import, and every run that starts from it with its tokenizer, keeps them in each checkpoint, so that chat, server and
export find them there.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trireme.config.ranges import Range
from trireme.tokenizer.backends import CONFIG_NAMES
from trireme.tokenizer.model_files import CHAT_TEMPLATE_NAME, read_object

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
_SAMPLING_RANGES: Mapping[str, Range] = {
    "temperature": Range(minimum=0),
    "top_k": Range(minimum=0),
    "top_p": Range(minimum=0, maximum=1, is_minimum_excluded=True),
    "min_p": Range(minimum=0, maximum=1),
    "repetition_penalty": Range(minimum=0, is_minimum_excluded=True),
}
_LOGGER = logging.getLogger(__name__)


def read_companions(directory: Path) -> dict[str, bytes]:
    """Read the companions in a directory, by name.

    Raises:
        OSError: one of them cannot be read.
    """
    paths = [directory / name for name in COMPANION_NAMES]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def read_generation_config(directory: Path) -> dict[str, Any]:
    """Return the model's defaults of generation, such as `eos_token_id` (a number or a list), temperature and top_p.

    Args:
        directory: a checkpoint, or a directory with the files of a model.
    Returns:
        The content of generation_config.json, without values of sampling that are out of range, which are logged;
        empty if there is none.
    Raises:
        ConfigError: the file is damaged.
    """
    path = directory / GENERATION_CONFIG_NAME
    content = read_object(path)
    for name, allowed in _SAMPLING_RANGES.items():
        value = content.get(name)
        if value is not None and not (_is_number(value) and value in allowed):
            _LOGGER.warning("%s: %s must be %s (got %s), so the default is used.", path, name, allowed, value)
            del content[name]
    return content


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
