"""Saved under any layout, loaded under any other: every element of every tensor is where it belongs, bit for bit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from tests.checkpoint.fragments import (
    assert_filled,
    build_chunks,
    flip_bit,
    fragments_of,
    layout_in,
    local_values,
    open_world,
    state_of,
)
from tests.distributed.harness import run_distributed
from trainer.checkpoint.collective import CheckpointError, Ranks
from trainer.checkpoint.dcp import HashingWriter
from trainer.checkpoint.directory import list_checkpoints
from trainer.checkpoint.discovery import choose_checkpoint
from trainer.checkpoint.load import load_checkpoint, load_weights
from trainer.checkpoint.save import save_checkpoint
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.engine.base import OptimizerFragment
from trainer.model.sharding import describe_parameters
from trireme.errors import ConfigError, Violation


def _layout(tp: int = 1, pp: int = 1, vp: int | None = None, cp: int = 1) -> ParallelConfig:
    return ParallelConfig(
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        virtual_pipeline_model_parallel_size=vp,
        context_parallel_size=cp,
        sequence_parallel=tp > 1,
    )


FOUR_RANKS = {
    "tp2pp2": _layout(tp=2, pp=2),
    "pp4": _layout(pp=4),
    "pp2vp2dp2": _layout(pp=2, vp=2),
    "tp4": _layout(tp=4),
    "dp4": _layout(),
    "cp2tp2": _layout(cp=2, tp=2),
}


def _save_under(name: str, directory: Path, parallel: ParallelConfig) -> None:
    size = distributed.get_world_size()
    with open_world(parallel) as world:
        fragments = fragments_of(parallel, world, fill=True)
        state = state_of(1, parallel=parallel, world_size=size)
        save_checkpoint(directory / name, fragments=fragments, state=state, keep_last=1)


def _check_loading(directory: Path, parallel: ParallelConfig, names: Sequence[str]) -> None:
    """Load the checkpoints of these runs under one layout, with the optimizer and as bf16 weights alone."""
    with open_world(parallel) as world:
        layout = layout_in(parallel, world_size=world.world_size)
        fragments = fragments_of(parallel, world, fill=False)
        chunks = build_chunks(parallel, world, precision=PrecisionConfig(params_dtype="bf16"), seed=7)
        expected = [(sharded, local_values("param", sharded).bfloat16()) for sharded in describe_parameters(chunks)]
        for name in names:
            _erase(fragments, chunks)
            path = choose_checkpoint(str(directory / name), run_directory=directory / "new", verify=True)
            assert path is not None
            load_checkpoint(path, fragments=fragments, layout=layout)
            assert_filled(fragments)
            load_weights(path, chunks=chunks)
            for sharded, values in expected:
                assert torch.equal(sharded.parameter.view(-1), values), (name, sharded.name)


@torch.no_grad()
def _erase(fragments: list[OptimizerFragment], chunks: list[nn.Module]) -> None:
    for fragment in fragments:
        for values in fragment.states.values():
            values.fill_(math.nan)
    for chunk in chunks:
        for parameter in chunk.parameters():
            parameter.fill_(math.nan)


def _save_and_load(directory: Path, saved: dict[str, list[str]]) -> None:
    """Save under each layout, and load under each the runs that it is to load."""
    for name, parallel in FOUR_RANKS.items():
        _save_under(name, directory, parallel)
    for name, parallel in FOUR_RANKS.items():
        _check_loading(directory, parallel, saved[name])


def _check_all(directory: Path, saved: dict[str, list[str]]) -> None:
    _save_one_process(directory, step=1)
    run_distributed(_save_and_load, 4, directory, saved)
    _check_loading(directory, _layout(), ["one", *FOUR_RANKS])


def test_every_layout_saves_and_loads(tmp_path: Path) -> None:
    """Loading compares with the whole tensors: what one process reads right is right, whoever reads it."""
    names = list(FOUR_RANKS)
    _check_all(tmp_path, {name: ["one", names[number - 1]] for number, name in enumerate(names)})


@pytest.mark.long
def test_every_layout_loads_what_every_layout_saved(tmp_path: Path) -> None:
    _check_all(tmp_path, {name: ["one", *FOUR_RANKS] for name in FOUR_RANKS})


def _save_one_process(directory: Path, *, step: int) -> Path:
    with open_world(_layout()) as world:
        fragments = fragments_of(_layout(), world, fill=True)
        return save_checkpoint(directory / "one", fragments=fragments, state=state_of(step), keep_last=0)


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """What one of two ranks saw; one start of processes serves several tests."""

    file_sizes: dict[str, int]
    failed_saves: dict[str, str]
    agreement: list[str]
    has_own_random_states: bool
    has_new_random_states: bool
    chosen: Path | None


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[_Answers]:
    directory = tmp_path_factory.mktemp("two_ranks")
    _save_one_process(directory, step=1)
    damaged = _save_one_process(directory, step=2) / "__0_0.distcp"
    flip_bit(damaged, position=damaged.stat().st_size // 2)
    return run_distributed(_answer, 2, directory)


def _answer(directory: Path) -> _Answers:
    _save_under("run", directory, _layout(tp=2))
    path = directory / "run" / "checkpoints" / "step_00000001"
    has_own, has_new = _resume_random_states(directory)
    return _Answers(
        file_sizes={file.name: file.stat().st_size for file in path.iterdir()},
        failed_saves={where: _fail_to_save(directory / "run", where) for where in FAILURES},
        agreement=_agree(),
        has_own_random_states=has_own,
        has_new_random_states=has_new,
        chosen=choose_checkpoint("auto", run_directory=directory / "one", verify=True),
    )


def test_each_rank_writes_its_part_and_replicas_are_written_once(answers: list[_Answers], tmp_path: Path) -> None:
    sizes = answers[0].file_sizes
    path = _save_one_process(tmp_path, step=1)
    whole = (path / "__0_0.distcp").stat().st_size
    # Norms are replicated over tensor parallelism; headers and the second rank's random states are all that is added.
    assert whole < sizes["__0_0.distcp"] + sizes["__1_0.distcp"] < 1.5 * whole


FAILURES = ("write_data", "prepare_local_plan", "fragments")


def _fail_to_save(run: Path, where: str) -> str:
    """Save once more, with rank 1 failing."""
    older = list_checkpoints(run)
    with pytest.MonkeyPatch.context() as patch, open_world(_layout()) as world:
        fragments = fragments_of(_layout(), world, fill=True)
        if world.rank == 1 and where == "fragments":
            fragments[0].states.clear()
        elif world.rank == 1:
            patch.setattr(HashingWriter, where, _no_space)
        with pytest.raises(CheckpointError) as error:
            save_checkpoint(run, fragments=fragments, state=state_of(2, world_size=2), keep_last=1)
        distributed.barrier()
        assert list(run.joinpath("checkpoints").iterdir()) == older, "nothing new, nothing lost"
    return str(error.value)


def _no_space(*args: object, **kwargs: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("where", FAILURES)
def test_a_rank_that_cannot_save_is_named_on_all_ranks_and_leaves_nothing(answers: list[_Answers], where: str) -> None:
    first, second = (answer.failed_saves[where] for answer in answers)
    assert first == second
    assert first.startswith("Error while saving the checkpoint of step 2: rank 1: ")
    assert "rank 0" not in first
    assert "No space left on device" in first or where == "fragments"


def _agree() -> list[str]:
    ranks = Ranks()
    messages = []

    def complain() -> int:
        if ranks.rank == 1:
            raise ConfigError([Violation(path="a", value=1, message="is odd", fix="use 2")])
        return ranks.rank

    def explode() -> int:
        raise ValueError("on the coordinator only")

    assert ranks.run_on_all_ranks(lambda: 10 * ranks.rank, doing="counting") == [0, 10]
    assert ranks.run_on_rank0(lambda: ranks.rank, doing="asking") == 0
    for call in (
        lambda: ranks.run_on_all_ranks(complain, doing="counting"),
        lambda: ranks.run_on_rank0(explode, doing="asking"),
    ):
        try:
            call()
        except (ConfigError, CheckpointError) as error:
            messages.append(str(error))
    return messages


def test_an_error_of_one_is_the_error_of_all(answers: list[_Answers]) -> None:
    assert answers[0].agreement == answers[1].agreement
    assert answers[0].agreement == [
        "a: is odd (got 1). Use 2",
        "Error while asking: rank 0: ValueError: on the coordinator only",
    ]


def _resume_random_states(directory: Path) -> tuple[bool, bool]:
    """Whether each rank's own states come back under one layout, and are new (and always the same) under another."""
    one, other = _layout(tp=2), _layout(pp=2)
    with open_world(one) as world:
        torch.manual_seed(100 + world.rank)
        fragments = fragments_of(one, world, fill=True)
        state = state_of(1, parallel=one, world_size=2)
        path = save_checkpoint(directory / "random", fragments=fragments, state=state, keep_last=1)
        expected = torch.rand(4)
        torch.manual_seed(0)
        load_checkpoint(path, fragments=fragments, layout=layout_in(one, world_size=2))
        has_own = torch.equal(torch.rand(4), expected)
    with open_world(other) as world:
        fragments, layout = fragments_of(other, world, fill=False), layout_in(other, world_size=2)
        draws = []
        for _ in range(2):
            load_checkpoint(path, fragments=fragments, layout=layout)
            draws.append(torch.rand(4))
    return has_own, torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], expected)


def test_every_rank_has_random_states_of_its_own(answers: list[_Answers]) -> None:
    assert all(answer.has_own_random_states for answer in answers)
    assert all(answer.has_new_random_states for answer in answers)


def test_ranks_share_the_verification_and_agree(answers: list[_Answers]) -> None:
    first, second = (answer.chosen for answer in answers)
    assert first == second
    assert first is not None and first.name == "step_00000001"
