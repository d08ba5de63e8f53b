"""Quantize a checkpoint into a run directory or a GGUF file, and compare it with the original."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from trainer.checkpoint.adapter_base import fingerprint
from trainer.checkpoint.quantized import Quantization, is_quantized, write_quantized
from trainer.compression.decoding import DecodingComparison, compare_decoding
from trainer.compression.quantizing import QuantizedModel, quantize_model
from trainer.compression.report import withdrawn_on_failure
from trainer.compression.rows import compare_losses, read_rows, row_losses
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
MAX_ROW_LENGTH = 512
_CALIBRATION_SEED, _VALIDATION_SEED = 1, 2
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
    """None takes the model's seq_length, at most `MAX_ROW_LENGTH`."""
    embedding_bits: int = 8
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
    coarse: tuple[str, ...]
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
    length = options.row_length or min(config.seq_length, MAX_ROW_LENGTH)
    calibration = _read(options, saved, config, length, "calibration", seed=_CALIBRATION_SEED)
    validation = _read(options, saved, config, length, "validation", seed=_VALIDATION_SEED)
    total = count_parameters(config, state.padded_vocab_size)
    with one_process() as world:
        model = load_whole(saved, world=world, base=options.base)
        before = row_losses(model, validation) if validation is not None else None
        quantized: QuantizedModel | None = None
        if options.gguf == "Q4_1":
            # Its blocks have an offset, which gguf chooses with the scale.
            file, num_bytes = _write_gguf(output, model, saved, quantized=None, kind=options.gguf)
        else:
            progress = CopyProgress("Quantizing", total=total, write=_LOGGER.info)
            quantized = quantize_model(
                model,
                bits=options.bits,
                group_size=options.group_size,
                embedding_bits=options.embedding_bits,
                calibration=calibration[:, :-1] if calibration is not None else None,
                report=progress,
            )
            if options.gguf is not None:
                file, num_bytes = _write_gguf(output, model, saved, quantized=quantized, kind=options.gguf)
            else:
                file = _write(saved, output, quantized, options)
                num_bytes = _count_bytes(quantized.tensors)
        with withdrawn_on_failure(file, output=output):
            compared = decoding = None
            if validation is not None and before is not None:
                compared = compare_losses(before, row_losses(model, validation), seq_length=length)
            coarse = quantized.coarse if quantized is not None else ()
            error_ratio = quantized.error_ratio if quantized is not None else None
            del model, quantized  # the memory is for the models that are measured
            if options.gguf is None:
                decoding = compare_decoding(
                    saved,
                    file,
                    world=world,
                    num_rounds=options.decoding_rounds,
                    before_dtypes=("fp32", "bf16"),
                    after_dtypes=("bf16",),
                    base=options.base,
                )
    return QuantizeResult(
        output=file,
        num_parameters=total,
        num_bytes=num_bytes,
        size_ratio=num_bytes / (4 * total),
        coarse=coarse,
        error_ratio=error_ratio,
        perplexity=compared,
        decoding=decoding,
    )


def _check(saved: SavedRun, output: Path, options: QuantizeOptions) -> None:
    if is_quantized(saved.checkpoint):
        message, fix = "is quantized already", "Give the checkpoint that it was made from."
        raise ConfigError([Violation(path="PATH", value=saved.checkpoint, message=message, fix=fix)])
    if options.gguf is not None:
        raise_if_any(check_extra("huggingface", ["gguf"]))
        from trainer.compression.gguf_writing import check_gguf  # noqa: PLC0415 - imports gguf, which is optional

        raise_if_any(check_gguf(output, saved))
    else:
        check_run_directory(output)
    if options.validation is not None and not saved.state.model_config().has_output_layer:
        message, fix = "needs a model that predicts tokens", "Remove it, and score predictions before and after."
        raise ConfigError([Violation(path="--validation", value=options.validation, message=message, fix=fix)])


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
        seq_length=min(length, model.num_positions),
        vocab_size=saved.state.vocab_size or saved.state.padded_vocab_size,
        path=f"--{name}",
        seed=seed,
    )


def _write(saved: SavedRun, output: Path, quantized: QuantizedModel, options: QuantizeOptions) -> Path:
    quantization = Quantization(
        bits=options.bits,
        group_size=options.group_size,
        method=options.method,
        embedding_bits=options.embedding_bits,
        source=saved.checkpoint.name,
        source_sha256=fingerprint(saved.checkpoint),
    )
    return write_run(
        saved,
        output,
        model=saved.state.model_config(),
        write_weights=lambda directory: write_quantized(directory, quantized.tensors, quantization=quantization),
        keeps_origin=True,
    )


def _write_gguf(
    output: Path, model: GPT, saved: SavedRun, *, quantized: QuantizedModel | None, kind: GgufType
) -> tuple[Path, int]:
    """Write the file, and give the model its weights."""
    from trainer.compression.gguf_writing import round_like_gguf, write_gguf  # noqa: PLC0415 - gguf is optional

    with write_errors_explained(output):
        written = write_gguf(output, model, saved, quantized=quantized, kind=kind)
    if quantized is None:
        round_like_gguf(model, kind=kind)
    return written


def _count_bytes(tensors: Mapping[str, torch.Tensor | QuantizedTensor]) -> int:
    """Return the bytes of the stored tensors, without the file's header."""
    total = 0
    for tensor in tensors.values():
        if isinstance(tensor, QuantizedTensor):
            total += tensor.values.numel() * tensor.bits // 8 + 2 * tensor.scales.numel()
        else:
            total += 4 * tensor.numel()
    return total
