"""Every ZeRO stage takes the same steps, holds its share of the state, and writes and reads the same checkpoints."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.checkpoint.fragments import layout_in, state_of
from tests.distributed.harness import run_distributed
from tests.engine.runs import (
    BF16,
    FP16,
    GPT2,
    GRAD_NORM_TOLERANCE,
    LOSS_TOLERANCE,
    TOLERANCES,
    Case,
    Trained,
    check_same_training,
    open_engine,
    take_step,
    take_steps,
    train_all,
)
from trainer.checkpoint.load import load_checkpoint
from trainer.checkpoint.save import save_checkpoint
from trainer.config.engine import DeepSpeedEngineConfig
from trainer.config.parallel import ParallelConfig


def zero(stage: int, *, offload: bool = False, overlap: bool = False) -> DeepSpeedEngineConfig:
    """Buckets of a layer or so, and at stage 3 no weight that stays gathered."""
    return DeepSpeedEngineConfig(
        zero_stage=stage,
        offload_optimizer="cpu" if offload else "none",
        overlap_comm=overlap,
        reduce_bucket_size=5000,
        param_persistence_threshold=0,
        prefetch_bucket_size=2000,
    )


RECOMPUTE = ParallelConfig(recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1)
# name -> case; the first word is compared with the same word and stage 1.
TWO = {
    "llama zero1": Case(optimizer="clipped"),
    "llama zero2 overlap": Case(optimizer="clipped", engine=zero(2, overlap=True)),
    "llama zero3 overlap": Case(optimizer="clipped", engine=zero(3, overlap=True)),
    "tied zero1": Case(model=GPT2),
    "tied zero1 offload": Case(model=GPT2, engine=zero(1, offload=True)),
    "tied zero2 offload": Case(model=GPT2, engine=zero(2, offload=True)),
    # Some weights stay gathered and some do not.
    "tied zero3 persistent": Case(model=GPT2, engine=replace(zero(3), param_persistence_threshold=100)),
    "tied zero3 recompute": Case(model=GPT2, parallel=RECOMPUTE, engine=zero(3)),
    "bf16 zero1": Case(precision=BF16),
    "bf16 zero2": Case(precision=BF16, engine=zero(2)),
    "bf16 zero3 offload": Case(precision=BF16, engine=zero(3, offload=True)),
    "fp16 zero1": Case(precision=FP16),
    "fp16 zero2": Case(precision=FP16, engine=zero(2)),
    "fp16 zero3": Case(precision=FP16, engine=zero(3)),
}
MEASURED = {"zero1": 1, "zero2": 2, "zero3": 3}
SAVED = Case(precision=BF16, engine=zero(3))
# Under which stage the checkpoint of which stage goes on.
RESUMED = {
    "zero3 by zero3": (3, 3),
    "zero1 by zero3": (1, 3),
    "zero2 by zero3": (2, 3),
    "zero3 by zero1": (3, 1),
}
IN_ONE_PROCESS = ["zero1 by zero3", "zero3 by zero1"]


@dataclass(frozen=True, kw_only=True)
class Held:
    """Bytes that one rank holds."""

    optimizer_state: int
    """fp32 weights and both moments."""
    weights: int
    """bf16 weights between two steps."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """What one rank saw of all runs of its world size."""

    trained: dict[str, Trained]
    held: dict[str, Held]
    losses_after_save: dict[int, list[float]]
    """By the stage that saved, of the run that went on."""
    losses_after_load: dict[str, list[float]]


def run_one(directory: Path) -> Account:
    loaded = resume_all(directory, IN_ONE_PROCESS)
    return Account(trained={}, held=measure_all(), losses_after_save={}, losses_after_load=loaded)


def run_two(directory: Path) -> Account:
    losses_after_save = {stage: save_and_go_on(directory / f"zero{stage}", stage=stage) for stage in (1, 3)}
    return Account(
        trained=train_all(TWO),
        held=measure_all(),
        losses_after_save=losses_after_save,
        losses_after_load=resume_all(directory, RESUMED),
    )


def measure_all() -> dict[str, Held]:
    return {name: measure(Case(precision=BF16, engine=zero(stage))) for name, stage in MEASURED.items()}


def measure(case: Case) -> Held:
    """Count whole storages after a step, each once: a small part may be a view of something large."""
    with open_engine(case) as (engine, chunks, world):
        take_step(engine, 0, case=case, world=world)
        states = [tensor for fragment in engine.optimizer_fragments() for tensor in fragment.states.values()]
        parameters = [parameter for chunk in chunks for parameter in chunk.parameters()]
        parts = [parameter.ds_tensor for parameter in parameters if hasattr(parameter, "ds_tensor")]
        return Held(optimizer_state=storage_bytes(states), weights=storage_bytes([*parameters, *parts]))


def storage_bytes(tensors: list[torch.Tensor] | list[nn.Parameter]) -> int:
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def save_and_go_on(directory: Path, *, stage: int) -> list[float]:
    """Two steps, a checkpoint, two more steps."""
    case = replace(SAVED, engine=zero(stage))
    with open_engine(case) as (engine, _, world):
        take_steps(engine, range(2), case=case, world=world)
        state = state_of(2, parallel=case.parallel, world_size=world.world_size, model=case.model)
        save_checkpoint(directory, fragments=engine.optimizer_fragments(), state=state, keep_last=1)
        return take_steps(engine, (2, 3), case=case, world=world)


def resume_all(directory: Path, names: Iterable[str]) -> dict[str, list[float]]:
    losses = {}
    for name in names:
        stage, saver = RESUMED[name]
        losses[name] = resume(directory / f"zero{saver}" / "checkpoints" / "step_00000002", stage=stage)
    return losses


def resume(path: Path, *, stage: int) -> list[float]:
    """Put a checkpoint in place of other weights, and take steps 2 and 3."""
    case = replace(SAVED, engine=zero(stage))
    with open_engine(case) as (engine, _, world):
        take_step(engine, 7, case=case, world=world)
        fragments = engine.optimizer_fragments()
        load_checkpoint(path, fragments=fragments, layout=layout_in(case.parallel, world_size=world.world_size))
        engine.restore(num_updates=2)
        return take_steps(engine, (2, 3), case=case, world=world)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zero")


@pytest.fixture(scope="module")
def two(directory: Path) -> list[Account]:
    return run_distributed(run_two, 2, directory, timeout_seconds=600)


@pytest.fixture(scope="module")
def one(two: list[Account], directory: Path) -> Account:
    """After `two`, whose checkpoints it reads."""
    return run_distributed(run_one, 1, directory, timeout_seconds=300)[0]


@pytest.mark.parametrize("name", [name for name in TWO if not name.endswith("zero1")])
def test_stages_take_the_same_steps(name: str, two: list[Account]) -> None:
    # In 16 bits each stage rounds gradients at another point; as wide as layouts may differ there.
    tolerances = TOLERANCES.get(name.split()[0], (LOSS_TOLERANCE, GRAD_NORM_TOLERANCE))
    reference = two[0].trained[f"{name.split()[0]} zero1"]
    check_same_training([account.trained[name] for account in two], reference, tolerances=tolerances)


@pytest.mark.parametrize("name", MEASURED)
def test_a_rank_holds_its_share(name: str, one: Account, two: list[Account]) -> None:
    alone = one.held[name]
    # Padding makes a whole of each part: at most a few elements of each of 40 or so parameters.
    slack = 0.02
    num_parameters = alone.weights / 2
    assert alone.optimizer_state == pytest.approx(12 * num_parameters, rel=slack)
    for account in two:
        held = account.held[name]
        assert held.optimizer_state == pytest.approx(alone.optimizer_state / 2, rel=slack)
        assert held.weights == pytest.approx(alone.weights / (2 if name == "zero3" else 1), rel=slack)


def test_a_checkpoint_goes_on_under_every_stage(one: Account, two: list[Account]) -> None:
    for name, (stage, saver) in RESUMED.items():
        expected = two[0].losses_after_save[saver]
        resumed = two[0].losses_after_load[name]
        if stage == saver:
            assert resumed == expected, f"{name}: the same layout, bit for bit"
        # bf16 weights are the rounded fp32 ones of the checkpoint: where they round alike, losses differ little.
        assert resumed == pytest.approx(expected, rel=3e-3), name
        if name in IN_ONE_PROCESS:
            assert one.losses_after_load[name] == pytest.approx(expected, rel=3e-3), f"{name} in one process"
