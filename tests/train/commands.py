"""The real commands on a small model, and what they leave behind."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from tests import warm
from trainer.parallel import cpu_shim

cpu_shim.install()

from trainer.checkpoint.dcp import SafeReader, read_pieces  # noqa: E402 - as above
from trainer.checkpoint.pieces import ShardedTensorView  # noqa: E402 - as above
from trainer.metrics.jsonl import read_records  # noqa: E402 - as above

REPOSITORY = Path(__file__).resolve().parents[2]
VOCAB_SIZE = 64
SMALL = (
    "model.num_layers=4",
    "model.hidden_size=32",
    "model.ffn_hidden_size=48",
    "model.num_attention_heads=4",
    "model.num_query_groups=2",
    "model.seq_length=32",
    f"model.vocab_size={VOCAB_SIZE}",
    "model.make_vocab_size_divisible_by=64",
    "training.train_iters=20",
    "training.global_batch_size=8",
    "training.micro_batch_size=2",
    "training.eval_interval=0",
    "optimizer.lr=1e-3",
    "lr_schedule.warmup_steps=3",
    "checkpoint.save_interval=0",
    "checkpoint.keep_last=0",
    "logging.wandb.mode=disabled",
    "logging.progress='off'",
    "cluster.timeout_seconds=60",
)


def counting_documents(*, num_tokens: int = 20_000) -> list[np.ndarray]:
    """Documents that count upwards: something to learn within a few steps."""
    generator = np.random.default_rng(5)
    documents: list[np.ndarray] = []
    while sum(map(len, documents)) < num_tokens:
        start, length = generator.integers(0, VOCAB_SIZE), generator.integers(10, 200)
        documents.append((start + np.arange(length)) % VOCAB_SIZE)
    return documents


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **changes}


def planted(fault: str) -> dict[str, str]:
    """Variables of a real run in which a rank goes wrong: `WHAT:RANK:STEP`, see `faults/sitecustomize.py`."""
    return {"TRIREME_TEST_FAULT": fault, "PYTHONPATH": str(Path(__file__).parent / "faults")}


def command_of(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "launch.local", *overrides]


def launch(*overrides: str, timeout_seconds: float = 240) -> subprocess.CompletedProcess[str]:
    """Run the training command to its end, warm."""
    return warm.run(command_of(*overrides), cwd=REPOSITORY, env=environment(), timeout_seconds=timeout_seconds)


def losses_of(run_directory: Path) -> dict[int, float]:
    """Training loss by step; every step must be there once."""
    records = [record for record in read_records(run_directory / "metrics.jsonl") if record["kind"] == "train"]
    losses = {record["step"]: record["loss"] for record in records}
    assert len(losses) == len(records), "a step was recorded twice"
    return losses


def tensors_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every weight and moment of a checkpoint, whole."""
    tensors, pieces = {}, {}
    for key, entry in SafeReader(checkpoint).read_metadata().state_dict_metadata.items():
        if not key.startswith("random_state"):
            tensors[key] = torch.full(entry.size, torch.nan)
            pieces[key] = ShardedTensorView(entry.size, dtype=torch.float32)
            pieces[key].add((0,) * len(entry.size), tensors[key])
    read_pieces(checkpoint, pieces)
    assert not any(bool(tensor.isnan().any()) for tensor in tensors.values())
    return tensors
