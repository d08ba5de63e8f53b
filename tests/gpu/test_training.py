"""One GPU trains as one CPU process does, and several over NCCL as one.

A GPU adds up in another order, takes other approximations of exp and its kin, and its norms, SwiGLU, rotary embedding
and cross entropy are kernels of torch.compile. Each is an error of a few units in the last place, so bounds are ten
times those that layouts have on a CPU, where only the order differs (tests/engine/test_parity.py).
"""

from dataclasses import replace

import pytest

from tests.distributed.harness import run_distributed
from tests.engine import cases, layout_runs, moe_runs
from tests.engine.steps import GPT2, LLAMA, Case, largest_difference, train
from tests.engine.test_parity import GRAD_NORM_TOLERANCE, LOSS_TOLERANCE
from tests.engine.test_precision import TOLERANCES
from tests.gpu.devices import needs_gpus, run_on_gpus
from trainer.config.engine import DeepSpeedEngineConfig, MegatronEngineConfig
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.engine.base import StepResult

pytestmark = [pytest.mark.gpu, needs_gpus(1)]

Results = dict[str, list[StepResult]]
MEGATRON = MegatronEngineConfig()
FP32 = {
    "llama": Case(),
    "llama eager": Case(model=replace(LLAMA, torch_compile="never")),
    "gpt2": Case(model=GPT2),
    "megatron llama": Case(engine=MEGATRON),
    "deepspeed zero3 offload": Case(engine=DeepSpeedEngineConfig(zero_stage=3, offload_optimizer="cpu")),
    "experts": Case(model=moe_runs.SPARSE, engine=MEGATRON),
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
DOCUMENTS = {
    name: replace(run, model=replace(run.model, hidden_size=16 * run.model.num_attention_heads))
    for name, run in layout_runs.ONE.items()
    if run.documents is not None
}
# Of two processes, with the name of the same run in one.
TWO = {name: cases.TWO[name] for name in ("tp2 sp", "pp2 vp2", "dp2", "megatron tp2 sp gpt2", "megatron pp2 tied gpt2")}
EXPERTS = {name: moe_runs.TWO[name] for name in ("ep2", "ep2 gather plain", "tp2", "pp2 vp2")}
CUT_EXPERTS = {name: moe_runs.FOUR[name] for name in ("ep2 cut experts", "tp2 ep2 cut experts", "ep4")}


def results_of(runs: dict[str, Case]) -> Results:
    return {name: train(case).results for name, case in runs.items()}


def results_of_documents() -> Results:
    return {name: layout_runs.train(run).results for name, run in DOCUMENTS.items()}


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
    expected, results = run_distributed(results_of_documents, 1)[0], run_on_gpus(results_of_documents, 1)[0]
    for name in DOCUMENTS:
        check(results[name], expected[name])


@needs_gpus(2)
def test_two_gpus_train_as_one() -> None:
    for runs, alone in ((TWO, cases.ONE), (EXPERTS, moe_runs.ONE)):
        expected = run_on_gpus(results_of, 1, {one: alone[one] for one, _ in runs.values()})[0]
        ranks = run_on_gpus(results_of, 2, {name: case for name, (_, case) in runs.items()})
        for name, (one, _) in runs.items():
            assert ranks[0][name] == ranks[1][name]
            check(ranks[0][name], expected[one])


@needs_gpus(4)
def test_four_gpus_cut_and_share_experts() -> None:
    """NCCL gathers parts of different length itself, where gloo has them padded."""
    expected = run_on_gpus(results_of, 1, {"sparse": moe_runs.ONE["sparse"]})[0]
    ranks = run_on_gpus(results_of, 4, {name: case for name, (_, case) in CUT_EXPERTS.items()})
    for name in CUT_EXPERTS:
        check(ranks[0][name], expected["sparse"])
