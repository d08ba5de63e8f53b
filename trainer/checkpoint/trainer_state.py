"""Read and write the state of a run besides its weights and random states: `trainer_state.json`."""

import dataclasses
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from trainer.checkpoint.manifest import FileRecord, write_durably
from trainer.config.model import ModelConfig
from trainer.config.parallel import ParallelConfig
from trireme.errors import ConfigError, Violation
from trireme.progress import format_number
from trireme.records import LossScaleState

STATE_NAME = "trainer_state.json"
ORIGIN_NAME = "huggingface.json"
"""File of checkpoints whose weights go back to an imported model; see `trainer.huggingface.record`."""
_LIBRARIES = ("trireme", "torch", "megatron-core", "deepspeed", "numpy")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Hold the parallel layout of a run; only random states depend on it: they fit an equal layout only."""

    world_size: int
    data_parallel_size: int
    tensor_model_parallel_size: int
    pipeline_model_parallel_size: int
    virtual_pipeline_model_parallel_size: int | None
    context_parallel_size: int
    expert_model_parallel_size: int
    sequence_parallel: bool
    engine: str
    device_type: str

    def __str__(self) -> str:
        """Describe the layout, for messages."""
        sizes = {
            "tensor": self.tensor_model_parallel_size,
            "pipeline": self.pipeline_model_parallel_size,
            "virtual pipeline": self.virtual_pipeline_model_parallel_size or 1,
            "context": self.context_parallel_size,
            "expert": self.expert_model_parallel_size,
            "data": self.data_parallel_size,
        }
        degrees = ", ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
        processes = format_number(self.world_size, "process")
        return f"{processes}{f' ({degrees})' if degrees else ''}, engine {self.engine}, {self.device_type}"

    def has_random_streams_of(self, other: "Layout") -> bool:
        """Return whether each rank has the random streams of the same rank of `other`; engines share them."""
        return dataclasses.replace(self, engine=other.engine) == other


def layout_of(parallel: ParallelConfig, *, world_size: int, engine: str, device_type: str) -> Layout:
    """Build the layout of a configuration."""
    return Layout(
        world_size=world_size,
        data_parallel_size=world_size // parallel.model_parallel_size,
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline_model_parallel_size,
        context_parallel_size=parallel.context_parallel_size,
        expert_model_parallel_size=parallel.expert_model_parallel_size,
        sequence_parallel=parallel.sequence_parallel,
        engine=engine,
        device_type=device_type,
    )


def library_versions(*further: str) -> dict[str, str]:
    """Return the versions of Python, of the libraries that compute, and of further distributions that are installed."""
    versions = {"python": platform.python_version()}
    for name in (*_LIBRARIES, *further):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a source tree, or without an optional part
            continue
    return versions


@dataclass(frozen=True, kw_only=True)
class BestValidation:
    """Hold the best validation of a run so far."""

    step: int
    value: float
    """Its loss, or its score times -1: less is better."""
    num_since: int = 0
    """Validations since then."""
    basis: str | None = None
    """See `TrainProgress.validation_basis`."""


def update_best(
    best: BestValidation | None, *, step: int, loss: float | None, score: float | None, basis: str | None = None
) -> BestValidation | None:
    """Return the best validation after one more; an earlier one stays the best where they are equal.

    Args:
        loss: None if it was not finite: the validation counts as worse.
        score: compared instead of the loss, if there is one; more is better.
        basis: see `TrainProgress.validation_basis`; a best validation on another one is forgotten.
    """
    if best is not None and not is_same_basis(best.basis, basis):
        best = None
    value = loss if score is None else -score
    if loss is None or value is None:
        return best and replace(best, num_since=best.num_since + 1)
    if best is None or value < best.value:
        return BestValidation(step=step, value=value, basis=basis)
    return replace(best, num_since=best.num_since + 1)


def name_basis(metric: str, digest: str) -> str:
    """Return the basis of validations by a metric, on the windows of a digest."""
    return f"{metric} of {digest}"


def metric_of(basis: str) -> str:
    """Return the metric of a basis."""
    return basis.partition(" of ")[0]


def is_same_basis(first: str | None, second: str | None) -> bool:
    """Return whether two validations can be compared; checkpoints of older versions do not say on what they are."""
    return first is None or second is None or first == second


@dataclass(kw_only=True)
class TrainProgress:
    """Hold the progress of a run."""

    step: int = 0
    """Optimizer steps taken, skipped ones included."""
    consumed_samples: int = 0
    consumed_tokens: int = 0
    validation_loss: float | None = None
    """Of the last validation at or before `step`; None before the first one, if it was not finite, or if one is due."""
    validation_score: float | None = None
    """Of the last validation, where finetune.metric is a score, of which more is better; None where it is the loss."""
    validation_basis: str | None = None
    """What validations must share to be compared: the metric, and a digest of their windows or rows."""
    best_validation: BestValidation | None = None
    """None before the first validation with a finite loss."""
    is_validation_due: bool = False
    """Whether `step` has yet to be validated: steps are saved before that."""
    is_evaluation_due: bool = False
    """The same for the evaluation suite."""
    judgement: Mapping[str, Any] | None = None
    """History of `trainer.loop.spikes.SpikeDetector` as a record; None before the first step. The name is that of the
    checkpoint's field."""

    def go_to(self, other: "TrainProgress") -> None:
        """Copy all fields from another progress."""
        for entry in dataclasses.fields(self):
            setattr(self, entry.name, getattr(other, entry.name))


@dataclass(frozen=True, kw_only=True)
class ForkedFrom:
    """Hold the checkpoint of another run that a run was forked from."""

    run_name: str
    step: int
    checkpoint: str
    """Absolute path."""


@dataclass(frozen=True, kw_only=True)
class TokenizerRecord:
    """Hold the identity of the saved model's tokenizer."""

    sha256: str
    """Hex digest of its file, as shard manifests record it."""
    vocab_size: int
    """Its largest token id plus one."""
    file: str
    """Name of its copy in the checkpoint."""


@dataclass(frozen=True, kw_only=True)
class BaseRecord:
    """Hold the identity of the checkpoint with the frozen weights beneath adapters."""

    checkpoint: str
    """Absolute path."""
    relative: str
    """The same, relative to the run directory of the adapters."""
    sha256: str
    """See `trainer.checkpoint.adapter_base.fingerprint`."""


@dataclass(frozen=True, kw_only=True)
class TrainerState:
    """Hold the state of a run after `step` optimizer steps, without the learning rate, which is a function of the step.

    The field names are those of trainer_state.json.
    """

    run_name: str
    step: int
    """Optimizer steps taken, skipped ones included."""
    num_updates: int
    """Updates that reached the weights: Adam's step count."""
    consumed_samples: int
    """Number of consumed samples of the global order; the next step starts there under any layout."""
    consumed_tokens: int
    seed: int
    layout: Layout
    """The layout of the save; a run with any other layout can load it."""
    model: Mapping[str, Any]
    """Every field of ModelConfig."""
    padded_vocab_size: int
    """Rows of the embedding."""
    mixture: Mapping[str, Any] | None = None
    """`trainer.data.mixture.Mixture` as a record: the data sets of the samples so far; None if it is not known."""
    loss_scale: LossScaleState | None = None
    """Of fp16 training; None for other data types."""
    validation_loss: float | None = None
    """Of the last validation at or before `step`; see `TrainProgress`. A later validation is added to the manifest."""
    validation_score: float | None = None
    """See `TrainProgress`; also added to the manifest later."""
    validation_basis: str | None = None
    """See `TrainProgress`; also added to the manifest later."""
    best_validation: BestValidation | None = None
    """See `TrainProgress`."""
    is_validation_due: bool = False
    """See `TrainProgress`."""
    is_evaluation_due: bool = False
    """See `TrainProgress`; `Manifest.is_evaluated` is noted later."""
    judgement: Mapping[str, Any] | None = None
    """See `TrainProgress`."""
    left_out_samples: Sequence[Sequence[int]] = ()
    """Ranges (first, end) of skipped samples, consumed or to come, see `trainer.data.sample_ranges`."""
    forked_from: tuple[ForkedFrom, ...] = ()
    """The runs that this one's state comes from, the oldest first; empty for a run that was not forked."""
    tokenizer: TokenizerRecord | None = None
    """None for a run without a tokenizer, and in checkpoints of older versions."""
    contents: Literal["training", "weights"] = "training"
    """weights: an import, without optimizer state; a run starts from it with `pretrained_checkpoint`."""
    lora: Mapping[str, Any] | None = None
    """Settings of the adapters, which are then all that the checkpoint holds, with a task head and the optimizer's
    state of both; None for a checkpoint of all weights."""
    base: BaseRecord | None = None
    """The checkpoint with all other weights, for adapters."""
    pretrained_checkpoint: str | None = None
    """Absolute path of the checkpoint whose weights the run started from; None for weights of its own."""
    versions: Mapping[str, str] = field(default_factory=library_versions)

    @property
    def progress(self) -> TrainProgress:
        """The progress of a run that resumes from this state."""
        return TrainProgress(
            step=self.step,
            consumed_samples=self.consumed_samples,
            consumed_tokens=self.consumed_tokens,
            validation_loss=self.validation_loss,
            validation_score=self.validation_score,
            validation_basis=self.validation_basis,
            best_validation=self.best_validation,
            is_validation_due=self.is_validation_due,
            is_evaluation_due=self.is_evaluation_due,
            judgement=self.judgement,
        )

    @property
    def vocab_size(self) -> int | None:
        """Tokens in the vocabulary, without padding; None if it was the tokenizer's and the tokenizer is unknown."""
        configured = self.model_config().vocab_size
        return self.tokenizer.vocab_size if configured is None and self.tokenizer is not None else configured

    def fork(self, checkpoint: Path) -> tuple[ForkedFrom, ...]:
        """Return the lineage of another run that starts from this state, loaded from `checkpoint`."""
        point = ForkedFrom(run_name=self.run_name, step=self.step, checkpoint=str(checkpoint.resolve()))
        return (*self.forked_from, point)

    def model_config(self) -> ModelConfig:
        """Build the configuration of the saved model, for commands that take it from a checkpoint."""
        known = {entry.name for entry in dataclasses.fields(ModelConfig)}
        return ModelConfig(**{name: value for name, value in self.model.items() if name in known})


def build_state(
    model: ModelConfig,
    *,
    padded_vocab_size: int,
    layout: Layout,
    run_name: str,
    progress: TrainProgress,
    num_updates: int,
    seed: int,
    mixture: Mapping[str, Any] | None = None,
    loss_scale: LossScaleState | None = None,
    forked_from: tuple[ForkedFrom, ...] = (),
    left_out_samples: Sequence[Sequence[int]] = (),
    tokenizer: TokenizerRecord | None = None,
    pretrained_checkpoint: str | None = None,
    lora: Mapping[str, Any] | None = None,
    base: BaseRecord | None = None,
) -> TrainerState:
    """Build the state of a run for a save."""
    return TrainerState(
        run_name=run_name,
        **{entry.name: getattr(progress, entry.name) for entry in dataclasses.fields(progress)},
        num_updates=num_updates,
        seed=seed,
        layout=layout,
        model=asdict(model),
        padded_vocab_size=padded_vocab_size,
        mixture=mixture,
        loss_scale=loss_scale,
        forked_from=forked_from,
        left_out_samples=left_out_samples,
        tokenizer=tokenizer,
        pretrained_checkpoint=pretrained_checkpoint,
        lora=lora,
        base=base,
    )


def write_state(directory: Path, state: TrainerState) -> FileRecord:
    """Write the state's file."""
    return write_durably(directory / STATE_NAME, json.dumps(asdict(state), indent=1) + "\n")


def read_state(directory: Path) -> TrainerState:
    """Read a checkpoint's state.

    Raises:
        ConfigError: it is missing or damaged.
    """
    path = directory / STATE_NAME
    try:
        content = json.loads(path.read_bytes())
        loss_scale = LossScaleState(**content["loss_scale"]) if content.get("loss_scale") else None
        changes = {
            "layout": Layout(**content["layout"]),
            "loss_scale": loss_scale,
            "best_validation": BestValidation(**best) if (best := content.get("best_validation")) else None,
            "forked_from": tuple(ForkedFrom(**point) for point in content.get("forked_from", ())),
            "tokenizer": TokenizerRecord(**content["tokenizer"]) if content.get("tokenizer") else None,
            "base": BaseRecord(**content["base"]) if content.get("base") else None,
            "left_out_samples": tuple(tuple(limits) for limits in content.get("left_out_samples", ())),
        }
        state = TrainerState(**{**content, **changes})
        state.model_config()
        return state
    except (OSError, ValueError, TypeError, KeyError) as error:
        message = f"is missing or damaged: {error}"
        fix = "Use another checkpoint, or restore this one from a copy."
        raise ConfigError([Violation(path=str(path), value="", message=message, fix=fix)]) from error
