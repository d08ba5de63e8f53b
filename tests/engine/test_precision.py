"""16 bits train as fp32 does but for rounding; what is added up over steps and micro batches is fp32."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import pytest
import torch

from tests.distributed.harness import run_distributed
from tests.engine.runs import (
    BF16,
    FP16,
    MEGATRON,
    MEGATRON_PLAIN,
    PP2,
    TOLERANCES,
    TP2_SP,
    Case,
    Trained,
    check_same_training,
    open_engine,
    take_step,
    train_all,
)
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.engine.deepspeed import engine as deepspeed_engine
from trainer.engine.megatron import engine as megatron_engine

FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}
BF16_SUMS = Case(
    precision=PrecisionConfig(params_dtype="bf16", grad_accumulation_dtype="params_dtype"), engine=MEGATRON
)
# On two ranks.
RUNS = {
    "bf16 tp2": Case(parallel=TP2_SP, precision=BF16),
    "bf16 megatron dp2": Case(precision=BF16, engine=MEGATRON),
    "fp16 pp2": Case(parallel=PP2, precision=FP16),
    "fp16 megatron pp2": Case(parallel=PP2, precision=FP16, engine=MEGATRON),
}
PLAIN = Case(precision=BF16, engine=MEGATRON_PLAIN)


@dataclass(frozen=True, kw_only=True)
class Formats:
    """Number formats that one rank found during and after a step."""

    weights: set[torch.dtype]
    accumulated: set[torch.dtype]
    states: set[torch.dtype]
    is_finer_than_weights: bool
    """Accumulated gradients and master weights hold values that the weights' format cannot."""
    are_weights_rounded_masters: bool


def find_formats(case: Case) -> Formats:
    """Take a step and look; all ranks call this."""
    accumulated: list[torch.Tensor] = []
    module = {"deepspeed": deepspeed_engine, "megatron": megatron_engine}[case.engine.name]
    reduce = module.reduce_over_model_parallel

    def look(chunks: Sequence, *, gradient_of: Callable[..., torch.Tensor], **arguments: Any) -> None:
        accumulated.extend(gradient_of(p).clone() for chunk in chunks for p in chunk.parameters())
        reduce(chunks, gradient_of=gradient_of, **arguments)

    with (
        open_engine(case) as (engine, chunks, world),
        mock.patch.object(module, "reduce_over_model_parallel", look),
    ):
        take_step(engine, 0, case=case, world=world)
        fragments = engine.optimizer_fragments()
        masters = [fragment.states["param"] for fragment in fragments]
        weights = [
            fragment.sharded.parameter.detach().view(-1)[fragment.flat_start :][: fragment.num_elements]
            for fragment in fragments
        ]
        return Formats(
            weights={parameter.dtype for chunk in chunks for parameter in chunk.parameters()},
            accumulated={gradient.dtype for gradient in accumulated},
            states={tensor.dtype for fragment in fragments for tensor in fragment.states.values()},
            is_finer_than_weights=all(
                any(not torch.equal(t.to(weights[0].dtype).float(), t) for t in tensors)
                for tensors in (accumulated, masters)
            ),
            are_weights_rounded_masters=all(
                torch.equal(master.to(weight.dtype), weight) for master, weight in zip(masters, weights, strict=True)
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Account:
    """What one rank saw of all runs of its world size."""

    trained: dict[str, Trained]
    formats: dict[str, Formats]


def run_one() -> Account:
    alone = {name: replace(case, parallel=ParallelConfig()) for name, case in RUNS.items()}
    return Account(
        trained=train_all({"fp32": Case(), "sums": BF16_SUMS, **alone}), formats={"sums": find_formats(BF16_SUMS)}
    )


def run_two() -> Account:
    return Account(
        trained=train_all(RUNS),
        formats={name: find_formats(case) for name, case in {**RUNS, "bf16 megatron dp2 plain": PLAIN}.items()},
    )


@pytest.fixture(scope="module")
def one() -> Account:
    return run_distributed(run_one, 1)[0]


@pytest.fixture(scope="module")
def two() -> list[Account]:
    return run_distributed(run_two, 2)


@pytest.mark.parametrize("name", RUNS)
def test_a_layout_is_near_one_process_and_both_are_near_fp32(name: str, one: Account, two: list[Account]) -> None:
    alone, fp32 = one.trained[name], one.trained["fp32"]
    assert alone.losses != fp32.losses
    tolerances = TOLERANCES[name.split()[0]]
    check_same_training([rank.trained[name] for rank in two], alone, tolerances=tolerances)
    check_same_training([alone], fp32, tolerances=tolerances)


@pytest.mark.parametrize("name", [*RUNS, "bf16 megatron dp2 plain"])
def test_gradients_are_accumulated_and_weights_and_moments_kept_in_fp32(name: str, two: list[Account]) -> None:
    for account in two:
        formats = account.formats[name]
        assert formats.weights == {FORMATS[name.split()[0]]}
        assert formats.accumulated == {torch.float32}
        assert formats.states == {torch.float32}
        assert formats.is_finer_than_weights
        assert formats.are_weights_rounded_masters


def test_gradients_are_accumulated_in_the_weights_format_where_asked(one: Account) -> None:
    assert one.formats["sums"].accumulated == {torch.bfloat16}
    assert one.formats["sums"].states == {torch.float32}
    assert one.trained["sums"].losses != one.trained["bf16 megatron dp2"].losses
    check_same_training([one.trained["sums"]], one.trained["fp32"], tolerances=TOLERANCES["bf16"])
