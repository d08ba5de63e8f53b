"""Check settings of the documents inside a sequence."""

from collections.abc import Iterator

from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trireme.config.suggest import to_yaml
from trireme.errors import Violation

_EOD = "data.eod_token_id"


@reads("data.reset_attention_mask", "data.reset_position_ids", "data.eod_mask_loss", _EOD, "tokenizer.path")
def _end_of_document_is_known(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    if config.data.uses_documents and config.data.eod_token_id is None and config.tokenizer.path is None:
        yield Violation(
            path=_EOD,
            value="null",
            message="must be set when tokenizer.path=null and data.reset_attention_mask, data.reset_position_ids or"
            " data.eod_mask_loss is true",
            fix="Set it to the token that ends documents, or set tokenizer.path to the tokenizer.",
        )


@reads(_EOD, "model.vocab_size")
def _end_of_document_is_a_token(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    eod, vocab_size = config.data.eod_token_id, config.model.vocab_size
    if eod is not None and vocab_size is not None and eod >= vocab_size:
        yield Violation(
            path=_EOD,
            value=eod,
            message=f"must be less than model.vocab_size={vocab_size}",
            fix=f"Use 0 to {vocab_size - 1}.",
        )


@reads("data.reset_attention_mask", "data.reset_position_ids", "model.transformer_impl")
def _documents_need_torch_layers(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    """Transformer Engine's attention and rotary kernels use the same positions and causal mask for all sequences."""
    if config.model.transformer_impl != "transformer_engine":
        return
    for name in ("reset_attention_mask", "reset_position_ids"):
        value = getattr(config.data, name)
        if value:
            yield Violation(
                path=f"data.{name}",
                value=to_yaml(value),
                message="not supported with model.transformer_impl=transformer_engine",
                fix="Use false, or model.transformer_impl=torch.",
            )


RULES = (_end_of_document_is_known, _end_of_document_is_a_token, _documents_need_torch_layers)
