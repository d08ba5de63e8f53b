"""One GPU trains as one CPU process does, and several over NCCL as one.

A GPU adds up in another order, takes other approximations of exp and its kin, and its norms, SwiGLU, rotary embedding
and cross entropy are kernels of torch.compile. Each is an error of a few units in the last place, so bounds are ten
times those that layouts have on a CPU, where only the order differs (tests/engine/test_parity.py).
"""

from dataclasses import replace

import pytest

from tests.distributed.harness import run_distributed
from tests.engine import test_moe, test_parity
from tests.engine.runs import (
    DOCUMENTS,
    EP2,
    GPT2,
    GRAD_NORM_TOLERANCE,
    LLAMA,
    LOSS_TOLERANCE,
    MEGATRON,
    MEGATRON_PLAIN,
    PP2,
    SPARSE,
    TOLERANCES,
    TP2_SP,
    Case,
    largest_difference,
    train,
)
from tests.gpu.devices import needs_gpus, run_on_gpus
from trainer.config.engine import DeepSpeedEngineConfig
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.engine.base import StepResult

pytestmark = [pytest.mark.gpu, needs_gpus(1)]

Results = dict[str, list[StepResult]]
NUM_STEPS = 10
FP32 = {
    "llama": Case(),
    "llama eager": Case(model=replace(LLAMA, torch_compile="never")),
    "gpt2": Case(model=GPT2),
    "megatron llama": Case(engine=MEGATRON),
    "deepspeed zero3 offload": Case(engine=DeepSpeedEngineConfig(zero_stage=3, offload_optimizer="cpu")),
    "experts": Case(model=SPARSE, engine=MEGATRON),
    "recomputed": Case(
        parallel=ParallelConfig(recompute_granularity="selective", recompute_modules=["core_attn", "layernorm", "mlp"]),
        engine=MEGATRON,
    ),
}
SIXTEEN_BITS = {
    f"{engine.name} {precision}": Case(engine=engine, precision=PrecisionConfig(params_dtype=precision))
    for engine in (DeepSpeedEngineConfig(), MEGATRON)
    for precision in ("bf16", "fp16")
}
# Heads of 16 channels, the fewest that FlexAttention takes.
OF_DOCUMENTS = {
    name: Case(model=replace(model, hidden_size=16 * model.num_attention_heads), documents=DOCUMENTS)
    for name, model in (("llama", LLAMA), ("gpt2", GPT2))
}
# Of two processes, with the name of the same run in one.
TWO = {
    **{name: test_parity.TWO[name] for name in ("tp2 sp", "megatron pp2 vp2", "dp2")},
    "megatron tp2 sp gpt2": ("gpt2", Case(parallel=TP2_SP, model=GPT2, engine=MEGATRON)),
    "megatron pp2 tied gpt2": (
        "gpt2 clipped",
        Case(parallel=PP2, model=GPT2, optimizer="clipped", engine=MEGATRON_PLAIN),
    ),
}
EXPERTS = {
    **{name: test_moe.LAYOUTS[name] for name in ("ep2", "ep2 gather plain", "pp2 vp2")},
    "tp2": ("sparse", Case(model=SPARSE, parallel=TP2_SP, engine=MEGATRON)),
}
CUT_EXPERTS = {
    "ep2 cut experts": Case(model=SPARSE, parallel=replace(EP2, expert_tensor_parallel_size=2), engine=MEGATRON),
    "tp2 ep2 cut experts": Case(model=SPARSE, parallel=replace(TP2_SP, expert_model_parallel_size=2), engine=MEGATRON),
    "ep4": Case(model=SPARSE, parallel=ParallelConfig(expert_model_parallel_size=4), engine=MEGATRON),
}


def results_of(runs: dict[str, Case]) -> Results:
    return {name: train(replace(case, num_steps=NUM_STEPS)).results for name, case in runs.items()}


def check(results: list[StepResult], expected: list[StepResult], *, factor: float = 10.0) -> None:
    loss = largest_difference([r.loss for r in results], [r.loss for r in expected])
    grad_norm = largest_difference([r.grad_norm for r in results], [r.grad_norm for r in expected])
    print(f"loss {loss:.1e}, grad norm {grad_norm:.1e}")
    assert loss <= factor * LOSS_TOLERANCE
    assert grad_norm <= factor * GRAD_NORM_TOLERANCE


@pytest.fixture(scope="module")
def on_cpu() -> Results:
    return run_distributed(results_of, 1, FP32, timeout_seconds=400)[0]


@pytest.fixture(scope="module")
def on_gpu() -> Results:
    return run_on_gpus(results_of, 1, FP32 | SIXTEEN_BITS)[0]


@pytest.mark.parametrize("name", FP32)
def test_fp32_is_the_cpus(name: str, on_cpu: Results, on_gpu: Results) -> None:
    assert on_gpu[name] != on_cpu[name], "both ran on the same device"
    check(on_gpu[name], on_cpu[name])


@pytest.mark.parametrize("name", SIXTEEN_BITS)
def test_sixteen_bits_are_near_fp32(name: str, on_cpu: Results, on_gpu: Results) -> None:
    results, expected = on_gpu[name], on_cpu["llama"]
    assert not any(result.is_skipped for result in results)
    loss, grad_norm = TOLERANCES[name.split()[1]]
    assert largest_difference([r.loss for r in results], [r.loss for r in expected]) <= loss
    assert largest_difference([r.grad_norm for r in results], [r.grad_norm for r in expected]) <= grad_norm


def test_documents_do_not_see_each_other() -> None:
    """On a GPU it is FlexAttention that keeps them apart, on a CPU a dense mask."""
    expected = run_distributed(results_of, 1, OF_DOCUMENTS)[0]
    results = run_on_gpus(results_of, 1, OF_DOCUMENTS)[0]
    for name in OF_DOCUMENTS:
        check(results[name], expected[name])


@needs_gpus(2)
def test_two_gpus_train_as_one() -> None:
    for runs, alone in ((TWO, test_parity.ONE), (EXPERTS, test_moe.ONE)):
        expected = run_on_gpus(results_of, 1, {one: alone[one] for one, _ in runs.values()})[0]
        ranks = run_on_gpus(results_of, 2, {name: case for name, (_, case) in runs.items()})
        for name, (one, _) in runs.items():
            assert ranks[0][name] == ranks[1][name]
            check(ranks[0][name], expected[one])


@needs_gpus(4)
def test_four_gpus_cut_and_share_experts() -> None:
    """NCCL gathers parts of different length itself, where gloo has them padded."""
    expected = run_on_gpus(results_of, 1, {"sparse": test_moe.ONE["sparse"]})[0]
    ranks = run_on_gpus(results_of, 4, CUT_EXPERTS)
    for name in CUT_EXPERTS:
        check(ranks[0][name], expected["sparse"])
