"""What a start tells, keeps and leaves alone: changes, configurations, rollbacks, forks, tokenizers.

One process on the smallest model; each run takes a handful of steps.
"""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data.shards import make_documents, write_shard
from tests.train.commands import SMALL, losses_of
from tests.train.small_run import run_command
from tests.trireme.tokenizer.test_tokenizer import train_sentencepiece
from trainer.checkpoint.tokenizer import find_tokenizer
from trainer.checkpoint.trainer_state import read_state
from trainer.metrics.jsonl import read_records

TINY = (
    *(line for line in SMALL if not line.startswith("model.num_layers")),
    "model.num_layers=1",
    "training.train_iters=8",
    "lr_schedule.warmup_steps=1",
    "lr_schedule.style=constant",
    "checkpoint.async_save=false",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("starts")
    write_shard(folder / "shard", make_documents(num_tokens=6000, vocab_size=64), with_manifest=True)
    return folder


@pytest.fixture
def run(folder: Path, request: pytest.FixtureRequest) -> Path:
    """A run that took four steps, saved at 2 and 4."""
    name = request.node.name.split("[")[0][:40].strip("_")
    start(folder, name, "training.stop_after_step=4", "checkpoint.save_interval=2")
    return folder / "outputs" / name


def launch(folder: Path, name: str, *further: str) -> "subprocess.CompletedProcess[str]":
    shard = folder / "shard"
    return run_command(
        "trainer.train", *TINY, f"data.train=[{{paths:['{shard}']}}]", f"run_name={name}", *further, cwd=folder
    )


def start(folder: Path, name: str, *further: str) -> str:
    """Train, and what was said."""
    done = launch(folder, name, *further)
    assert done.returncode == 0, done.stderr
    return done.stderr


def events_of(run: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_records(run / "events.jsonl") if event["kind"] == kind]


def names_of(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def contents_of(run: Path) -> dict[str, tuple[str, int]]:
    """Content and time of change of every file but the diaries of processes."""
    return {
        str(path.relative_to(run)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.parent.name != "logs"
    }


def test_what_a_resume_changes_is_told_and_every_start_keeps_its_configuration(folder: Path, run: Path) -> None:
    write_shard(folder / "other", make_documents(num_tokens=6000, vocab_size=64, seed=1))
    said = start(
        folder,
        run.name,
        "optimizer.lr=2e-3",
        "lr_schedule.style=linear",
        "optimizer.weight_decay=0",
        "training.global_batch_size=16",
        "precision.params_dtype=bf16",
        "model.hidden_dropout=0.1",
        "training.stop_after_step=6",
        "checkpoint.keep_last=5",
        f"data.train=[{{paths:['{folder}/shard']}},{{paths:['{folder}/other']}}]",
    )
    expected = {
        "optimizer.lr": (1e-3, 2e-3),
        "lr_schedule.style": ("constant", "linear"),
        "optimizer.weight_decay": (0.1, 0.0),
        "training.global_batch_size": (8, 16),
        "precision.params_dtype": ("fp32", "bf16"),
        "model.hidden_dropout": (0.0, 0.1),
        "data.train[1].paths[0]": ("absent", f"{folder}/other"),
        "data.train[1].weight": ("absent", 1.0),
        "checkpoint.keep_last": (0, 5),
        "training.stop_after_step": (4, 6),
        "checkpoint.save_interval": (2, 0),
        "optimizer.lr of step 5": (1e-3, pytest.approx(2e-3 - (2e-3 - 2e-4) * 3 / 7, rel=1e-5)),
    }
    told = events_of(run, "start")[-1]
    assert {change["path"]: (change["old"], change["new"]) for change in told["changes"]} == expected
    for line in (
        "warning: This start changes optimizer.lr: 0.001 -> 0.002\n",
        "warning: This start changes model.hidden_dropout: 0.0 -> 0.1\n",
        "warning: This start changes lr_schedule.style: constant -> linear\n",
        f"warning: This start changes data.train[1].paths[0]: absent -> {folder}/other\n",
        "The data mixture changes at sample 32: data.train[0] continues after 32 samples.\n",
        "The data mixture changes at sample 32: data.train[1] is a new data set",
    ):
        assert line in said
    assert "checkpoint.keep_last: 0 -> 5" in said
    assert "Layout(" not in said
    assert "saved with 1 process, engine deepspeed, cpu" in said

    configs = {path.name: yaml.safe_load(path.read_text()) for path in run.glob("config*.yaml")}
    assert sorted(configs) == ["config.0.yaml", "config.4.yaml", "config.yaml"]
    assert configs["config.0.yaml"]["optimizer"]["lr"] == 1e-3
    assert configs["config.4.yaml"] == configs["config.yaml"]
    assert configs["config.yaml"]["optimizer"]["lr"] == 2e-3
    assert [event["config"] for event in events_of(run, "start")] == ["config.0.yaml", "config.4.yaml"]


def test_a_start_that_does_nothing_changes_nothing(folder: Path, run: Path) -> None:
    # Records behind the newest checkpoint, as a killed process leaves them.
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "train", "step": 5, "loss": 1.0}) + "\n")
    before = contents_of(run)
    said = start(folder, run.name, "training.stop_after_step=4", "optimizer.lr=9e-3")
    assert "Nothing to do: step 4 of 4 is done" in said
    assert contents_of(run) == before


def test_resuming_from_an_earlier_own_checkpoint_rolls_back_once(folder: Path, run: Path) -> None:
    back = f"resume='{run}/checkpoints/step_00000002'"
    said = start(folder, run.name, back, "training.stop_after_step=3")
    assert "rolled back to step 2. Renamed later checkpoints to step_00000004.abandoned." in said
    assert names_of(run) == ["step_00000002", "step_00000003", "step_00000004.abandoned"]
    (event,) = events_of(run, "rollback")
    assert (event["step"], event["from_step"], event["set_aside"]) == (2, 4, ["step_00000004.abandoned"])

    # The same command goes on, also when retention has deleted what it names.
    said = start(folder, run.name, back, "training.stop_after_step=5", "checkpoint.keep_last=1")
    assert "an earlier start has rolled back to it, so the run resumes from its latest checkpoint" in said
    assert names_of(run) == ["step_00000005"]
    start(folder, run.name, back, "training.stop_after_step=6", "checkpoint.keep_last=1")
    assert [event["step"] for event in events_of(run, "start")] == [0, 2, 3, 5]
    assert len(events_of(run, "rollback")) == 1
    assert list(losses_of(run)) == [1, 2, 3, 4, 5, 6]


def test_a_fork_is_started_again_when_its_source_is_gone(folder: Path, run: Path) -> None:
    command = (f"resume='{run}'", "training.seed=1234")
    start(folder, "the-fork", *command, "training.stop_after_step=6")
    source = run.rename(run.with_name("gone"))
    said = start(folder, "the-fork", *command, "training.stop_after_step=8")
    assert list(losses_of(folder / "outputs" / "the-fork")) == [5, 6, 7, 8]
    assert "Traceback" not in said
    shutil.rmtree(source)
    refused = launch(folder, "another-fork", *command)
    assert refused.returncode == 2
    assert "1 error; nothing was started" in refused.stderr
    assert "resume: must be auto, never, restart, or an existing path" in refused.stderr


def test_a_resume_keeps_the_tokenizer_and_a_fork_is_told(folder: Path) -> None:
    """Two tokenizers of the same size: every tensor fits, and every token id means something else."""
    paths = []
    for model_type in ("bpe", "unigram"):
        (folder / model_type).mkdir()
        paths.append(train_sentencepiece(folder / model_type, model_type))
    size = ("model.make_vocab_size_divisible_by=512",)
    with_first = ("model.vocab_size=null", f"tokenizer.path='{paths[0]}'", *size)
    start(folder, "words", *with_first, "training.stop_after_step=2")
    run = folder / "outputs" / "words"
    (checkpoint,) = (run / "checkpoints").iterdir()
    record = read_state(checkpoint).tokenizer
    assert record is not None
    assert record.sha256 == hashlib.sha256(paths[0].read_bytes()).hexdigest()
    assert find_tokenizer(checkpoint) == checkpoint / "tokenizer.model"
    assert (checkpoint / "tokenizer.model").read_bytes() == paths[0].read_bytes()

    with_second = ("model.vocab_size=null", f"tokenizer.path='{paths[1]}'", *size)
    refused = launch(folder, "words", *with_second)
    assert refused.returncode == 2
    assert "tokenizer.path: differs from the tokenizer of " in refused.stderr
    assert f"Use {os.path.relpath(checkpoint, folder)}/tokenizer.model" in refused.stderr
    refused = launch(
        folder, "words", f"model.vocab_size={record.vocab_size + 1}", f"tokenizer.path='{paths[0]}'", *size
    )
    assert refused.returncode == 2
    assert f"model.vocab_size: differs from the checkpoint's {record.vocab_size} tokens" in refused.stderr
    assert names_of(run) == ["step_00000002"]

    said = start(folder, "other-words", *with_second, f"resume='{run}'", "training.stop_after_step=3")
    assert f"This start changes tokenizer.sha256: {record.sha256} -> " in said
    # What it was told to use instead: the copy in the checkpoint.
    start(
        folder,
        "words",
        "model.vocab_size=null",
        f"tokenizer.path='{checkpoint}/tokenizer.model'",
        *size,
        "training.stop_after_step=3",
    )
