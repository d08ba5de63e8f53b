"""Optimizer state in files: what the host needs, and the same steps and checkpoints as in memory."""

from dataclasses import replace
from pathlib import Path

import pytest
from deepspeed.ops.op_builder import AsyncIOBuilder

from tests.checkpoint.fragments import layout_in, state_of
from tests.distributed.harness import run_distributed
from tests.engine.runs import BF16, LLAMA, Case, open_engine, take_steps
from trainer.checkpoint.load import load_checkpoint
from trainer.checkpoint.save import save_checkpoint
from trainer.config.engine import DeepSpeedEngineConfig, MegatronEngineConfig
from trainer.engine.deepspeed.settings import check_nvme_host

# DeepSpeed puts groups of a megabyte and more into files: here the matrices are one, and the norms are not.
MODEL = replace(LLAMA, num_layers=2, hidden_size=256, ffn_hidden_size=512)
IN_MEMORY = Case(model=MODEL, precision=BF16, engine=DeepSpeedEngineConfig(zero_stage=3, reduce_bucket_size=500_000))


def in_files(directory: Path) -> Case:
    directory.mkdir(exist_ok=True)
    return replace(IN_MEMORY, engine=replace(IN_MEMORY.engine, offload_optimizer="nvme", nvme_path=str(directory)))


def test_only_runs_that_use_files_ask_for_them(tmp_path: Path) -> None:
    assert check_nvme_host(MegatronEngineConfig()) == []
    assert check_nvme_host(DeepSpeedEngineConfig(zero_stage=3, offload_optimizer="cpu")) == []


def test_what_the_host_lacks_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    config = DeepSpeedEngineConfig(zero_stage=3, offload_optimizer="nvme", nvme_path=str(missing))
    found = [str(violation) for violation in check_nvme_host(config)]
    assert found[0] == (
        f"engine.nvme_path: must be a writable directory (got {missing}). Create it on every host, or use another one."
    )
    lacks_libaio = [
        "engine.offload_optimizer: requires libaio with its headers, which the C++ compiler does not find on this host"
        " (got nvme). Install libaio-dev (Debian) or libaio-devel (Red Hat) on every host, or use cpu."
    ]
    assert found[1:] == ([] if AsyncIOBuilder().is_compatible(verbose=False) else lacks_libaio)


def run(directory: Path) -> dict[str, list[float]]:
    """Five steps with a checkpoint after the third, in memory and in files; and every way on from there."""
    losses = {}
    for name, case in (("memory", IN_MEMORY), ("files", in_files(directory / "nvme"))):
        with open_engine(case) as (engine, _, world):
            losses[name] = take_steps(engine, range(3), case=case, world=world)
            state = state_of(3, parallel=case.parallel, world_size=world.world_size, model=case.model)
            save_checkpoint(directory / name, fragments=engine.optimizer_fragments(), state=state, keep_last=1)
            losses[name] += take_steps(engine, (3, 4), case=case, world=world)
        assert any((directory / "nvme").rglob("*.swp")) == (name == "files")
    for saver in ("memory", "files"):
        for name, case in (("memory", IN_MEMORY), ("files", in_files(directory / "nvme"))):
            with open_engine(case) as (engine, _, world):
                path = directory / saver / "checkpoints" / "step_00000003"
                layout = layout_in(case.parallel, world_size=world.world_size)
                load_checkpoint(path, fragments=engine.optimizer_fragments(), layout=layout)
                engine.restore(num_updates=3)
                losses[f"{name} from {saver}"] = take_steps(engine, (3, 4), case=case, world=world)
    return losses


@pytest.mark.skipif(
    not AsyncIOBuilder().is_compatible(verbose=False), reason="needs libaio with its headers, to compile against"
)
def test_files_hold_what_memory_does(tmp_path: Path) -> None:
    # The first run on a host compiles for a minute or so.
    losses = run_distributed(run, 1, tmp_path, timeout_seconds=600)[0]
    # As far apart as 16-bit runs that add up in another order (tests/engine/test_precision.py).
    assert losses["files"] == pytest.approx(losses["memory"], rel=3e-3)
    for saver in ("memory", "files"):
        assert losses[f"{saver} from {saver}"] == losses[saver][3:], f"{saver}: bit for bit"
    assert losses["files from memory"] == pytest.approx(losses["memory"][3:], rel=3e-3)
    assert losses["memory from files"] == pytest.approx(losses["files"][3:], rel=3e-3)
