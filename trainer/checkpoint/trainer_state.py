"""What a checkpoint says about the run besides weights: `trainer_state.json` and random states."""

import dataclasses
import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from trainer.checkpoint.manifest import FileRecord, write_durably
from trainer.config.model import ModelConfig
from trainer.config.parallel import ParallelConfig
from trainer.parallel.world import seed_dropout
from trireme.errors import ConfigError, Violation
from trireme.progress import format_number
from trireme.records import LossScaleState

_TRACKER = "tracker."


def collect_random_states() -> dict[str, torch.Tensor]:
    """Copy the states of torch's generators and of Megatron-Core's tensor-parallel tracker: name -> uint8 [n]."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    for name, state in get_cuda_rng_tracker().get_states().items():
        states[_TRACKER + name] = state
    return {name: state.detach().clone() for name, state in states.items()}


def restore_random_states(states: dict[str, torch.Tensor]) -> None:
    """Put collected states back."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
    tracked = {name.removeprefix(_TRACKER): state for name, state in states.items() if name.startswith(_TRACKER)}
    get_cuda_rng_tracker().set_states(tracked)


def reseed(*, seed: int, step: int) -> None:
    """Start new streams that depend on the seed and the step, for a layout that has no saved ones.

    A run that changes its layout at step N draws the same numbers each time it is resumed there.
    """
    digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=4).digest()
    derived = int.from_bytes(digest, "little") >> 2  # Megatron-Core adds offsets to it, and numpy wants 32 bits
    seed_dropout(derived)


STATE_NAME = "trainer_state.json"
_LIBRARIES = ("trireme", "torch", "megatron-core", "deepspeed", "numpy")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a run was laid over processes. Information, but for one use: random states fit an equal layout only."""

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
        """In words, for messages."""
        sizes = {
            "tensor": self.tensor_model_parallel_size,
            "pipeline": self.pipeline_model_parallel_size,
            "virtual pipeline": self.virtual_pipeline_model_parallel_size or 1,
            "context": self.context_parallel_size,
            "expert": self.expert_model_parallel_size,
            "data": self.data_parallel_size,
        }
        cut = ", ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
        processes = format_number(self.world_size, "process")
        return f"{processes}{f' ({cut})' if cut else ''}, engine {self.engine}, {self.device_type}"

    def has_random_streams_of(self, other: "Layout") -> bool:
        """Whether each rank draws from the streams that the same rank of `other` draws from; engines share them."""
        return dataclasses.replace(self, engine=other.engine) == other


def layout_of(parallel: ParallelConfig, *, world_size: int, engine: str, device_type: str) -> Layout:
    """Describe a configured layout."""
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
    """Versions of Python, of what computed the tensors, and of further distributions; what is not there is left out."""
    versions = {"python": platform.python_version()}
    for name in (*_LIBRARIES, *further):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a source tree, or without an optional part
            continue
    return versions


@dataclass(kw_only=True)
class TrainProgress:
    """Where the run stands."""

    step: int = 0
    """Optimizer steps taken, skipped ones included."""
    consumed_samples: int = 0
    consumed_tokens: int = 0
    validation_loss: float | None = None
    """Of the last validation at or before `step`; None before the first one, where it was not finite, or is due."""
    is_validation_due: bool = False
    """Whether the validation of `step` is still to come: steps are saved before that."""
    judgement: Mapping[str, Any] | None = None
    """`trainer.loop.spikes.Judge` as a record: the steps that the next ones are judged by; None before the first."""

    def go_to(self, other: "TrainProgress") -> None:
        """Stand where another one does."""
        for entry in dataclasses.fields(self):
            setattr(self, entry.name, getattr(other, entry.name))


@dataclass(frozen=True, kw_only=True)
class ForkedFrom:
    """Where a run took over the state of another one."""

    run_name: str
    step: int
    checkpoint: str
    """Absolute path that it was loaded from."""


@dataclass(frozen=True, kw_only=True)
class TokenizerRecord:
    """The tokenizer that the saved model's token ids are of."""

    sha256: str
    """Hex digest of its file, as shard manifests record it."""
    vocab_size: int
    """Number of its token ids: the largest and one more."""
    file: str
    """Name of its copy in the checkpoint."""


@dataclass(frozen=True, kw_only=True)
class TrainerState:
    """Where a run stands after `step` optimizer steps. The learning rate is a function of the step: it is not here."""

    run_name: str
    step: int
    """Optimizer steps taken, skipped ones included."""
    num_updates: int
    """Updates that reached the weights: Adam's step count."""
    consumed_samples: int
    """Samples of the global order that are behind; the next step starts here under any layout."""
    consumed_tokens: int
    seed: int
    layout: Layout
    """The layout that saved; any other may load."""
    model: Mapping[str, Any]
    """Every field of ModelConfig."""
    padded_vocab_size: int
    """Rows of the embedding."""
    mixture: Mapping[str, Any] | None = None
    """`trainer.data.mixture.Mixture` as a record: what the samples so far were drawn from; None where none is known."""
    loss_scale: LossScaleState | None = None
    """Of fp16 training; None for other number formats."""
    validation_loss: float | None = None
    """Of the last validation at or before `step`; see `TrainProgress`. Of these weights the manifest knows it later."""
    is_validation_due: bool = False
    """See `TrainProgress`."""
    judgement: Mapping[str, Any] | None = None
    """See `TrainProgress`."""
    left_out_samples: Sequence[Sequence[int]] = ()
    """Ranges (first, end) of samples that no step reads, see `trainer.data.sample_ranges`; behind as well as ahead."""
    forked_from: tuple[ForkedFrom, ...] = ()
    """The runs that this one's state comes from, the oldest first; empty for a run that began by itself."""
    tokenizer: TokenizerRecord | None = None
    """None where the run was given none, and in checkpoints that older versions wrote."""
    versions: Mapping[str, str] = field(default_factory=library_versions)

    @property
    def progress(self) -> TrainProgress:
        """Where a run that loads this goes on."""
        return TrainProgress(
            step=self.step,
            consumed_samples=self.consumed_samples,
            consumed_tokens=self.consumed_tokens,
            validation_loss=self.validation_loss,
            is_validation_due=self.is_validation_due,
            judgement=self.judgement,
        )

    @property
    def vocab_size(self) -> int | None:
        """Tokens in the vocabulary, without padding; None where only a tokenizer knows that is not recorded here."""
        configured = self.model_config().vocab_size
        return self.tokenizer.vocab_size if configured is None and self.tokenizer is not None else configured

    def fork(self, checkpoint: Path) -> tuple[ForkedFrom, ...]:
        """Describe the lineage of another run that starts from this state, loaded from `checkpoint`."""
        point = ForkedFrom(run_name=self.run_name, step=self.step, checkpoint=str(checkpoint.resolve()))
        return (*self.forked_from, point)

    def model_config(self) -> ModelConfig:
        """Rebuild the configuration of the saved model, for commands that take it from a checkpoint."""
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
) -> TrainerState:
    """Describe a run for a save."""
    return TrainerState(
        run_name=run_name,
        **asdict(progress),
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
            "forked_from": tuple(ForkedFrom(**point) for point in content.get("forked_from", ())),
            "tokenizer": TokenizerRecord(**content["tokenizer"]) if content.get("tokenizer") else None,
            "left_out_samples": tuple(tuple(limits) for limits in content.get("left_out_samples", ())),
        }
        state = TrainerState(**{**content, **changes})
        state.model_config()
        return state
    except (OSError, ValueError, TypeError, KeyError) as error:
        rule = f"cannot be read: {error}"
        fix = "use another checkpoint, or restore this one from a copy"
        raise ConfigError([Violation(path=str(path), value="damaged", message=rule, fix=fix)]) from error
