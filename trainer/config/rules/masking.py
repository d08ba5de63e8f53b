"""Check settings of masked language models."""

from collections.abc import Iterator

from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trireme.errors import Violation

_PROB = "data.mask_prob"
_MASK = "data.mask_token_id"
_SIDES = "model.attention_mask"


@reads(_PROB, _SIDES, "finetune.task")
def _objective_fits_attention(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    """A model that sees the next token has nothing to predict, and a hidden one needs both of its sides."""
    mask_prob, sides = config.data.mask_prob, config.model.attention_mask
    if mask_prob is None and sides == "bidirectional" and config.finetune.task is None:
        yield Violation(
            path=_PROB,
            value="null",
            message=f"must be set with {_SIDES}=bidirectional: the model would see the tokens that it predicts",
            fix=f"Use 0.15 or 0.3, or {_SIDES}=causal.",
        )
    if mask_prob is not None and sides == "causal":
        yield Violation(
            path=_SIDES,
            value="causal",
            message=f"must be bidirectional with {_PROB}={mask_prob:g}: masked tokens are predicted from both sides",
            fix=f"Use bidirectional, or {_PROB}=null.",
        )


@reads(_PROB, _MASK, "tokenizer.path")
def _mask_token_is_known(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    if config.data.mask_prob is not None and config.data.mask_token_id is None and config.tokenizer.path is None:
        yield Violation(
            path=_MASK,
            value="null",
            message=f"must be set with {_PROB} when tokenizer.path=null",
            fix="Set it to the token that hides others, or set tokenizer.path to the tokenizer.",
        )


@reads(_MASK, "model.vocab_size")
def _mask_token_is_a_token(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    mask, vocab_size = config.data.mask_token_id, config.model.vocab_size
    if mask is not None and vocab_size is not None and not 0 <= mask < vocab_size:
        yield Violation(
            path=_MASK,
            value=mask,
            message=f"must be at least 0 and less than model.vocab_size={vocab_size}",
            fix=f"Use 0 to {vocab_size - 1}.",
        )


@reads("data.mask_token_share", "data.random_token_share")
def _shares_are_at_most_everything(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    masked, random = config.data.mask_token_share, config.data.random_token_share
    if masked + random > 1 + 1e-9:
        yield Violation(
            path="data.random_token_share",
            value=random,
            message=f"must be at most 1 - data.mask_token_share = {1 - masked:g}",
            fix=f"Use {1 - masked:g} or less.",
        )


@reads("data.mask_whole_words", "data.mask_word_list", "tokenizer.path")
def _words_are_known(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    data = config.data
    if data.mask_whole_words and config.tokenizer.path is None:
        yield Violation(
            path="data.mask_whole_words",
            value="true",
            message="requires tokenizer.path: the pieces of the tokenizer show where words begin",
            fix="Use false, or set tokenizer.path.",
        )
    if data.mask_word_list is not None and not data.mask_whole_words:
        yield Violation(
            path="data.mask_word_list",
            value=data.mask_word_list,
            message="requires data.mask_whole_words=true",
            fix="Use null, or data.mask_whole_words=true.",
        )


RULES = (
    _objective_fits_attention,
    _mask_token_is_known,
    _mask_token_is_a_token,
    _shares_are_at_most_everything,
    _words_are_known,
)
