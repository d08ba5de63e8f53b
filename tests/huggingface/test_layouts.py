"""Runs of any layout and engine are exported with proof, and start from the weights of any checkpoint."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from tests.checkpoint.fragments import PADDED_VOCAB_SIZE
from tests.distributed.harness import run_distributed
from tests.engine.runs import (
    EP2,
    GPT2,
    GRAD_NORM_TOLERANCE,
    LLAMA,
    LOSS_TOLERANCE,
    MEGATRON,
    MEGATRON_PLAIN,
    PP2,
    PP2_VP2,
    TP2_SP,
    ZERO_0,
    Case,
    largest_difference,
    open_engine,
    take_step,
    take_steps,
)
from trainer.checkpoint.load import load_pretrained
from trainer.checkpoint.save import save_checkpoint
from trainer.checkpoint.trainer_state import TrainProgress, build_state, layout_of
from trainer.config.engine import DeepSpeedEngineConfig
from trainer.huggingface.exporting import export_model
from trainer.huggingface.gate import MAX_RELATIVE_DIFFERENCE
from trainer.saved_run import open_saved_run

QWEN3_MOE = replace(LLAMA, qk_layernorm=True, kv_channels=16, num_moe_experts=4, moe_ffn_hidden_size=24)
GPT2_TANH = replace(GPT2, activation="gelu_tanh", max_position_embeddings=32)
ONE_RANK = {"llama": Case(model=LLAMA, engine=MEGATRON, num_steps=2)}
TWO_RANKS = {
    "llama tp2": Case(model=LLAMA, parallel=TP2_SP, engine=MEGATRON),
    "llama pp2vp2": Case(model=LLAMA, parallel=PP2_VP2, engine=ZERO_0),
    "llama zero3": Case(model=LLAMA, engine=DeepSpeedEngineConfig(zero_stage=3)),
    "qwen3_moe ep2": Case(model=QWEN3_MOE, parallel=EP2, engine=MEGATRON),
    "qwen3_moe tp2": Case(model=QWEN3_MOE, parallel=TP2_SP, engine=MEGATRON_PLAIN),
    "qwen3_moe pp2": Case(model=QWEN3_MOE, parallel=PP2, engine=MEGATRON),
    "gpt2 tp2": Case(model=GPT2_TANH, parallel=TP2_SP, engine=MEGATRON),
    "gpt2 pp2": Case(model=GPT2_TANH, parallel=PP2, engine=DeepSpeedEngineConfig(zero_stage=1)),
    "gpt2 dp2": Case(model=GPT2_TANH, engine=DeepSpeedEngineConfig(zero_stage=1)),
}
STARTS = {
    "megatron": Case(engine=MEGATRON),
    "megatron replicated": Case(engine=MEGATRON_PLAIN),
    "zero 0": Case(engine=ZERO_0),
    "zero 1, pp2": Case(engine=DeepSpeedEngineConfig(zero_stage=1), parallel=PP2),
    "zero 2": Case(engine=DeepSpeedEngineConfig(zero_stage=2)),
    "zero 3": Case(engine=DeepSpeedEngineConfig(zero_stage=3)),
    "megatron, tp2": Case(engine=MEGATRON, parallel=TP2_SP),
}


def train_and_save(directory: Path, cases: dict[str, Case]) -> None:
    """Two steps of each case, then a checkpoint in a run directory of its name; all ranks call this."""
    for name, case in cases.items():
        with open_engine(case) as (engine, _, world):
            take_steps(engine, [0, 1], case=case, world=world)
            state = build_state(
                case.model,
                padded_vocab_size=PADDED_VOCAB_SIZE,
                layout=layout_of(case.parallel, world_size=world.world_size, engine="any", device_type="cpu"),
                run_name=name,
                progress=TrainProgress(step=2),
                num_updates=2,
                seed=1,
            )
            save_checkpoint(directory / name, fragments=engine.optimizer_fragments(), state=state, keep_last=1)


def start_from(checkpoint: Path, cases: dict[str, Case]) -> dict[str, list[tuple[float, float]]]:
    """Loss and gradient norm of two steps from a checkpoint's weights, by case; all ranks call this."""
    found = {}
    for name, case in cases.items():
        # Other initial weights, so that every one of them must be loaded.
        with open_engine(replace(case, model=replace(case.model, init_method_std=0.5))) as (engine, _, world):
            load_pretrained(checkpoint, fragments=engine.optimizer_fragments())
            engine.restore(num_updates=0)
            results = [take_step(engine, step, case=case, world=world) for step in (5, 6)]
            found[name] = [(result.loss, result.grad_norm) for result in results]
            assert engine.num_updates == 2
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of each case, in a directory of its name."""
    directory = tmp_path_factory.mktemp("saved")
    run_distributed(train_and_save, 1, directory, ONE_RANK)
    run_distributed(train_and_save, 2, directory, TWO_RANKS)
    return directory


@pytest.mark.parametrize("name", [*ONE_RANK, *TWO_RANKS])
def test_export_of_a_run(name: str, saved: Path, tmp_path: Path) -> None:
    exported = export_model(open_saved_run(saved / name, verify=True), tmp_path / "exported")
    assert exported.model_type == name.split()[0]
    assert exported.gate is not None
    assert exported.gate["relative_difference"] <= MAX_RELATIVE_DIFFERENCE
    bf16 = export_model(open_saved_run(saved / name, verify=True), tmp_path / "bf16", dtype="bf16")
    assert bf16.gate is not None, "weights are rounded on both sides, so the same limit holds"
    assert bf16.gate["max_logit"] != exported.gate["max_logit"]


def test_starts_from_weights_are_the_same_under_any_layout_and_engine(saved: Path) -> None:
    checkpoint = open_saved_run(saved / "llama", verify=True).checkpoint
    (one,) = run_distributed(start_from, 1, checkpoint, {"one": Case(engine=MEGATRON)})
    for rank in run_distributed(start_from, 2, checkpoint, STARTS):
        for name, steps in rank.items():
            losses, norms = ([step[part] for step in steps] for part in (0, 1))
            expected_losses, expected_norms = ([step[part] for step in one["one"]] for part in (0, 1))
            assert largest_difference(losses, expected_losses) <= LOSS_TOLERANCE, name
            assert largest_difference(norms, expected_norms) <= GRAD_NORM_TOLERANCE, name


def test_the_model_of_the_tests_is_the_default_one() -> None:
    """`Case` takes LLAMA, whose checkpoint `STARTS` begins with."""
    assert asdict(Case().model) == asdict(LLAMA)
