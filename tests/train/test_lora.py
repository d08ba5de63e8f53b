"""Adapters as the commands train them: what a checkpoint holds, how it resumes, and what it is evaluated as."""

import json
import shutil
from pathlib import Path

import pytest

from tests.train.commands import losses_of, tensors_of
from tests.train.small_run import run_command, train
from trainer.checkpoint.trainer_state import read_state

LORA = ("lora.rank=4", "lora.alpha=8", "optimizer.lr=1e-2", "training.eval_interval=3")


def adapt(folder: Path, name: str, *further: str) -> "tuple[int, str]":
    """Train adapters on the weights of the run `small`."""
    done = run_command(
        "launch.local",
        "pretrained_checkpoint=outputs/small",
        "data.train=[{paths:[data/train]}]",
        "data.validation=[{paths:[data/validation]}]",
        "model.seq_length=32",
        "training.global_batch_size=8",
        "training.micro_batch_size=2",
        "training.eval_iters=2",
        "training.train_iters=6",
        "checkpoint.save_interval=0",
        "logging.wandb.mode=disabled",
        "logging.progress='off'",
        f"run_name={name}",
        *LORA,
        *further,
        cwd=folder,
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all weights, and one of adapters on it, of six steps without a break."""
    folder = tmp_path_factory.mktemp("lora")
    train(folder)
    code, log = adapt(folder, "whole", "lora.dropout=0.2")
    assert code == 0, log
    return folder


def last(folder: Path, name: str) -> Path:
    return sorted((folder / "outputs" / name / "checkpoints").iterdir())[-1]


def test_checkpoint_holds_adapters_and_names_its_base(folder: Path) -> None:
    state, tensors = read_state(last(folder, "whole")), tensors_of(last(folder, "whole"))
    assert all(key.endswith((".lora_a", ".lora_b")) for key in tensors), "weights and moments of adapters only"
    assert len(tensors) == 3 * 4 * 2
    assert state.base is not None and state.base.checkpoint == str(last(folder, "small").resolve())
    assert state.lora is not None and state.lora["rank"] == 4


def test_resumed_run_is_the_same_bit_for_bit(folder: Path) -> None:
    """With dropout, whose random numbers are part of the checkpoint."""
    for steps in (3, 6):
        code, log = adapt(folder, "broken", "lora.dropout=0.2", f"training.stop_after_step={steps}")
        assert code == 0, log
    whole, broken = tensors_of(last(folder, "whole")), tensors_of(last(folder, "broken"))
    assert whole.keys() == broken.keys()
    assert all(bool((whole[key] == broken[key]).all()) for key in whole)


def test_other_layout_resumes(folder: Path) -> None:
    """Three steps on one process and three on two, with the other engine: losses of the run without a break."""
    code, log = adapt(folder, "straight")
    assert code == 0, log
    code, log = adapt(folder, "moved", "training.stop_after_step=3")
    assert code == 0, log
    code, log = adapt(folder, "moved", "engine=megatron", "parallel=tp2")
    assert code == 0, log
    straight, moved = (losses_of(folder / "outputs" / name) for name in ("straight", "moved"))
    # Sums over two ranks round in another order; measured 1e-7.
    assert moved == pytest.approx(straight, rel=1e-6)


def test_evaluation_merges(folder: Path) -> None:
    """The loss of an evaluation, with merged weights, is that of the run's own last validation."""
    records = [json.loads(line) for line in (folder / "outputs" / "whole" / "metrics.jsonl").read_text().splitlines()]
    expected = [record["loss"] for record in records if record["kind"] == "validation"][-1]
    done = run_command("trainer.evaluate", "outputs/whole", cwd=folder)
    assert done.returncode == 0, done.stderr
    # W x + s B A x against (W + s B A) x, in fp32; measured 3e-8.
    assert json.loads(done.stdout)["loss"] == pytest.approx(expected, rel=1e-6)
    base = json.loads(run_command("trainer.evaluate", "outputs/small", cwd=folder).stdout)["loss"]
    assert abs(base - expected) > 1e-4, "and is not that of the base"


def test_base_that_moved(folder: Path, tmp_path: Path) -> None:
    """Adapters whose base is elsewhere name it; a copy is accepted, and another checkpoint is not."""
    shutil.copytree(folder, tmp_path / "copy")
    copy = tmp_path / "copy"
    shutil.move(copy / "outputs" / "small", copy / "elsewhere")
    hidden = folder / "outputs" / "hidden"
    (folder / "outputs" / "small").rename(hidden)
    try:
        code, log = adapt(copy, "whole", "pretrained_checkpoint=elsewhere", "lora.dropout=0.2")
        assert code == 2 and "lora.base: the checkpoint with the weights beneath the adapters does not exist" in log
        assert "Traceback" not in log
        further = ("pretrained_checkpoint=elsewhere", "lora.dropout=0.2", "training.train_iters=7")
        code, log = adapt(copy, "whole", *further, "lora.base=elsewhere")
        assert code == 0, log
        code, log = adapt(copy, "whole", *further, "lora.base=outputs/whole")
        assert code == 2 and "is not the checkpoint that the adapters were trained on" in log
    finally:
        hidden.rename(folder / "outputs" / "small")


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("whole", ("lora.rank=8", "lora.dropout=0.2"), "lora.rank: differs from the checkpoint's 4"),
        ("small", (), "lora.rank: must be 0 to resume"),
        ("new", ("pretrained_checkpoint=null", "model=gpt2_124m"), "lora.rank: requires pretrained_checkpoint"),
        ("new", ("pretrained_checkpoint=outputs/whole", "lora.rank=0"), "pretrained_checkpoint: holds adapters"),
        ("new", ("lora.target_modules=[linear_q_proj]",), "names layers that the model does not have: linear_q_proj"),
    ],
)
def test_wrong_input(folder: Path, name: str, overrides: tuple[str, ...], message: str) -> None:
    code, log = adapt(folder, name, *overrides)
    assert code == 2, log
    assert message in log
    assert "Traceback" not in log


def test_adapters_continue_on_other_data(folder: Path) -> None:
    """A new run starts with the adapters of another one, so its first loss is not that of the base."""
    code, log = adapt(folder, "second", "pretrained_checkpoint=outputs/whole", "lora.dropout=0")
    assert code == 0, log
    state = read_state(last(folder, "second"))
    assert state.base == read_state(last(folder, "whole")).base
    code, log = adapt(folder, "fresh", "training.stop_after_step=1")
    assert code == 0, log
    second, fresh = (losses_of(folder / "outputs" / name)[1] for name in ("second", "fresh"))
    assert abs(second - fresh) > 1e-3


@pytest.mark.parametrize(
    "overrides",
    [
        ("engine.zero_stage=2", "engine.offload_optimizer=cpu"),
        ("engine.zero_stage=3", "engine.offload_optimizer=cpu"),
        ("parallel.recompute_granularity=selective", "parallel.recompute_modules=[layernorm,mlp]"),
    ],
    ids=["zero2 offload", "zero3 offload", "selective recompute"],
)
def test_other_ways_to_save_memory_change_nothing(folder: Path, overrides: tuple[str, ...]) -> None:
    name = "saving_" + "_".join(line.rpartition("=")[2].strip("[]").replace(",", "_") for line in overrides)
    code, log = adapt(folder, name, *overrides)
    assert code == 0, log
    if not (folder / "outputs" / "straight").exists():
        code, log = adapt(folder, "straight")
        assert code == 0, log
    straight, saving = (losses_of(folder / "outputs" / one) for one in ("straight", name))
    assert saving == pytest.approx(straight, rel=1e-6)
