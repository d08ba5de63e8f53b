"""Quantize a checkpoint into a run directory or a GGUF file, and compare it with the original."""

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from trainer.checkpoint.adapter_base import fingerprint
from trainer.checkpoint.quantized import Quantization, is_quantized, write_quantized
from trainer.compression.decoding import DecodingComparison, compare_decoding
from trainer.compression.quantizing import TABLES, QuantizedModel, quantize_model
from trainer.compression.report import keep_result, withdraw_unmeasured, withdrawn_on_failure
from trainer.compression.rows import choose_row_length, compare_losses, read_rows, row_losses
from trainer.compression.sensitivity import choose_fine
from trainer.compression.whole_model import load_whole, one_process, write_run
from trainer.config.model import ModelConfig
from trainer.config.model_math import count_parameters
from trainer.huggingface.importing import check_run_directory
from trainer.huggingface.native_weights import CopyProgress
from trainer.huggingface.output_directory import write_errors_explained
from trainer.model.gpt import GPT
from trainer.model.quantized import QuantizedTensor
from trainer.saved_run import SavedRun
from trainer.scores.perplexities import Comparison
from trireme.errors import ConfigError, Violation, raise_if_any
from trireme.extras import check_extra

GgufType = Literal["Q8_0", "Q4_0", "Q4_1"]
_CALIBRATION_SEED, _VALIDATION_SEED = 1, 2
_MAX_SIZE = 0.18
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """Hold how a checkpoint is quantized."""

    bits: int
    group_size: int | None
    method: Literal["round", "gptq"] = "round"
    calibration: Path | None = None
    """Shard whose rows the error feedback sees."""
    calibration_rows: int = 128
    row_length: int | None = None
    """See `choose_row_length`."""
    embedding_bits: int | None = None
    """None takes 8, or 4 where `_choose_embedding_bits` says so."""
    has_offsets: bool = False
    """Whether groups of 4 bits have an offset too; those of Q4_1 always have one."""
    max_size: float | None = None
    """Share of fp32 up to which matrices get 8 bits instead of 4, see `trainer.compression.sensitivity`; None takes
    what `_choose_max_size` says."""
    validation: Path | None = None
    """Shard on which the two models are compared."""
    validation_rows: int = 64
    gguf: GgufType | None = None
    base: Path | None = None
    """Where the base checkpoint of adapters is."""
    decoding_rounds: int = 0
    """In which the speed of decoding is measured."""


@dataclass(frozen=True, kw_only=True)
class QuantizeResult:
    """Hold what has been written."""

    output: Path
    """The checkpoint, or the GGUF file."""
    num_parameters: int
    num_bytes: int
    """Of the weights' file."""
    size_ratio: float
    """To the same weights in fp32."""
    embedding_bits: int
    """Of the tables of embeddings and output."""
    coarse: tuple[str, ...]
    """See `QuantizedModel`."""
    max_size: float
    """Up to which matrices got 8 bits instead of 4; 0 if none should."""
    fine: tuple[str, ...]
    """See `QuantizedModel`."""
    error_ratio: float | None
    """See `QuantizedModel`."""
    perplexity: Comparison | None
    """None without validation rows."""
    decoding: DecodingComparison | None
    """Before in fp32 and bf16, after in bf16, where its kernels are; None for GGUF files and if it was not measured."""

    def to_record(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "output": str(self.output), "coarse": list(self.coarse)}


def quantize_run(saved: SavedRun, output: Path, options: QuantizeOptions) -> QuantizeResult:
    """Quantize a checkpoint's weights and write them; nothing is left where it fails.

    The model is held in memory, in fp32 with its quantized weights: about 6 bytes a parameter.

    Args:
        saved: from `open_saved_run`.
        output: a run directory without checkpoints; with `options.gguf`, a file that does not exist.
    Raises:
        ConfigError: the checkpoint is quantized already, rows cannot be read, or the output cannot be used.
        RunStopped: the disk is full.
    """
    _check(saved, output, options)
    config, state = saved.state.model_config(), saved.state
    length = choose_row_length(options.row_length, model=config)
    calibration = _read(options, saved, config, length, "calibration", seed=_CALIBRATION_SEED)
    validation = _read(options, saved, config, length, "validation", seed=_VALIDATION_SEED)
    total = count_parameters(config, state.padded_vocab_size)
    with one_process() as world:
        model = load_whole(saved, world=world, base=options.base)
        before = row_losses(model, validation) if validation is not None else None
        embedding_bits = options.embedding_bits or _choose_embedding_bits(model, options)
        has_offsets = options.has_offsets or options.gguf == "Q4_1"
        max_size = _choose_max_size(config, options, embedding_bits=embedding_bits)
        fine: frozenset[str] = frozenset()
        if max_size > 0 and calibration is not None:
            fine = choose_fine(
                model,
                calibration[:, :-1],
                group_size=options.group_size,
                embedding_bits=embedding_bits,
                max_size=max_size,
            )
        quantized = quantize_model(
            model,
            bits=options.bits,
            group_size=options.group_size,
            embedding_bits=embedding_bits,
            calibration=calibration[:, :-1] if calibration is not None else None,
            has_offsets=has_offsets,
            fine=fine,
            report=CopyProgress("Quantizing", total=total, write=_LOGGER.info),
        )
        compared = decoding = None
        if validation is not None and before is not None:
            compared = compare_losses(before, row_losses(model, validation), seq_length=length)
        coarse, chosen, error_ratio = quantized.coarse, quantized.fine, quantized.error_ratio
        with contextlib.nullcontext() if options.gguf is not None else withdrawn_on_failure(output):
            if options.gguf is not None:
                file, num_bytes = _write_gguf(output, saved, quantized, kind=options.gguf)
            else:
                quantization = Quantization(
                    bits=options.bits,
                    group_size=options.group_size,
                    method=options.method,
                    embedding_bits=embedding_bits,
                    source=saved.checkpoint.name,
                    source_sha256=fingerprint(saved.checkpoint),
                    has_offsets=has_offsets,
                    max_size=max_size,
                )
                file = _write(saved, output, quantized, quantization)
                num_bytes = _count_bytes(quantized.tensors)
                del model, quantized  # the memory is for the models that are measured
                decoding = compare_decoding(
                    saved,
                    file,
                    world=world,
                    num_rounds=options.decoding_rounds,
                    before_dtypes=("fp32", "bf16"),
                    after_dtypes=("bf16",),
                    base=options.base,
                )
            result = QuantizeResult(
                output=file,
                num_parameters=total,
                num_bytes=num_bytes,
                size_ratio=num_bytes / (4 * total),
                embedding_bits=embedding_bits,
                coarse=coarse,
                max_size=max_size,
                fine=chosen,
                error_ratio=error_ratio,
                perplexity=compared,
                decoding=decoding,
            )
            if options.gguf is None:
                keep_result(output, result.to_record())
    return result


def _check(saved: SavedRun, output: Path, options: QuantizeOptions) -> None:
    if is_quantized(saved.checkpoint):
        message, fix = "is quantized already", "Give the checkpoint that it was made from."
        raise ConfigError([Violation(path="PATH", value=saved.checkpoint, message=message, fix=fix)])
    if options.gguf is not None:
        raise_if_any(check_extra("huggingface", ["gguf"]))
        from trainer.compression.gguf_writing import check_gguf  # noqa: PLC0415 - imports gguf, which is optional

        raise_if_any(check_gguf(output, saved))
    else:
        withdraw_unmeasured(output)
        check_run_directory(output)
    if options.validation is not None and not saved.state.model_config().has_output_layer:
        message, fix = "needs a model that predicts tokens", "Remove it, and score predictions before and after."
        raise ConfigError([Violation(path="--validation", value=options.validation, message=message, fix=fix)])
    if options.max_size and saved.state.model_config().head != "lm":
        message, fix = "needs the loss of a model that predicts the next token", "Remove it."
        raise ConfigError([Violation(path="--max-size", value=options.max_size, message=message, fix=fix)])


def _read(
    options: QuantizeOptions,
    saved: SavedRun,
    model: ModelConfig,
    length: int,
    name: Literal["calibration", "validation"],
    *,
    seed: int,
) -> torch.Tensor | None:
    prefix: Path | None = getattr(options, name)
    if prefix is None:
        return None
    return read_rows(
        prefix,
        num_rows=getattr(options, f"{name}_rows"),
        seq_length=length,
        vocab_size=saved.state.vocab_size or saved.state.padded_vocab_size,
        path=f"--{name}",
        seed=seed,
    )


def _choose_embedding_bits(model: GPT, options: QuantizeOptions) -> int:
    """Return 4 where 8 bits would make the tables most of a model of 4 bits: with more than a third of the weights.

    Up to there, the whole takes at most 0.18 of fp32 with 8 bits for tables.
    """
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    in_tables = sum(sizes.get(name, 0) for name in TABLES)
    return 4 if options.bits == 4 and options.gguf is None and in_tables > sum(sizes.values()) / 3 else 8


def _choose_max_size(model: ModelConfig, options: QuantizeOptions, *, embedding_bits: int) -> float:
    """Return `_MAX_SIZE` for 4 bits with calibration, 0 where the loss of matrices is not known or not what matters.

    Tables of 4 bits lose most themselves. Groups with offsets can meet weights exactly, which whole rows of 8 bits do
    not, and the estimate knows neither. A GGUF file has the type that was asked for.
    """
    if options.max_size is not None:
        return options.max_size
    is_mixed = options.bits == 4 and options.method == "gptq" and not options.has_offsets and options.gguf is None
    return _MAX_SIZE if is_mixed and model.head == "lm" and embedding_bits == 8 else 0.0


def _write(saved: SavedRun, output: Path, quantized: QuantizedModel, quantization: Quantization) -> Path:
    return write_run(
        saved,
        output,
        model=saved.state.model_config(),
        write_weights=lambda directory: write_quantized(directory, quantized.tensors, quantization=quantization),
        keeps_origin=True,
    )


def _write_gguf(output: Path, saved: SavedRun, quantized: QuantizedModel, *, kind: GgufType) -> tuple[Path, int]:
    from trainer.compression.gguf_writing import write_gguf  # noqa: PLC0415 - gguf is optional

    with write_errors_explained(output):
        return write_gguf(output, saved, quantized, kind=kind)


def _count_bytes(tensors: Mapping[str, torch.Tensor | QuantizedTensor]) -> int:
    """Return the bytes of the stored tensors, without the file's header."""
    total = 0
    for tensor in tensors.values():
        if isinstance(tensor, QuantizedTensor):
            numbers = tensor.scales.numel() * (1 if tensor.offsets is None else 2)
            total += tensor.values.numel() * tensor.bits // 8 + 2 * numbers
        else:
            total += 4 * tensor.numel()
    return total
