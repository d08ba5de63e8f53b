"""Find the tokenizer of a model to import, and write that of a checkpoint for an export."""

import json
import logging
import shutil
from pathlib import Path

import tokenizers

from data_tools.export_tokenizer import build_texts, find_difference, write_tokenizer
from data_tools.tokenizer.convert import UnsupportedModelError, convert_tokenizer
from trainer.checkpoint.companions import COMPANION_NAMES, GENERATION_CONFIG_NAME
from trainer.checkpoint.tokenizer import SENTENCEPIECE_NAME
from trireme.errors import EXIT_STOPPED, RunStopped
from trireme.tokenizer.backends import CONFIG_NAMES
from trireme.tokenizer.tokenizer import HUGGINGFACE_NAME, Tokenizer

_LOGGER = logging.getLogger(__name__)


def open_source_tokenizer(directory: Path) -> Tokenizer | None:
    """Open the tokenizer.json of a model, or else its SentencePiece model; None if it has neither.

    Raises:
        ConfigError: the file is damaged.
    """
    names = (HUGGINGFACE_NAME, SENTENCEPIECE_NAME)
    return next((Tokenizer(directory / name) for name in names if (directory / name).is_file()), None)


def write_tokenizer_files(tokenizer_path: Path, directory: Path) -> None:
    """Write a checkpoint's tokenizer for transformers, vLLM and llama.cpp.

    A tokenizer.json and the files next to it are copied. A SentencePiece model is converted, with proof on many texts
    that the ids are the same, and copied too; one that cannot be converted, such as Llama 2's, is only copied.

    Raises:
        RunStopped: a text gets other ids.
    """
    tokenizer = Tokenizer(tokenizer_path)
    for name in COMPANION_NAMES:
        if (tokenizer_path.parent / name).is_file():
            shutil.copyfile(tokenizer_path.parent / name, directory / name)
    if tokenizer.is_huggingface:
        shutil.copyfile(tokenizer_path, directory / HUGGINGFACE_NAME)
        return
    shutil.copyfile(tokenizer_path, directory / SENTENCEPIECE_NAME)
    try:
        converted = convert_tokenizer(tokenizer_path.read_bytes())
    except UnsupportedModelError as error:
        _LOGGER.warning(
            "The tokenizer is exported as %s only, which transformers converts itself: it %s.",
            SENTENCEPIECE_NAME,
            error,
        )
        return
    other = tokenizers.Tokenizer.from_str(converted.tokenizer.to_str())
    other.encode_special_tokens = True
    _, difference = find_difference(tokenizer, other, build_texts(tokenizer, converted.symbols))
    if difference is not None:
        message = f"The tokenizer cannot be exported: {difference.text[:80]!r} gets other tokens: {difference.what}"
        raise RunStopped(message, exit_code=EXIT_STOPPED)
    write_tokenizer(converted, directory)
    path = directory / CONFIG_NAMES[0]
    config = json.loads(path.read_bytes())
    # llama.cpp adds a begin token and a space to every text unless these are written and false.
    config |= {"add_bos_token": False, "add_eos_token": False, "add_prefix_space": False}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_generation_config(directory: Path, token_ids: dict[str, object]) -> None:
    """Write generation_config.json with the token ids, unless the model brought its own."""
    path = directory / GENERATION_CONFIG_NAME
    if not path.exists() and token_ids:
        path.write_text(json.dumps(token_ids, indent=2) + "\n", encoding="utf-8")
