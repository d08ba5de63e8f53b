"""The commands, as users type them: results on stdout, errors with exit code 2, and training from an import."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import warm
from tests.data.shards import write_shard
from tests.huggingface.models import VOCAB_SIZE, save_model, transformers
from trainer.checkpoint.trainer_state import read_state
from trainer.huggingface.record import read_record
from trainer.metrics.jsonl import read_records

REPOSITORY = Path(__file__).resolve().parents[2]
SEQ_LENGTH = 32
QUIET = (
    f"model.seq_length={SEQ_LENGTH}",
    "training.global_batch_size=4",
    "training.micro_batch_size=1",
    "training.eval_interval=0",
    "optimizer.lr=1e-3",
    "lr_schedule.warmup_steps=0",
    "checkpoint.save_interval=0",
    "logging.wandb.mode=disabled",
    "logging.progress='off'",
    "cluster.timeout_seconds=60",
)


def command(module: str, *arguments: object, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return warm.run([sys.executable, "-m", module, *map(str, arguments)], cwd=cwd, env=environment)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama3", tmp_path_factory.mktemp("model") / "source", dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def imported(source: Path) -> Path:
    run = source.parent / "run"
    result = command("trainer.import_hf", source, run)
    assert result.returncode == 0, result.stderr
    line = json.loads(result.stdout)
    assert line["checkpoint"] == str(run / "checkpoints" / "step_00000000")
    assert (line["model_type"], line["dtype"]) == ("llama", "bf16")
    assert 0 < line["gate"]["relative_difference"] <= 5e-6
    assert "The import is right: logits differ" in result.stderr
    return run


def rows_of(tokens: np.ndarray) -> torch.Tensor:
    """The training rows of a shard, with their next tokens: [rows, SEQ_LENGTH + 1]."""
    starts = range(0, len(tokens) - SEQ_LENGTH, SEQ_LENGTH)
    return torch.from_numpy(np.stack([tokens[start : start + SEQ_LENGTH + 1] for start in starts]))


def test_export(imported: Path, tmp_path: Path) -> None:
    result = command("trainer.export_hf", imported, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["gate"]["relative_difference"] <= 5e-6
    without = command("trainer.export_hf", imported, tmp_path / "other", "--gate", "off", "--dtype", "fp32")
    assert json.loads(without.stdout)["gate"] == "off"
    assert json.loads((tmp_path / "other" / "config.json").read_text())["torch_dtype"] == "float32"


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("trainer.import_hf", ("{tmp}/none", "{tmp}/run"), "SOURCE: contains no config.json"),
        ("trainer.import_hf", ("{source}", "{run}"), "OUTPUT_DIR: already has checkpoints"),
        ("trainer.import_hf", ("{tmp}/none.gguf", "{tmp}/run"), "none.gguf: cannot be read"),
        ("trainer.export_hf", ("{tmp}/none", "{tmp}/out"), "PATH: does not exist"),
        ("trainer.export_hf", ("{run}", "{source}"), "OUTPUT_DIR: must be empty"),
        ("trainer.export_hf", ("{run}", "{tmp}/out", "--max-shard-gb", "0"), "--max-shard-gb: must be greater than 0"),
        ("trainer.export_hf", ("{run}", "{tmp}/out", "--max-shard-gb", "nan"), "must be greater than 0 and finite"),
        ("trainer.train", ("resume={run}", "run_name=x", "output_dir={tmp}"), "holds the weights of an import"),
        (
            "trainer.train",
            ("pretrained_checkpoint={tmp}/x", "output_dir={tmp}"),
            "pretrained_checkpoint: does not exist",
        ),
        (
            "trainer.train",
            ("pretrained_checkpoint={source}", "output_dir={tmp}", "model.seq_length=32"),
            "1 error; nothing was started:\n"
            "  1. pretrained_checkpoint: is a model of Hugging Face transformers, not a checkpoint (got {source})."
            " Import it: `trireme import-hf {source} OUTPUT_DIR`, then set pretrained_checkpoint=OUTPUT_DIR.\n",
        ),
        (
            "trainer.train",
            ("pretrained_checkpoint={source}", "model=gpt2_124m", "model.vocab_size=131", "output_dir={tmp}"),
            "pretrained_checkpoint: is a model of Hugging Face transformers, not a checkpoint",
        ),
        (
            "trainer.train",
            ("pretrained_checkpoint={run}", "output_dir={tmp}", "parallel.tensor_model_parallel_size=4"),
            "must divide model.num_query_groups=2 (got 4). Use 1 or 2.\n",
        ),
        (
            "trainer.train",
            ("pretrained_checkpoint={run}", "output_dir={tmp}", "parallel.pipeline_model_parallel_size=2"),
            "model.num_layers: must be a multiple of parallel.pipeline_model_parallel_size=2 (got 3). Set parallel.",
        ),
        (
            "trainer.train",
            ("pretrained_checkpoint={run}", "model=gpt2_124m", "output_dir={tmp}", "model.vocab_size=131"),
            "or remove model=PRESET to take the model of pretrained_checkpoint",
        ),
    ],
)
def test_wrong_input(
    module: str, arguments: tuple[str, ...], message: str, source: Path, imported: Path, tmp_path: Path
) -> None:
    filled = [argument.format(tmp=tmp_path, source=source, run=imported) for argument in arguments]
    if module == "trainer.train":
        write_shard(tmp_path / "shard", [np.arange(200) % VOCAB_SIZE])
        filled.append(f"data.train=[{{paths:[{tmp_path}/shard]}}]")
    result = command(module, *filled)
    assert result.returncode == 2, result.stderr
    assert message.format(tmp=tmp_path, source=source, run=imported) in result.stderr
    assert "Traceback" not in result.stderr


# Three layers: two on the first stage, one on the last, which shares the embedding's weights.
@pytest.mark.parametrize(
    "layout",
    [("single",), ("tp2",), ("pp2", "parallel.pipeline_model_parallel_layout='Et*2|tL'")],
    ids=lambda it: it[0],
)
def test_continued_training_begins_with_the_loss_of_transformers(
    layout: tuple[str, ...], source: Path, imported: Path, tmp_path: Path
) -> None:
    """The first step of a run on all rows of a shard has the loss of those rows."""
    tokens = np.random.default_rng(1).integers(0, VOCAB_SIZE, 4 * SEQ_LENGTH + 1)
    write_shard(tmp_path / "shard", [tokens])
    rows = rows_of(tokens)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.no_grad():
        logits = model(rows[:, :-1]).logits.double()
    expected = float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()))
    overrides: list[Any] = [f"output_dir={tmp_path}", "run_name=ours", f"data.train=[{{paths:[{tmp_path}/shard]}}]"]
    started = [f"pretrained_checkpoint={imported}", f"parallel={layout[0]}", *layout[1:], *overrides, *QUIET]
    result = command("launch.local", *started, "training.train_iters=2")
    assert result.returncode == 0, result.stderr
    losses = [
        record["loss"] for record in read_records(tmp_path / "ours" / "metrics.jsonl") if record["kind"] == "train"
    ]
    # fp32 sums of 131 exponentials, and of 128 losses, in another order.
    assert losses[0] == pytest.approx(expected, abs=1e-5)
    assert losses[1] < losses[0]
    (checkpoint,) = (tmp_path / "ours" / "checkpoints").iterdir()
    state = read_state(checkpoint)
    assert (state.step, state.num_updates, state.contents) == (2, 2, "training")
    assert state.pretrained_checkpoint == str(imported / "checkpoints" / "step_00000000")
    record = read_record(checkpoint)
    assert record is not None and record.dtype == "bf16", "the run exports as its origin does"
    # Rerun, it resumes its own checkpoint.
    result = command("launch.local", *started, "training.train_iters=3")
    assert result.returncode == 0, result.stderr
    assert "step 2" in result.stderr
    assert read_state(tmp_path / "ours" / "checkpoints" / "step_00000003").pretrained_checkpoint is not None
