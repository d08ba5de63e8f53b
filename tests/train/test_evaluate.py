"""`trainer.evaluate` of a real run: by path, from anywhere, with JSON that every reader takes."""

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import warm
from tests.data.shards import write_shard
from tests.train import small_run
from tests.train.commands import REPOSITORY, SMALL, environment
from tests.train.small_run import VOCAB_SIZE, change_weights, run_command
from trainer.evaluate import describe_result
from trainer.metrics.jsonl import read_records
from trireme.errors import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run was started; its data and tokenizer are named relative to it."""
    place = tmp_path_factory.mktemp("trained")
    small_run.train(place, "training.eval_interval=4")
    return place


@pytest.fixture(scope="module")
def run_directory(folder: Path) -> Path:
    return folder / "outputs" / "small"


def evaluate(*arguments: str | Path, cwd: Path = REPOSITORY) -> dict[str, Any]:
    done = run_command("trainer.evaluate", *map(str, arguments), cwd=cwd)
    assert done.returncode == 0, done.stderr
    return read_strictly(done.stdout)


def refuse(*arguments: str | Path, cwd: Path = REPOSITORY) -> str:
    done = run_command("trainer.evaluate", *map(str, arguments), cwd=cwd)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def read_strictly(text: str) -> dict[str, Any]:
    """As a reader does that follows the standard."""

    def refuse_constant(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    result: dict[str, Any] = json.loads(text, parse_constant=refuse_constant)
    return result


def validation_loss(run_directory: Path) -> float:
    (record,) = (one for one in read_records(run_directory / "metrics.jsonl") if one["kind"] == "validation")
    loss: float = record["loss"]
    return loss


def test_a_run_directory_is_all_that_it_takes(run_directory: Path, tmp_path: Path) -> None:
    result = evaluate(run_directory, cwd=tmp_path)  # from another directory than the run was started in
    assert result["loss"] == pytest.approx(validation_loss(run_directory), rel=1e-6)
    assert result["perplexity"] == pytest.approx(math.exp(result["loss"]))
    assert result["step"] == 4
    assert result["num_tokens"] == 2 * 8 * 32
    assert read_strictly((run_directory / "evaluation.json").read_text()) == result
    assert list(tmp_path.iterdir()) == []


def test_overrides_with_a_path_change_data_layout_and_batch(run_directory: Path, folder: Path) -> None:
    loss = evaluate(run_directory)["loss"]
    smaller = evaluate(run_directory, "parallel=single", "training.micro_batch_size=1", "precision=fp32")
    assert smaller["loss"] == pytest.approx(loss, rel=1e-6)
    assert evaluate(run_directory, "training.eval_iters=1")["num_tokens"] == 8 * 32
    other = evaluate(run_directory, f"data.validation=[{{paths:['{folder / 'data' / 'train'}']}}]")
    assert other["loss"] != loss


def test_a_layout_of_several_processes(run_directory: Path) -> None:
    command = [sys.executable, "-m", "trainer.torchrun", "--standalone", "--nproc-per-node", "2", "-m"]
    done = warm.run(
        [*command, "trainer.evaluate", str(run_directory), "parallel=tp2"], cwd=REPOSITORY, env=environment()
    )
    assert done.returncode == 0, done.stderr
    # Sums of two halves, in fp32.
    assert read_strictly(done.stdout)["loss"] == pytest.approx(validation_loss(run_directory), rel=1e-5)


def test_overrides_alone_are_those_of_training(folder: Path, run_directory: Path) -> None:
    result = evaluate(
        *(line for line in SMALL if not line.startswith("model.vocab_size")),
        "data.validation=[{paths:[data/validation]}]",  # and no data.train
        "tokenizer.path=data/tokenizer.json",
        "training.eval_iters=2",
        "run_name=small",
        cwd=folder,
    )
    assert result["loss"] == pytest.approx(validation_loss(run_directory), rel=1e-6)


def test_a_copy_stands_by_itself_and_keeps_its_own_result(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere (copy)"
    shutil.copytree(folder / "outputs" / "small", moved)
    (moved / "evaluation.json").unlink(missing_ok=True)
    before = (folder / "outputs" / "small").stat().st_mtime_ns
    validation = folder / "data" / "validation"
    result = evaluate(moved, f"data.validation=[{{paths:['{validation}']}}]", cwd=folder)
    assert result["loss"] == pytest.approx(validation_loss(moved), rel=1e-6)
    assert (moved / "evaluation.json").is_file()
    assert (folder / "outputs" / "small").stat().st_mtime_ns == before


def test_resume_names_the_run_whose_result_it_is(folder: Path, run_directory: Path, tmp_path: Path) -> None:
    (run_directory / "evaluation.json").unlink(missing_ok=True)
    evaluate(
        *(line for line in SMALL if not line.startswith("model.vocab_size")),
        "data.validation=[{paths:[data/validation]}]",
        "tokenizer.path=data/tokenizer.json",
        "run_name=another",
        f"output_dir='{tmp_path}'",
        f"resume='{run_directory}'",
        cwd=folder,
    )
    assert (run_directory / "evaluation.json").is_file()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_called_auto_is_a_path(run_directory: Path, tmp_path: Path) -> None:
    shutil.copytree(run_directory, tmp_path / "auto")
    validation = run_directory.parents[1] / "data" / "validation"
    assert evaluate("auto", f"data.validation=[{{paths:['{validation}']}}]", cwd=tmp_path)["step"] == 4


def test_another_tokenizer_is_refused(run_directory: Path, tmp_path: Path) -> None:
    other = small_run.write_tokenizer(tmp_path / "tokenizer.json", letters=small_run.LETTERS[::-1])
    assert "tokenizer.path: differs from the tokenizer of " in refuse(run_directory, f"tokenizer.path='{other}'")


def test_another_vocabulary_or_model_is_refused(run_directory: Path) -> None:
    # Both are padded to 64 rows.
    assert f"differs from the checkpoint's {VOCAB_SIZE} tokens" in refuse(run_directory, "model.vocab_size=64")
    message = refuse(run_directory, "model.num_layers=2")
    assert "model.num_layers: differs from the checkpoint's 4" in message
    assert "another run_name" not in message


def test_what_cannot_be_evaluated_is_said(run_directory: Path, tmp_path: Path) -> None:
    assert f"PATH: does not exist (got {tmp_path / 'none'})" in refuse(tmp_path / "none")
    assert f"PATH: contains no complete checkpoint (got {tmp_path})" in refuse(tmp_path)
    assert "data.validation: no validation data configured" in refuse(run_directory, "data.validation=[]")
    assert "cannot be combined with the path" in refuse(run_directory, "experiment=quickstart")
    assert "parallel: no such preset 'tp3'" in refuse(run_directory, "parallel=tp3")
    assert "data.train" not in refuse("run_name=nowhere", f"output_dir='{tmp_path}'", "model.vocab_size=64")


def test_weights_that_are_not_finite_give_null_and_a_word(run_directory: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(run_directory, damaged)
    change_weights(damaged, "decoder.final_layernorm.weight", math.nan)
    validation = run_directory.parents[1] / "data" / "validation"
    done = run_command(
        "trainer.evaluate", str(damaged), f"data.validation=[{{paths:['{validation}']}}]", cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    result = read_strictly(done.stdout)
    assert (result["loss"], result["perplexity"]) == (None, None)
    assert "NaN" in result["note"]
    assert "contain NaN in tensor decoder.final_layernorm.weight" in done.stderr
    assert read_strictly((damaged / "evaluation.json").read_text()) == result


def test_every_loss_gives_json() -> None:
    place = Path("checkpoint")
    assert describe_result(place, step=1, loss=0.0, num_tokens=1)["perplexity"] == 1.0
    large = describe_result(place, step=1, loss=710.0, num_tokens=1)
    assert (large["loss"], large["perplexity"]) == (710.0, None)
    assert "exceeds the range" in large["note"]
    endless = describe_result(place, step=1, loss=math.inf, num_tokens=1)
    assert (endless["loss"], endless["perplexity"]) == (None, None)
    assert "infinite" in endless["note"]
    with pytest.raises(ConfigError, match="no token that counts"):
        describe_result(place, step=1, loss=0.0, num_tokens=0)


def test_data_without_target_tokens_is_refused(run_directory: Path, tmp_path: Path) -> None:
    ends = write_shard(tmp_path / "ends", [np.array([0]) for _ in range(300)])
    message = refuse(run_directory, f"data.validation=[{{paths:['{ends}']}}]", "data.eod_mask_loss=true")
    assert "data.validation" in message


def test_a_checkpoint_outside_of_a_run_and_a_directory_that_takes_no_file(run_directory: Path, tmp_path: Path) -> None:
    (checkpoint,) = (run_directory / "checkpoints").iterdir()
    alone = tmp_path / "alone"
    shutil.copytree(checkpoint, alone)
    validation = f"data.validation=[{{paths:['{run_directory.parents[1] / 'data' / 'validation'}']}}]"
    assert evaluate(alone, validation, "training.eval_iters=1")["step"] == 4
    assert {path.name for path in tmp_path.iterdir()} == {"alone"}
    shutil.copytree(run_directory, tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").unlink(missing_ok=True)
    (tmp_path / "run" / "evaluation.json").mkdir()
    done = run_command("trainer.evaluate", str(tmp_path / "run"), validation, cwd=REPOSITORY)
    assert done.returncode == 0
    assert read_strictly(done.stdout)["step"] == 4
    assert "Failed to write " in done.stderr


def test_help_tells_both_forms() -> None:
    done = run_command("trainer.evaluate", "--help", cwd=REPOSITORY)
    assert done.returncode == 0
    assert "trireme evaluate outputs/quickstart" in done.stdout
