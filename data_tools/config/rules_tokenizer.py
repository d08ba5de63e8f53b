"""The rules of data_prep.tokenizer."""

import re
from collections import Counter
from collections.abc import Iterator

from data_tools.config.schema import (
    LARGEST_AUTO_VOCAB_SIZE,
    MIN_VOCAB_SIZE,
    DataPrepConfig,
    TokenizerConfig,
    list_special_tokens,
)
from trireme.config.ranges import Range
from trireme.config.suggest import join_or, nearest_multiples
from trireme.errors import ConfigError, Violation
from trireme.progress import format_number
from trireme.tokenizer.tokenizer import Tokenizer

MAX_CANDIDATES = 10

TOKENIZER_RANGES: dict[str, Range] = {
    "tokenizer.vocab_size": Range(
        minimum=MIN_VOCAB_SIZE, reason="256 bytes and the unknown, begin and end tokens are always included"
    ),
    "tokenizer.vocab_multiple": Range(minimum=1),
    "tokenizer.character_coverage": Range(minimum=0.9, maximum=1.0),
    "tokenizer.sample_characters": Range(minimum=1000),
    "tokenizer.sampling_exponent": Range(minimum=0, maximum=1),
    "tokenizer.num_reserved_tokens": Range(minimum=0, maximum=100_000),
    "tokenizer.num_threads": Range(minimum=1, maximum=1024),
}

_TAKEN = re.compile(r"<unk>|<s>|</s>|<0x[0-9A-F]{2}>")
_RESERVED = re.compile(r"<\|reserved_\d+\|>")
_ONLY_TRAINED = ("special_tokens", "user_defined_symbols", "num_reserved_tokens")


def validate_tokenizer(config: DataPrepConfig) -> Iterator[Violation]:
    """Check the rules between the tokenizer's settings, and the existing tokenizer if one is configured."""
    yield from _names_are_plain(config.tokenizer)
    if config.tokenizer.path is not None:
        yield from _given_stays_as_it_is(config.tokenizer)
        yield from _given_is_usable(config.tokenizer)
        return
    yield from _vocab_is_a_multiple(config.tokenizer)
    yield from _tokens_have_room(config.tokenizer)
    yield from _languages_are_known(config)
    if config.tokenizer.eos_token is not None:
        yield Violation(
            path="tokenizer.eos_token",
            value=config.tokenizer.eos_token,
            message="requires an existing tokenizer.json: a trained tokenizer always ends documents with </s>",
            fix="Remove it, or set data_prep.tokenizer.path to the tokenizer.json.",
        )


def _vocab_is_a_multiple(tokenizer: TokenizerConfig) -> Iterator[Violation]:
    size, multiple = tokenizer.vocab_size, tokenizer.vocab_multiple
    if size == "auto":
        if multiple > LARGEST_AUTO_VOCAB_SIZE:
            yield Violation(
                path="tokenizer.vocab_multiple",
                value=multiple,
                message=f"must be at most {LARGEST_AUTO_VOCAB_SIZE}, the largest size of"
                " data_prep.tokenizer.vocab_size=auto",
                fix="Use a smaller multiple, or set data_prep.tokenizer.vocab_size.",
            )
    elif multiple > 0 and size % multiple:
        choices = [value for value in nearest_multiples(size, multiple) if value >= MIN_VOCAB_SIZE]
        yield Violation(
            path="tokenizer.vocab_size",
            value=size,
            message=f"must be a multiple of data_prep.tokenizer.vocab_multiple={multiple}",
            fix=f"Use {join_or(choices)}.",
        )


def _names_are_plain(tokenizer: TokenizerConfig) -> Iterator[Violation]:
    lists = (("special_tokens", tokenizer.special_tokens), ("user_defined_symbols", tokenizer.user_defined_symbols))
    counts = Counter([*tokenizer.special_tokens, *tokenizer.user_defined_symbols])
    for name, tokens in lists:
        path = f"tokenizer.{name}"
        for token in dict.fromkeys(tokens):
            if counts[token] > 1:
                yield Violation(path=path, value=token, message="listed more than once", fix="List it once.")
            if not token or re.search(r"[\s\u2581\0]", token):
                rule = "must not be empty or contain a space, U+2581 (which encodes a space) or NUL"
                yield Violation(path=path, value=repr(token), message=rule, fix="Choose another spelling.")
            elif _TAKEN.fullmatch(token) or (tokenizer.num_reserved_tokens and _RESERVED.fullmatch(token)):
                rule = "reserved: every trained tokenizer already has this token"
                yield Violation(path=path, value=token, message=rule, fix="Remove it, or choose another spelling.")
            elif name == "special_tokens" and len(token) == 1:
                rule = "must not be a single character, since text could not contain it"
                yield Violation(
                    path=path, value=token, message=rule, fix=f"Choose another spelling, such as <|{token}|>."
                )


def _tokens_have_room(tokenizer: TokenizerConfig) -> Iterator[Violation]:
    size = LARGEST_AUTO_VOCAB_SIZE if tokenizer.vocab_size == "auto" else tokenizer.vocab_size
    room = size - MIN_VOCAB_SIZE
    # A number out of range is reported as such.
    if room < 0 or tokenizer.num_reserved_tokens < 0:
        return
    count = len(list_special_tokens(tokenizer)) + len(tokenizer.user_defined_symbols)
    if count > room:
        yield Violation(
            path="tokenizer.special_tokens",
            value=format_number(count, "token"),
            message=f"the vocabulary has room for only {format_number(room, 'token')}, reserved tokens and user-defined"
            " symbols included",
            fix="Remove some, or raise data_prep.tokenizer.vocab_size.",
        )


def _languages_are_known(config: DataPrepConfig) -> Iterator[Violation]:
    if config.tokenizer.sampling_exponent < 1 and not config.language.identify:
        yield Violation(
            path="tokenizer.sampling_exponent",
            value=config.tokenizer.sampling_exponent,
            message="requires the language of each document",
            fix="Set data_prep.language.identify=true, or use 1.",
        )


def _given_stays_as_it_is(tokenizer: TokenizerConfig) -> Iterator[Violation]:
    for name in _ONLY_TRAINED:
        if value := getattr(tokenizer, name):
            yield Violation(
                path=f"tokenizer.{name}",
                value=value,
                message="not supported with data_prep.tokenizer.path: an existing tokenizer gets no new tokens",
                fix=f"Remove it or data_prep.tokenizer.path={tokenizer.path}.",
            )


def _given_is_usable(config: TokenizerConfig) -> Iterator[Violation]:
    assert config.path is not None
    try:
        tokenizer = Tokenizer(config.path)
    except ConfigError as error:
        yield from error.violations
        return
    candidates = list(tokenizer.special_tokens)
    shown = ", ".join(candidates[:MAX_CANDIDATES]) or "none"
    if config.eos_token is None:
        if tokenizer.eos_id is None and tokenizer.is_huggingface:
            yield Violation(
                path="tokenizer.path",
                value=config.path,
                message="no end-of-document token found: no tokenizer_config.json next to it sets eos_token,"
                " and no token has a common name",
                fix=f"Set data_prep.tokenizer.eos_token; its special tokens are: {shown}.",
            )
        elif tokenizer.eos_id is None:
            rule, fix = "no end-of-document token (</s>) in the model", "Use another tokenizer, or train one."
            yield Violation(path="tokenizer.path", value=config.path, message=rule, fix=fix)
    elif not tokenizer.is_huggingface:
        rule = f"cannot be set for {config.path}: a SentencePiece model defines its own end-of-document token"
        yield Violation(path="tokenizer.eos_token", value=config.eos_token, message=rule, fix="Remove it.")
    elif tokenizer.token_id(config.eos_token) is None:
        rule = f"no such token in {config.path}"
        fix = f"Use one of its special tokens: {shown}."
        yield Violation(path="tokenizer.eos_token", value=config.eos_token, message=rule, fix=fix)
