"""Load the teacher of a distillation, and check it before the start."""

import dataclasses
from pathlib import Path

from trainer.checkpoint.discovery import choose_at
from trainer.checkpoint.trainer_state import TrainerState, read_state
from trainer.config.model import ModelConfig
from trainer.config.schema import TrainConfig
from trainer.config.validate import validate
from trainer.saved_run import check_tokenizer, open_saved_run
from trireme.errors import ConfigError, Violation
from trireme.tokenizer.tokenizer import Tokenizer

TEACHER = "distill.teacher"


def teacher_model(state: TrainerState, *, model: ModelConfig) -> ModelConfig:
    """Return the teacher's configuration on the rows of the model that it teaches."""
    own = state.model_config()
    positions = own.max_position_embeddings
    if positions is None and own.position_embedding_type == "learned_absolute":
        positions = own.seq_length
    return dataclasses.replace(
        own,
        seq_length=model.seq_length,
        max_position_embeddings=positions,
        vocab_size=own.vocab_size if own.vocab_size is not None else state.vocab_size,
        torch_compile=model.torch_compile,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )


def check_teacher(
    config: TrainConfig, *, tokenizer: Tokenizer | None, padded_vocab_size: int | None, world_size: int | None
) -> list[Violation]:
    """Return everything that keeps `distill.teacher` from teaching the configured model; nothing without a teacher.

    Args:
        tokenizer: of the run; None does not compare it.
        padded_vocab_size: rows of the model's embedding; None does not compare them.
    """
    path = config.distill.teacher
    if path is None:
        return []
    try:
        saved = open_saved_run(Path(path), verify=False, name=TEACHER)
    except ConfigError as error:
        return list(error.violations)
    state = saved.state
    found: list[Violation] = []
    if tokenizer is not None:
        found += check_tokenizer(tokenizer, saved=saved, path="tokenizer.path")
    if padded_vocab_size is not None and state.padded_vocab_size != padded_vocab_size and not found:
        message = f"has {state.padded_vocab_size} rows of the vocabulary, the model {padded_vocab_size}"
        fix = "Use a teacher with the tokenizer and model.make_vocab_size_divisible_by of the model."
        found.append(Violation(path=TEACHER, value=path, message=message, fix=fix))
    if not state.model_config().has_output_layer:
        message, fix = "does not predict tokens", "Use a language model."
        return [*found, Violation(path=TEACHER, value=path, message=message, fix=fix)]
    own = {str(violation) for violation in validate(config, world_size=world_size)}
    taught = dataclasses.replace(config, model=teacher_model(state, model=config.model))
    return found + [
        dataclasses.replace(one, path=TEACHER, value=path, message=f"{one.path} of the teacher {one.message}")
        for one in validate(taught, world_size=world_size)
        if str(one) not in own and one.path.startswith(("model.", "parallel."))
    ]


def choose_teacher(config: TrainConfig) -> tuple[Path, TrainerState]:
    """Return the teacher's checkpoint and its state; all ranks call this.

    Raises:
        ConfigError: on every rank, if there is no valid one.
    """
    assert config.distill.teacher is not None
    checkpoint = choose_at(Path(config.distill.teacher), verify=config.checkpoint.verify, name=TEACHER)
    return checkpoint, read_state(checkpoint)
