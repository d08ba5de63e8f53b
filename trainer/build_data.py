"""Build the loaders of a run's batches from its configuration, for training and for validation."""

from trainer.checkpoint.trainer_state import TrainerState
from trainer.config.derived import DerivedConfig
from trainer.config.schema import TrainConfig
from trainer.data.labelled_rows import RowsConfig
from trainer.data.loader import BatchLoader, build_loader
from trainer.data.masked_lm import Masking, build_masking
from trainer.data.micro_batch import DocumentConfig
from trainer.data.mixture import Mixture
from trainer.data.sample_ranges import SampleRanges
from trainer.data.validation import VALIDATION_SEED, ValidationLoader, build_validation_loader
from trainer.parallel.world import World
from trireme.tokenizer.tokenizer import Tokenizer


def build_validation(
    config: TrainConfig,
    *,
    derived: DerivedConfig,
    world: World,
    tokenizer: Tokenizer | None = None,
    reference_key: str | None = None,
) -> ValidationLoader | None:
    """Build the loader of the validation set, if one is configured.

    Args:
        tokenizer: of the shards, which a masked language model needs.
        reference_key: of a preference run, names the losses of its reference.
    """
    if not config.data.validation:
        return None
    return build_validation_loader(
        config.data.validation,
        seq_length=config.model.seq_length,
        dp_rank=world.dp_rank,
        dp_size=world.dp_size,
        micro_batch_size=config.training.micro_batch_size,
        global_batch_size=config.training.global_batch_size,
        eval_iters=config.training.eval_iters,
        vocab_size=derived.vocab_size,
        documents=_document_config(config, derived),
        # Of its own, so that every validation of a run, and of two runs, hides the same tokens.
        transform=_masking(config, derived, tokenizer, seed=VALIDATION_SEED),
        rows=_rows_config(config, reference_key=reference_key),
    )


def _masking(config: TrainConfig, derived: DerivedConfig, tokenizer: Tokenizer | None, *, seed: int) -> Masking | None:
    return build_masking(
        config.data, seed=seed, vocab_size=derived.vocab_size, eod_token_id=derived.eod_token_id, tokenizer=tokenizer
    )


def _rows_config(config: TrainConfig, *, reference_key: str | None) -> RowsConfig | None:
    """Return how rows of examples are read; None for shards of text."""
    finetune = config.finetune
    if finetune.task is None:
        return None
    return RowsConfig(
        task=finetune.task,
        class_weights=tuple(finetune.class_weights),
        reference_key=reference_key,
        has_token_types=config.model.num_tokentypes > 0,
    )


def _document_config(config: TrainConfig, derived: DerivedConfig) -> DocumentConfig | None:
    if not config.data.uses_documents:
        return None
    assert derived.eod_token_id is not None
    return DocumentConfig(
        eod_token_id=derived.eod_token_id,
        reset_attention_mask=config.data.reset_attention_mask,
        reset_position_ids=config.data.reset_position_ids,
        eod_mask_loss=config.data.eod_mask_loss,
    )


def build_training_loader(
    config: TrainConfig,
    *,
    derived: DerivedConfig,
    world: World,
    state: TrainerState | None = None,
    skipped_samples: SampleRanges | None = None,
    tokenizer: Tokenizer | None = None,
    reference_key: str | None = None,
) -> BatchLoader:
    """Build the loader of this rank's training batches, from the checkpoint's progress on.

    Args:
        skipped_samples: samples that no step reads.
        tokenizer: of the shards, which a masked language model needs.
        reference_key: of a preference run, names the losses of its reference.
    """
    mixture = state.mixture if state is not None else None
    return build_loader(
        config.data.train,
        seed=config.training.seed,
        seq_length=config.model.seq_length,
        dp_rank=world.dp_rank,
        dp_size=world.dp_size,
        micro_batch_size=config.training.micro_batch_size,
        global_batch_size=config.training.global_batch_size,
        consumed_samples=state.consumed_samples if state is not None else 0,
        prefetch_steps=config.data.prefetch_steps,
        vocab_size=derived.vocab_size,
        documents=_document_config(config, derived),
        transform=_masking(config, derived, tokenizer, seed=config.training.seed),
        rows=_rows_config(config, reference_key=reference_key),
        former_mixture=Mixture.from_record(dict(mixture)) if mixture else None,
        skipped_samples=skipped_samples,
    )


def resets_positions(config: TrainConfig) -> bool:
    """Every row of examples has several documents, each with its own positions."""
    return config.data.reset_position_ids or config.finetune.task is not None
