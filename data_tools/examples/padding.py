"""Choose the token that fills rows up."""

from typing import NamedTuple

from trireme.tokenizer.backends import CONFIG_NAMES, read_token_names
from trireme.tokenizer.tokenizer import Tokenizer

PAD_NAMES = (
    "[PAD]",
    "<pad>",
    "<|pad|>",
    "<|padding|>",
    "<|finetune_right_pad_id|>",
    "<｜▁pad▁｜>",
    "<|reserved_special_token_0|>",
    "<|endoftext|>",
)
"""Names of the padding token in published tokenizers, in order of preference."""


class Padding(NamedTuple):
    """Hold the token of padding, and why it was chosen."""

    token: int
    reason: str


def choose_padding(tokenizer: Tokenizer, *, end_tokens: frozenset[int]) -> Padding:
    """Choose the token that fills rows up: never one that ends an answer, unless there is no other.

    Padding carries no label and is seen by no other document, so the choice changes no loss. A token of its own keeps
    rows readable, and programs that find padding by its id correct.

    Args:
        end_tokens: ids that end answers; they are targets.
    """
    forbidden = end_tokens | ({tokenizer.eos_id} - {None})
    names = dict.fromkeys(name for file in CONFIG_NAMES for name in (_read_name(tokenizer, file),) if name is not None)
    for name in names:
        token = tokenizer.token_id(name)
        if token is not None and token not in forbidden:
            return Padding(token, f"the tokenizer's pad_token {name}")
    why = _explain_missing(tokenizer, next(iter(names), None), end_tokens=end_tokens)
    for name in PAD_NAMES:
        token = tokenizer.token_id(name)
        if token is not None and token not in forbidden:
            return Padding(token, f"{name}, with which other models pad too: {why}")
    for token, what in ((tokenizer.unknown_id, "the unknown token"), (tokenizer.bos_id, "the token of beginnings")):
        if token is not None and token not in forbidden:
            return Padding(token, f"{what} {tokenizer.token_name(token)}, never a target: {why}")
    for name, token in tokenizer.special_tokens.items():
        if token not in forbidden:
            return Padding(token, f"the special token {name}, never a target here: {why}")
    if tokenizer.eos_id is not None:
        return Padding(tokenizer.eos_id, f"eos_token, as there is no other special token, without a label: {why}")
    return Padding(0, f"token 0, without a label: {why}")


def _explain_missing(tokenizer: Tokenizer, name: str | None, *, end_tokens: frozenset[int]) -> str:
    """Say why the tokenizer's own pad_token is not taken."""
    if name is None:
        return "the tokenizer has no pad_token"
    token = tokenizer.token_id(name)
    if token is None:
        return f"the tokenizer's pad_token {name} is none of its tokens"
    return f"the tokenizer's pad_token {name} ends {'answers, and so is a target' if token in end_tokens else 'texts'}"


def _read_name(tokenizer: Tokenizer, file: str) -> str | None:
    if not tokenizer.is_huggingface:
        return None
    value = read_token_names(tokenizer.path.parent / file).get("pad_token")
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None
