"""Check whether a checkpoint fits a configuration, before a process group exists and before tensors are loaded."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from trainer.checkpoint.directory import list_checkpoints
from trainer.checkpoint.discovery import candidates, check_checkpoint, is_own_past, names_other_run
from trainer.checkpoint.rollback import resume_of_start
from trainer.checkpoint.tokenizer import check_tokenizer, check_vocab_size
from trainer.checkpoint.trainer_state import TrainerState, read_state
from trainer.config.model import ModelConfig, find_expert_width, find_moe_layers
from trainer.run_directory.directory import must_restart
from trainer.run_directory.lock import cannot_write
from trireme.errors import ConfigError, Violation
from trireme.files import nearest_existing_parent
from trireme.tokenizer.tokenizer import Tokenizer

_ROOM_BYTES = 1 << 16
"""What the first minutes of a run write besides checkpoints: configuration, logs, metrics."""


def check_resume(
    resume: str,
    *,
    run_directory: Path,
    model: ModelConfig,
    padded_vocab_size: int,
    seed: int,
    tokenizer: Tokenizer | None = None,
    vocab_size: int | None = None,
) -> list[Violation]:
    """Return everything that would keep a run from starting as `resume` says, and from saving.

    Needs no process group and writes nothing. Files are checked by size; `choose_checkpoint` reads them.

    Args:
        resume: auto, never, restart or a path.
        run_directory: of the run that is starting; it need not exist.
        model: the configured model.
        padded_vocab_size: rows of its embedding.
        seed: of the order of samples.
        tokenizer: None without a tokenizer, or if it cannot be opened, which another check reports.
        vocab_size: tokens, without padding; None does not compare.
    """
    violations = _check_writable(run_directory)
    if must_restart(resume, run_directory):
        return violations
    resume = resume_of_start(resume, run_directory)
    own = list_checkpoints(run_directory)
    is_other = names_other_run(resume, run_directory) and not is_own_past(resume, own)
    if own and (resume == "never" or is_other):
        violations.append(
            Violation(
                path="resume",
                value=resume,
                message=f"would start a new run in {run_directory}, which already has the checkpoint {own[0].name}",
                fix="Use resume=auto to resume it, another run_name to start a new run, or resume=restart to move the "
                "existing files aside.",
            )
        )
    try:
        paths = candidates(resume, run_directory=run_directory)
    except ConfigError as error:
        return [*violations, *error.violations]
    damage: list[Violation] = []
    for path in paths:
        found = check_checkpoint(path)
        if not found:
            state = read_state(path)
            if not is_other:
                violations += _check_seed(seed, state=state, checkpoint=path)
                violations += _check_vocabulary(vocab_size, tokenizer, state=state, checkpoint=path)
            return violations + check_model(model, padded_vocab_size=padded_vocab_size, state=state, checkpoint=path)
        damage += found
    return violations + damage


def _check_seed(seed: int, *, state: TrainerState, checkpoint: Path) -> list[Violation]:
    """Compare the seed, which orders the samples: in another order, some would be seen twice and others never."""
    if seed == state.seed:
        return []
    message = f"differs from {state.seed}, the seed of the resumed run ({checkpoint}), and changes the order of samples"
    fix = f"Use {state.seed} to resume it, or another run_name to start or fork a run with another order."
    return [Violation(path="training.seed", value=seed, message=message, fix=fix)]


def _check_vocabulary(
    vocab_size: int | None, tokenizer: Tokenizer | None, *, state: TrainerState, checkpoint: Path
) -> list[Violation]:
    """Compare tokenizer and vocabulary, which a run keeps; a fork may change them, with a warning."""
    otherwise = ", or fork the run to change it: set another run_name and resume=RUN"
    if tokenizer is not None:
        found = check_tokenizer(tokenizer, state=state, checkpoint=checkpoint, otherwise=otherwise)
        if found:
            return found
    if vocab_size is None:
        return []
    return check_vocab_size(vocab_size, state=state, checkpoint=checkpoint, otherwise=otherwise)


def _check_writable(run_directory: Path) -> list[Violation]:
    """Try to write a file in the run directory, or in its nearest existing parent."""
    place = nearest_existing_parent(run_directory)
    try:
        # The access bits are not checked: they do not show read-only mounts, quotas or root squashing.
        with tempfile.TemporaryFile(dir=place, buffering=0) as file:
            written = file.write(bytes(_ROOM_BYTES))
            if written < _ROOM_BYTES:  # the next write raises the reason
                file.write(bytes(_ROOM_BYTES - written))
            return []
    except OSError as error:
        return [cannot_write(run_directory, error, to=str(place))]


_CHANGE_RESULTS = (
    "rotary_base",
    "rotary_base_local",
    "rope_scaling_factor",
    "rope_scaling_type",
    "rope_original_max_position_embeddings",
    "rope_low_freq_factor",
    "rope_high_freq_factor",
    "yarn_beta_fast",
    "yarn_beta_slow",
    "yarn_attention_factor",
    "yarn_mscale",
    "yarn_mscale_all_dim",
    "norm_epsilon",
    "seq_length",
    "attention_mask",
    "window_size",
    "window_attn_skip_freq",
    "softmax_scale",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "embedding_scale",
    "pooling",
    "moe_router_topk",
    "moe_router_score_function",
    "moe_router_pre_softmax",
    "moe_router_topk_scaling_factor",
    "moe_router_num_groups",
    "moe_router_group_topk",
)
"""Fields that change what the model computes, not what its tensors are; `describe_changes` reports them."""

_MAY_DIFFER = frozenset(
    {
        "hidden_dropout",
        "attention_dropout",
        "head_dropout",
        "init_method_std",
        "transformer_impl",
        "torch_compile",
        *_CHANGE_RESULTS,
        "moe_router_dtype",
        # They change how experts are trained.
        "moe_router_bias_update_rate",
        "moe_router_load_balancing_type",
        "moe_aux_loss_coeff",
        "moe_z_loss_coeff",
        # Compared in another form below.
        "max_position_embeddings",
        "kv_channels",
        "vocab_size",
        "make_vocab_size_divisible_by",
        "moe_layer_freq",
        "moe_ffn_hidden_size",
    }
)


def check_model(
    model: ModelConfig, *, padded_vocab_size: int, state: TrainerState, checkpoint: Path
) -> list[Violation]:
    """Return every field in which a model differs from a checkpoint's so that its tensors cannot be loaded.

    A field that the checkpoint does not have had its default value when it was saved.
    """
    ours, theirs = _identity(model, padded_vocab_size), _identity(state.model_config(), state.padded_vocab_size)
    return [
        Violation(
            path=path,
            value=value,
            message=f"differs from the checkpoint's {theirs[path]} ({checkpoint})",
            fix=f"Use {theirs[path]} to resume it, or another run_name to train another model.",
        )
        for path, value in ours.items()
        if value != theirs.get(path, value)
    ]


def describe_changes(model: ModelConfig, *, state: TrainerState) -> list[str]:
    """Describe the allowed differences with which the resumed model computes other numbers, for the log."""
    theirs = state.model_config()
    return [
        f"model.{name} was {getattr(theirs, name)} in the checkpoint and is {getattr(model, name)} now."
        for name in _CHANGE_RESULTS
        if getattr(theirs, name) != getattr(model, name)
    ]


def _identity(model: ModelConfig, padded_vocab_size: int) -> dict[str, Any]:
    """Return the values that must be equal, by the user's path."""
    values = {
        f"model.{entry.name}": getattr(model, entry.name)
        for entry in dataclasses.fields(model)
        if entry.name not in _MAY_DIFFER
    }
    values["model.kv_channels"] = model.head_size
    values["padded_vocab_size"] = padded_vocab_size
    if model.num_moe_experts is not None:
        values["model.moe_layer_freq"] = [int(has_experts) for has_experts in find_moe_layers(model)]
        values["model.moe_ffn_hidden_size"] = find_expert_width(model)
    if model.position_embedding_type == "learned_absolute":
        values["model.max_position_embeddings"] = model.num_positions
    return values
