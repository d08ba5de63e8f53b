"""Prune a checkpoint into a smaller one, which is written as a run directory of its own."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from trainer.compression.decoding import DecodingComparison, compare_decoding
from trainer.compression.pruning import (
    Pruned,
    Removal,
    collect_tensors,
    prune_channels,
    prune_heads,
    prune_layers,
    write_pruned,
)
from trainer.compression.report import keep_result, withdraw_unmeasured, withdrawn_on_failure
from trainer.compression.rows import choose_row_length, compare_losses, read_rows, row_losses
from trainer.compression.whole_model import load_whole, one_process, write_run
from trainer.config.model import ModelConfig, find_moe_layers
from trainer.config.model_math import count_parameters
from trainer.huggingface.importing import check_run_directory
from trainer.saved_run import SavedRun, open_saved_run
from trainer.scores.perplexities import Comparison
from trireme.errors import ConfigError, Violation
from trireme.progress import PlainProgress

RECORD_NAME = "pruning.json"
"""File of the checkpoint that lists what was removed, and the loss after each removal."""
_DATA_SEED, _VALIDATION_SEED = 1, 2
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """Hold what is removed, and on which rows it is chosen."""

    data: Path
    """Token shard."""
    num_rows: int = 16
    row_length: int | None = None
    """See `choose_row_length`."""
    layers: int | None = None
    """Layers to remove."""
    heads: int | None = None
    """Query heads to remove in each layer."""
    channels: int | None = None
    """Channels of the MLP to remove in each layer. One of the three is set."""
    validation: Path | None = None
    """Token shard on which the two models are compared; None takes other rows of `data`."""
    validation_rows: int = 64
    base: Path | None = None
    """Where the base checkpoint of adapters is."""
    decoding_rounds: int = 0
    """In which the speed of decoding is measured."""


@dataclass(frozen=True, kw_only=True)
class PruneResult:
    """Hold what has been written."""

    checkpoint: Path
    num_parameters_before: int
    num_parameters: int
    removals: tuple[Removal, ...]
    perplexity: Comparison
    decoding: DecodingComparison | None
    """In fp32; None if it was not measured."""

    def to_record(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "checkpoint": str(self.checkpoint), "removals": list(map(asdict, self.removals))}


def prune_run(saved: SavedRun, output: Path, options: PruneOptions) -> PruneResult:
    """Prune a checkpoint and write what remains as the checkpoint of step 0 of a run directory.

    The model is held in memory in fp32; nothing is left where it fails.

    Args:
        saved: from `open_saved_run`.
        output: the run directory; it must have no checkpoints.
    Raises:
        ConfigError: the model has no such parts, rows cannot be read, or the output cannot be used.
        RunStopped: the disk is full.
    """
    withdraw_unmeasured(output)
    check_run_directory(output)
    state, config = saved.state, saved.state.model_config()
    if found := check_parts(config, options):
        raise ConfigError(found)
    vocab_size = state.vocab_size or state.padded_vocab_size
    length = choose_row_length(options.row_length, model=config)
    data, count = options.data, options.num_rows
    rows = read_rows(data, num_rows=count, seq_length=length, vocab_size=vocab_size, path="--data", seed=_DATA_SEED)
    validation = read_rows(
        options.validation or data,
        num_rows=options.validation_rows,
        seq_length=length,
        vocab_size=vocab_size,
        path="--validation",
        seed=_VALIDATION_SEED,
    )
    with one_process() as world:
        model = load_whole(saved, world=world, base=options.base)
        before = row_losses(model, validation)
        tensors = collect_tensors(model)  # copies: pruning writes zeros into the model
        pruned = _prune(model, config, rows, options)
        with withdrawn_on_failure(output):
            checkpoint = write_run(
                saved,
                output,
                model=pruned.model,
                write_weights=lambda directory: write_pruned(
                    directory, tensors, pruned, config=config, padded_vocab_size=state.padded_vocab_size
                ),
                keeps_origin=False,
                further={RECORD_NAME: _record(saved, pruned)},
            )
            # What was written, not what was measured while pruning.
            after = row_losses(load_whole(open_saved_run(checkpoint, verify=False), world=world), validation)
            tensors.clear()  # the memory is for the models that are measured
            del model
            decoding = compare_decoding(
                saved,
                checkpoint,
                world=world,
                num_rounds=options.decoding_rounds,
                before_dtypes=("fp32",),
                after_dtypes=("fp32",),
                base=options.base,
            )
            result = PruneResult(
                checkpoint=checkpoint,
                num_parameters_before=count_parameters(config, state.padded_vocab_size),
                num_parameters=count_parameters(pruned.model, state.padded_vocab_size),
                removals=pruned.removals,
                perplexity=compare_losses(before, after, seq_length=length),
                decoding=decoding,
            )
            keep_result(output, result.to_record())
    return result


def check_parts(model: ModelConfig, options: PruneOptions) -> list[Violation]:
    """Report parts that the model does not have, or that cannot be removed from it."""
    if model.head != "lm" or model.attention_mask != "causal":
        message, fix = "must predict the next token to be pruned by its loss", "Give a causal language model."
        return [Violation(path="PATH", value=model.head, message=message, fix=fix)]
    if options.layers is not None:
        least = 1 if not model.skip_first_layernorm else 2
        if 1 <= options.layers <= model.num_layers - least:
            return []
        message = f"must be between 1 and {model.num_layers - least}, since the model has {model.num_layers} layers"
        return [Violation(path="--layers", value=options.layers, message=message, fix="Use a number in this range.")]
    if options.channels is not None:
        return _check_channels(model, options.channels)
    assert options.heads is not None
    if model.multi_latent_attention or (model.qk_layernorm_width == "all" and model.qk_layernorm):
        message = "cannot be removed: all heads of this model share latent channels or a norm"
        return [Violation(path="--heads", value=options.heads, message=message, fix="Remove layers: --layers.")]
    sharing = model.num_attention_heads // model.num_query_groups
    most = model.num_attention_heads - sharing
    if options.heads % sharing or not 1 <= options.heads <= most:
        message = (
            f"must be a multiple of {sharing}, the queries that share a key, and at most {most}, since the model has"
            f" {model.num_attention_heads} heads"
        )
        fix = f"Use {sharing}." if most else "Remove layers: --layers."
        return [Violation(path="--heads", value=options.heads, message=message, fix=fix)]
    return []


def _check_channels(model: ModelConfig, count: int) -> list[Violation]:
    if any(find_moe_layers(model)):
        message, fix = "cannot be removed: the model has experts", "Remove layers or heads: --layers, --heads."
    elif not 1 <= count < model.ffn_hidden_size:
        message = (
            f"must be between 1 and {model.ffn_hidden_size - 1}, since an MLP has {model.ffn_hidden_size} channels"
        )
        fix = "Use a number in this range."
    else:
        return []
    return [Violation(path="--channels", value=count, message=message, fix=fix)]


def _prune(model: Any, config: ModelConfig, rows: Any, options: PruneOptions) -> Pruned:
    sharing = config.num_attention_heads // config.num_query_groups
    if options.layers is not None:
        choose: Callable[..., Pruned] = partial(prune_layers, num_layers=options.layers)
        total, unit = options.layers, "layers"
    elif options.channels is not None:
        choose = partial(prune_channels, num_channels=options.channels)
        total, unit = config.num_layers, "layers"
    else:
        assert options.heads is not None
        choose = partial(prune_heads, num_heads=options.heads)
        total, unit = config.num_layers * options.heads // sharing, "groups of heads"
    progress = PlainProgress("Pruning", total=total, unit=unit, write=_LOGGER.info)
    done = 0

    def report(removal: Removal) -> None:
        nonlocal done
        done += 1
        _LOGGER.info("Removed %s: loss %.4f.", _describe_part(removal), removal.loss)
        progress.update(done)

    return choose(model, config, rows, report=report)


def _describe_part(removal: Removal) -> str:
    if removal.num_channels is not None:
        return f"{removal.num_channels} channels of the MLP of layer {removal.layer}"
    return f"layer {removal.layer}" + ("" if removal.group is None else f", key-value head {removal.group}")


def _record(saved: SavedRun, pruned: Pruned) -> str:
    content = {
        "source": str(saved.checkpoint.resolve()),
        "loss_before": pruned.loss_before,
        "removals": [asdict(one) for one in pruned.removals],
        "kept_layers": list(pruned.kept_layers),
    }
    return json.dumps(content, indent=1) + "\n"
