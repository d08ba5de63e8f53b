"""Read the files that a model of the Hugging Face world brings along, next to the tokenizer in its checkpoints.

An import, and every run that starts from it with its tokenizer, keeps them in each checkpoint, so that chat, server and
export find them there.
"""

from pathlib import Path
from typing import Any

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
_FIX = "Restore the file, or import the model again."


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
        The content of generation_config.json; empty if there is none.
    Raises:
        ConfigError: the file is damaged.
    """
    return read_object(directory / GENERATION_CONFIG_NAME)
