"""A model learns from a teacher by the real commands, alike under every layout; the loss is torch's own divergence."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from tests.distributed.harness import run_distributed
from tests.train.commands import SMALL, losses_of
from tests.train.small_run import change_weights, run_command, train
from trainer.model.cross_entropy import count_columns
from trainer.model.divergence import vocab_parallel_divergence

_VOCAB_SIZE, _WIDTH = 13, 16
_STUDENT = (
    *(line for line in SMALL if not line.startswith("model.vocab_size")),
    "data.train=[{paths:[data/train]}]",
    "data.validation=[{paths:[data/validation]}]",
    "tokenizer.path=data/tokenizer.json",
    "model.num_layers=2",
    "training.train_iters=6",
    "training.eval_interval=6",
    "training.eval_iters=2",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of four layers in outputs/small."""
    folder = tmp_path_factory.mktemp("distill")
    train(folder)
    return folder


def distill(folder: Path, name: str, *further: str) -> Path:
    done = run_command("launch.distill", "teacher=outputs/small", *_STUDENT, f"run_name={name}", *further, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "outputs" / name


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    return distill(folder, "alone")


@pytest.mark.parametrize("layout", ["parallel=tp2", "parallel=pp2", "parallel=dp2"])
def test_a_layout_changes_nothing(folder: Path, alone: Path, layout: str) -> None:
    other = distill(folder, layout.partition("=")[2], layout)
    # Other orders of the same sums: measured below 3e-7 in six steps.
    assert losses_of(other) == pytest.approx(losses_of(alone), rel=2e-6)
    found, expected = (json.loads((run / "distillation.json").read_text()) for run in (other, alone))
    for name in ("teacher", "model"):
        assert found[name]["num_parameters"] == expected[name]["num_parameters"]
        assert found[name]["perplexity"] == pytest.approx(expected[name]["perplexity"], rel=1e-5)


def test_the_run_ends_beside_its_teacher(folder: Path, alone: Path) -> None:
    """Both perplexities are those of `trireme evaluate` on the same windows."""
    record = json.loads((alone / "distillation.json").read_text())
    assert (record["step"], record["num_windows"], record["num_tokens"]) == (6, 16, 16 * 32)
    for name, path in (("teacher", "outputs/small"), ("model", "outputs/alone")):
        done = run_command("trainer.evaluate", path, cwd=folder)
        assert done.returncode == 0, done.stderr
        evaluated, found = json.loads(done.stdout), record[name]["perplexity"]
        assert found["value"] == pytest.approx(evaluated["perplexity"], rel=1e-6)
        assert found["low"] < found["value"] < found["high"]
    assert record["teacher"]["num_parameters"] > record["model"]["num_parameters"]
    ratio = record["perplexity_ratio"]["value"]
    assert ratio == pytest.approx(
        record["model"]["perplexity"]["value"] / record["teacher"]["perplexity"]["value"], rel=1e-9
    )


def test_a_run_that_was_stopped_before_the_comparison_makes_it_up(folder: Path, alone: Path) -> None:
    """Once: a run that has its result has nothing to do. A result of fewer steps is that of another model."""
    result = alone / "distillation.json"
    content = result.read_text()
    for left in (None, content.replace('"step": 6', '"step": 4')):
        result.unlink()
        if left is not None:
            assert left != content
            result.write_text(left)
        distill(folder, "alone")
        assert json.loads(result.read_text()) == json.loads(content)
    before = result.stat()
    done = run_command("launch.distill", "teacher=outputs/small", *_STUDENT, "run_name=alone", cwd=folder)
    assert "Nothing to do" in done.stderr and result.stat() == before


def test_a_model_that_equals_its_teacher_has_half_its_cross_entropy_as_loss(folder: Path) -> None:
    """Its divergence is 0, and the other half of the loss stays."""
    same = ("pretrained_checkpoint=outputs/small", "model.num_layers=4", "training.train_iters=1", "optimizer.lr=1e-9")
    low = ("lr_schedule.min_lr=0", "lr_schedule.warmup_steps=0", "training.eval_interval=0")
    plain = run_command("launch.local", *_STUDENT, *same, *low, "run_name=plain", cwd=folder)
    assert plain.returncode == 0, plain.stderr
    taught = distill(folder, "same", *same, *low)
    (loss,), (expected,) = losses_of(taught).values(), losses_of(folder / "outputs" / "plain").values()
    assert loss == pytest.approx(expected / 2, rel=1e-6)


def test_a_teacher_that_does_not_fit_is_refused_with_all_reasons(folder: Path) -> None:
    done = run_command(
        "launch.distill",
        *("teacher=outputs/small", *_STUDENT, "parallel=tp2", "parallel.pipeline_model_parallel_size=8"),
        *("model.num_layers=8", "run_name=wrong"),
        cwd=folder,
    )
    assert done.returncode == 2
    assert "distill.teacher: " in done.stderr
    assert "of the teacher" in done.stderr


@pytest.mark.parametrize("layout", ["parallel=single", "parallel=pp2"])
def test_a_teacher_whose_weights_are_not_finite_is_refused(folder: Path, tmp_path: Path, layout: str) -> None:
    """Every gradient would be skipped, and the run would end as if it had learned."""
    shutil.copytree(folder / "outputs" / "small", tmp_path / "damaged")
    change_weights(tmp_path / "damaged", "decoder.final_layernorm.weight", math.nan)
    done = run_command(
        "launch.distill",
        f"teacher={tmp_path}/damaged",
        *_STUDENT,
        f"run_name=damaged_{layout[-3:]}",
        layout,
        cwd=folder,
    )
    assert done.returncode == 2, done.stderr
    message = "distill.teacher: cannot teach: its weights contain NaN in tensor decoder.final_layernorm.weight"
    assert message in done.stderr and "Traceback" not in done.stderr


def divergences(logits: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The divergence and the gradient of its sum, with this rank's columns of both."""
    group = torch.distributed.group.WORLD
    assert group is not None
    width = _WIDTH // group.size()
    columns = slice(group.rank() * width, (group.rank() + 1) * width)
    own = logits[..., columns].clone().requires_grad_(True)
    found = vocab_parallel_divergence(
        own, teacher_logits=teacher[..., columns], temperature=2.0, group=group, vocab_size=_VOCAB_SIZE
    )
    found.sum().backward()
    assert own.grad is not None
    return found.detach(), own.grad


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_divergence_is_that_of_torch_under_tensor_parallelism(world_size: int) -> None:
    torch.manual_seed(0)
    logits, teacher = torch.randn(2, 5, _WIDTH), torch.randn(2, 5, _WIDTH)
    logits[..., _VOCAB_SIZE:] = teacher[..., _VOCAB_SIZE:] = -torch.inf  # as the model gives the padding
    ranks = run_distributed(divergences, world_size, logits, teacher)
    own = logits[..., :_VOCAB_SIZE].clone().requires_grad_(True)
    expected = 4 * functional.kl_div(
        (own / 2).log_softmax(dim=-1),
        (teacher[..., :_VOCAB_SIZE] / 2).log_softmax(dim=-1),
        log_target=True,
        reduction="none",
    ).sum(dim=-1)
    expected.sum().backward()
    assert own.grad is not None
    torch.testing.assert_close(ranks[0][0], expected.detach(), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(found, ranks[0][0]) for found, _ in ranks)
    width = _WIDTH // world_size
    parts = [
        gradient[..., : count_columns(_VOCAB_SIZE, width=width, rank=rank)] for rank, (_, gradient) in enumerate(ranks)
    ]
    torch.testing.assert_close(torch.cat(parts, dim=-1), own.grad, rtol=1e-5, atol=1e-6)
