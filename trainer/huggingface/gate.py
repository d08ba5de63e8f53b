"""Compare a checkpoint's logits with those of transformers on the Hugging Face files: the proof of import and export.

Both models compute in fp32 on the same token ids. Equal answers are no proof: with a wrong epsilon, rotary base or
approximation of gelu, the most likely token was still the same at every position (measured on tiny models).
b: rows, s: tokens of a row, v: vocabulary.
"""

import contextlib
import gc
import io
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from megatron.core.models.gpt.gpt_model import GPTModel

from trainer.build import wire_model
from trainer.checkpoint.load import load_weights
from trainer.checkpoint.trainer_state import TrainerState, read_state
from trainer.config.model import ModelConfig
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.huggingface.diagnosis import describe_culprits
from trainer.huggingface.tensor_map import TensorRule
from trainer.model.heads import TaskHead
from trainer.model.sharding import describe_parameters
from trainer.parallel.world import World, start_world, stop_world
from trireme.errors import EXIT_STOPPED, ConfigError, RunStopped, Violation

MAX_RELATIVE_DIFFERENCE = 5e-6
"""Of the largest logit. Right models differed by 1.2e-6 at most, and transformers' fp32 from its own fp64 by 0.7e-6;
the smallest mistake tried, a rotary base of 10001 instead of 10000, by 33e-6."""
ROUNDING_FACTOR = 2.0
"""Weights of unusual size amplify rounding. Where settings and weights are equal, the limit is this many times what
transformers' fp32 differs from its own fp64 on the same ids: right models of six families with weights up to 20 times
as large differed by 0.04 to 1.1 times as much, and by 6.5e-5 of the largest logit at most; a rotary base of 10001 by
more than 5 times as much."""
MAX_AMPLIFIED_DIFFERENCE = 1e-3
"""Beyond it, models are not the same, however much they amplify rounding."""
NUM_ROWS = 2
MIN_LENGTH = 64
MAX_COMPARED_POSITIONS = 256
"""Positions of a row whose logits are compared, evenly spaced: all of a row of 8,200 tokens would take 4 GB for a
vocabulary of 128,000."""
_SEED = 1
_CLASSES = {
    "lm": "AutoModelForCausalLM",
    "mlm": "AutoModelForMaskedLM",
    "classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "question_answering": "AutoModelForQuestionAnswering",
    "none": "AutoModel",
}
"""Of transformers, by `model.head`."""
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """Hold the comparison of two models."""

    relative_difference: float
    """Largest difference over the largest logit."""
    max_difference: float
    max_logit: float
    num_tokens: int
    """Of each row."""
    num_rows: int = NUM_ROWS
    rounding_error: float | None = None
    """Largest difference of the other model's fp32 from its own fp64, over the largest logit; None: not measured."""
    other: str = "transformers'"
    """Whose logits the first model's are compared with."""

    @property
    def limit(self) -> float:
        """Return the largest relative difference of equal models."""
        if self.rounding_error is None:
            return MAX_RELATIVE_DIFFERENCE
        return max(MAX_RELATIVE_DIFFERENCE, min(ROUNDING_FACTOR * self.rounding_error, MAX_AMPLIFIED_DIFFERENCE))

    @property
    def has_passed(self) -> bool:
        """Return whether the models are the same; false also for NaN."""
        return self.relative_difference <= self.limit

    def __str__(self) -> str:
        """Describe the figures, for messages."""
        return (
            f"logits differ from {self.other} by {self.max_difference:.1e} at most, {self.relative_difference:.1e} of"
            f" the largest ({self.num_rows} rows of {self.num_tokens} tokens, fp32; the limit is {self.limit:.0e}"
            + ("" if self.rounding_error is None else f", whose own rounding error is {self.rounding_error:.1e}")
            + ")"
        )

    def to_record(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {name: value for name, value in asdict(self).items() if name != "other"}


def check_logits(
    directory: Path,
    checkpoint: Path,
    *,
    rules: Sequence[TensorRule],
    dtypes: Mapping[str, torch.dtype],
    bos_id: int | None = None,
    gguf_file: str | None = None,
    adapter: Path | None = None,
    base: Path | None = None,
) -> GateResult:
    """Compare a checkpoint with a directory that transformers loads. Needs 4 bytes of memory per parameter.

    Args:
        directory: with config.json and safetensors.
        checkpoint: of the same model.
        rules: of its tensors.
        dtypes: data types of the tensors in `directory`, by name: the checkpoint's weights are rounded to them before
            they are compared.
        bos_id: see `gate_ids`.
        gguf_file: name of a GGUF file in `directory`, which transformers reads instead.
        adapter: directory of an adapter, which peft adds to the model of transformers.
        base: where the base checkpoint of adapters is; None takes the path that they name.
    Raises:
        RunStopped: they differ by more than rounding explains; the message names what differs.
    """
    state = read_state(checkpoint)
    ids = gate_ids(state.model_config(), vocab_size=state.vocab_size or state.padded_vocab_size, bos_id=bos_id)
    theirs = logits_of_transformers(directory, ids, gguf_file=gguf_file, adapter=adapter, model=state.model_config())
    gc.collect()
    ours = _logits_of_checkpoint(checkpoint, state, ids, rounded=_native_dtypes(rules, dtypes), base=base)
    result = compare_logits(ours, theirs, num_tokens=ids.shape[1])
    if not result.has_passed:
        is_plain = gguf_file is None and adapter is None
        culprits = describe_culprits(directory, checkpoint, rules=rules) if is_plain else ""
        if not culprits and result.relative_difference <= MAX_AMPLIFIED_DIFFERENCE:
            model = state.model_config()
            error = _measure_rounding(directory, ids, model=model, adapter=adapter, gguf_file=gguf_file, theirs=theirs)
            result = replace(result, rounding_error=error)
            if result.has_passed:
                return result
        if not culprits and not math.isfinite(result.relative_difference):
            culprits = "With these weights, logits are not finite in fp32, so nothing can be compared."
        if not culprits and is_plain:
            culprits = "All settings and weights are the same, but the two programs compute different logits."
        raise RunStopped(f"The models are not the same: {result}. {culprits}", exit_code=EXIT_STOPPED)
    return result


def gate_ids(model: ModelConfig, *, vocab_size: int, bos_id: int | None = None) -> torch.Tensor:
    """Return fixed random token ids, [NUM_ROWS, s] int64, s being longer than every window and the original context.

    Only then do windows and the scaling of low rotary frequencies show.

    Args:
        bos_id: first token of each row where the model has one: trained models let other tokens attend to the first,
            and without it, rounding grows to several times as much at a few positions.
    """
    length = MIN_LENGTH
    if model.window_size is not None:
        length = max(length, model.window_size + MIN_LENGTH // 4)
    if model.rope_scaling_factor is not None and model.rope_scaling_type != "linear":
        length = max(length, model.rope_original_max_position_embeddings + MIN_LENGTH // 4)
    generator = torch.Generator().manual_seed(_SEED)
    ids = torch.randint(0, vocab_size, (NUM_ROWS, min(length, model.num_positions)), generator=generator)
    if bos_id is not None and bos_id < vocab_size:
        ids[:, 0] = bos_id
    return ids


def compared_positions(length: int) -> torch.Tensor:
    """Return the positions of a row whose logits are compared, with the first and the last one."""
    return torch.linspace(0, length - 1, min(length, MAX_COMPARED_POSITIONS)).round().long()


def compare_logits(ours: torch.Tensor, theirs: torch.Tensor, *, num_tokens: int) -> GateResult:
    """Compare logits of the same tokens, both [b, positions, v] fp32."""
    difference, largest = float((ours - theirs).abs().max()), float(theirs.abs().max())
    return GateResult(
        relative_difference=difference / largest if largest else float("nan"),
        max_difference=difference,
        max_logit=largest,
        num_tokens=num_tokens,
    )


def _measure_rounding(
    directory: Path,
    ids: torch.Tensor,
    *,
    model: ModelConfig,
    gguf_file: str | None,
    adapter: Path | None,
    theirs: torch.Tensor,
) -> float | None:
    """Return the largest difference of transformers' fp32 from its own fp64, over the largest logit.

    Needs 8 bytes of memory per parameter. None where a part of the model does not compute in fp64.
    """
    try:
        exact = logits_of_transformers(
            directory, ids, model=model, gguf_file=gguf_file, adapter=adapter, dtype=torch.float64
        )
    except (ConfigError, RuntimeError, NotImplementedError, MemoryError) as error:
        _LOGGER.warning("The rounding error of transformers cannot be measured: %s", error)
        return None
    return float((theirs.double() - exact).abs().max() / exact.abs().max())


@torch.inference_mode()
def logits_of_transformers(
    directory: Path,
    ids: torch.Tensor,
    *,
    model: ModelConfig,
    gguf_file: str | None = None,
    adapter: Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Return what a model that transformers loads computes, at the compared positions: [b, positions, v] in `dtype`.

    Only local files are read, and no code of the model is run. Instead of logits these are the scores of a task's head
    (of classification one position, the document), or hidden states and, as a further position, what a pooler makes
    of them.

    Args:
        model: as it is in the checkpoint.
    Raises:
        ConfigError: transformers cannot load the files.
    """
    # Late: an optional dependency, and slow to import.
    import transformers  # noqa: PLC0415 - see above

    log = transformers.logging
    level, has_bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        # Its bars and notices are about loading, not about the result.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            options: dict[str, Any] = {"use_safetensors": True} if gguf_file is None else {"gguf_file": gguf_file}
            if dtype == torch.float64 and model.num_moe_experts is not None:
                options["experts_implementation"] = "eager"  # grouped products have no fp64
            try:
                theirs = getattr(transformers, _CLASSES[model.head]).from_pretrained(
                    directory, dtype=dtype, local_files_only=True, trust_remote_code=False, **options
                )
            except Exception as error:  # its checks raise whatever they meet
                raise ConfigError([_cannot_load(directory, error)]) from error
        if adapter is not None:
            import peft  # noqa: PLC0415 - see above

            theirs = peft.PeftModel.from_pretrained(theirs, str(adapter), local_files_only=True).to(dtype)
        theirs.eval()
        # Otherwise a class for decoders would look for the last token that is no padding among random ones.
        theirs.config.pad_token_id = None
        inputs: dict[str, Any] = {} if model.attention_mask == "bidirectional" else {"use_cache": False}
        if model.num_tokentypes > 1:
            inputs["token_type_ids"] = gate_token_types(ids.shape[1])
        positions = compared_positions(ids.shape[1])
        return torch.cat([_take_result(theirs(row[None], **inputs), model=model, positions=positions) for row in ids])
    finally:
        log.set_verbosity(level)
        if has_bar:
            log.enable_progress_bar()


def _cannot_load(directory: Path, error: Exception) -> Violation:
    said = " ".join(str(error).split()) or "no reason is given"
    return Violation(
        path=str(directory),
        value="",
        message=f"cannot be loaded by transformers: {type(error).__name__}: {said}",
        fix="Correct its files, or skip the proof with --gate off.",
    )


def _take_result(output: Any, *, model: ModelConfig, positions: torch.Tensor) -> torch.Tensor:
    """Return [1, positions, v] of what a model of transformers returns for one row."""
    result: torch.Tensor
    if model.head == "classification":
        result = output.logits[:, None]
    elif model.head == "question_answering":
        result = torch.stack([output.start_logits, output.end_logits], dim=-1)[:, positions]
    elif model.head == "none":
        result = output.last_hidden_state[:, positions]
        if model.pooler == "tanh":
            result = torch.cat([result, output.pooler_output[:, None]], dim=1)
    else:
        result = output.logits[:, positions]
    return result


def gate_token_types(length: int) -> torch.Tensor:
    """Return the token types that are compared: [1, length] int64, 0 in the first half and 1 in the second."""
    return (torch.arange(length) >= length // 2).long()[None]


def _native_dtypes(rules: Sequence[TensorRule], dtypes: Mapping[str, torch.dtype]) -> dict[str, torch.dtype]:
    """Return the data types of the tensors by native key; the parts of one have the same in all known models."""
    found: dict[str, torch.dtype] = {}
    for rule in rules:
        for segment in rule.segments:
            dtype = dtypes[segment.name]
            known = found.setdefault(rule.tensor.key, dtype)
            if known != dtype:
                _LOGGER.warning("%s is stored in several data types; the gate compares it in fp32.", rule.tensor.key)
                found[rule.tensor.key] = torch.float32
    return found


def _logits_of_checkpoint(
    checkpoint: Path,
    state: TrainerState,
    ids: torch.Tensor,
    *,
    rounded: Mapping[str, torch.dtype],
    base: Path | None = None,
) -> torch.Tensor:
    """Return the logits of a checkpoint in one process, fp32, at the compared positions: [b, positions, v]."""
    world = start_world(ParallelConfig(), timeout_seconds=600, seed=0)
    try:
        model = _build(state, world)
        load_weights(checkpoint, chunks=[model], base=base)
        for sharded in describe_parameters([model]):
            dtype = rounded[sharded.blocks[0].key]
            sharded.parameter.data.copy_(sharded.parameter.data.to(dtype))
        return logits_of_model(model, ids.to(world.device), vocab_size=state.vocab_size).cpu()
    finally:
        stop_world()


def _build(state: TrainerState, world: World) -> GPTModel:
    (model,) = wire_model(
        state.model_config(),
        parallel=ParallelConfig(),
        precision=PrecisionConfig(params_dtype="fp32"),
        padded_vocab_size=state.padded_vocab_size,
        vocab_size=state.vocab_size,
        world=world,
    )
    return model


@torch.inference_mode()
def logits_of_model(model: GPTModel, ids: torch.Tensor, *, vocab_size: int | None) -> torch.Tensor:
    """Return what this project's model computes in one process, [b, positions, v]; see `logits_of_transformers`."""
    model.eval()
    positions = compared_positions(ids.shape[1])
    places = torch.arange(ids.shape[1], device=ids.device)[None]
    types = gate_token_types(ids.shape[1]).to(ids.device) if _has_token_types(model) else None
    results = []
    for row in ids:
        output = model(row[None], places, None, token_types=types)
        if not isinstance(model.head, TaskHead):
            results.append(output[:, positions, :vocab_size].float())
        elif model.head.kind == "classification":
            results.append(output[:, :1])
        else:
            found = output[:, positions].float()
            pooled = model.head.pool_first(output)
            results.append(found if pooled is None else torch.cat([found, pooled[:, None].float()], dim=1))
    return torch.cat(results)


def _has_token_types(model: GPTModel) -> bool:
    table = model.embedding.tokentype_embeddings
    return table is not None and table.weight.shape[0] > 1
