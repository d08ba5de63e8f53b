"""What the training command says before its first step, and what it keeps to itself."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tests import warm
from tests.data.shards import write_shard
from tests.train.commands import REPOSITORY, SMALL, counting_documents, environment, launch


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shard(tmp_path_factory.mktemp("data") / "s", counting_documents())


def test_a_16_bit_run_says_what_it_does_and_deepspeed_says_nothing(shard: Path, tmp_path: Path) -> None:
    data = (f"data.train=[{{paths:[{shard}]}}]", f"data.validation=[{{paths:[{shard}]}}]")
    steps = ("training.train_iters=2", "lr_schedule.warmup_steps=null", "training.eval_iters=1")
    where = (f"output_dir={tmp_path}", "run_name=a")
    done = launch(*SMALL, *data, *steps, *where, "precision=bf16", "training.eval_interval=0")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["step", "step"]
    assert (
        f"data.validation[0].paths[0]={shard} is also used for training (data.train[0].paths[0]={shard})" in done.stderr
    )
    assert "1 process: " in done.stderr and "4 micro batches of 2 sequences" in done.stderr
    assert "Learning rate: starts at 0.001, then decays to 0.0001 at step 2 (cosine)" in done.stderr
    assert "Validation: off (training.eval_interval=0)" in done.stderr
    log = (tmp_path / "a" / "logs" / "rank_000.log").read_text()
    assert "deepspeed: begin bf16_optimizer" in log, "the file keeps it"


def test_a_bad_token_id_of_validation_is_found_before_the_start(shard: Path, tmp_path: Path) -> None:
    bad = write_shard(tmp_path / "bad", [*counting_documents(num_tokens=3000), np.array([64])])
    done = launch(*SMALL, f"data.train=[{{paths:[{shard}]}}]", f"data.validation=[{{paths:[{bad}]}}]")
    assert done.returncode == 2
    assert (
        f"{bad}.bin: token 3013 is outside of the model's vocabulary of 64 (got token id 64)" in done.stderr
        and "nothing was started" in done.stderr
    )
    assert done.stdout == ""


def test_help() -> None:
    for option in ("--help", "-h"):
        done = warm.run([sys.executable, "-m", "trainer.train", option], cwd=REPOSITORY, env=environment())
        assert (done.returncode, done.stderr) == (0, "")
        assert "trireme local OVERRIDES" in done.stdout and "Exit codes: 0 done" in done.stdout
