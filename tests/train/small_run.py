"""A run of a few steps with a tokenizer, and the commands that open it."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tokenizers

from tests import warm
from tests.data.shards import write_shard
from tests.train.commands import REPOSITORY, SMALL, environment, tensors_of
from trainer.checkpoint.collective import Ranks
from trainer.checkpoint.directory import begin, commit
from trainer.checkpoint.manifest import write_durably
from trainer.checkpoint.pieces import ShardedTensorView
from trainer.checkpoint.save import write_pieces
from trainer.checkpoint.trainer_state import STATE_NAME, read_state, write_state
from trireme.tokenizer.tokenizer import Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,é中"
"""One token each, behind the end of a document and the unknown token."""
VOCAB_SIZE = 2 + len(LETTERS)


def write_tokenizer(path: Path, *, letters: str = LETTERS) -> Path:
    """A tokenizer.json in which a letter is a token."""
    names = ["</s>", "<unk>", *letters]
    model = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=[], unk_token="<unk>")
    )
    model.decoder = tokenizers.decoders.Fuse()
    model.add_special_tokens(["</s>"])
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(str(path))
    return path


def train(folder: Path, *further: str) -> Path:
    """Train 4 steps in `folder`, with every path relative to it, and return the run directory."""
    tokenizer = Tokenizer(write_tokenizer(folder / "data" / "tokenizer.json"))
    generator = np.random.default_rng(3)
    for name in ("train", "validation"):
        documents = [np.append(generator.integers(2, VOCAB_SIZE, 40), tokenizer.eos_id) for _ in range(60)]
        write_shard(
            folder / "data" / name, documents, tokenizer_sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size
        )
    done = run_command(
        "trainer.train",
        *(line for line in SMALL if not line.startswith("model.vocab_size")),
        "data.train=[{paths:[data/train]}]",
        "data.validation=[{paths:[data/validation]}]",
        "tokenizer.path=data/tokenizer.json",
        "run_name=small",
        "training.train_iters=4",
        "training.eval_iters=2",
        *further,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder / "outputs" / "small"


def run_command(module: str, *arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, warm."""
    return warm.run([sys.executable, "-m", module, *arguments], cwd=cwd, env=environment(**variables))


def start_cold(
    module: str, *arguments: str | bytes, cwd: Path, variables: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Start a command as a shell does, where the process itself is tested."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env={**environment(), "PYTHONPATH": str(REPOSITORY), **(variables or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def change_weights(run_directory: Path, key: str, value: float) -> None:
    """Put a number into a weight of a run's only checkpoint, as a fault before the save would."""
    (checkpoint,) = (run_directory / "checkpoints").iterdir()
    tensors = tensors_of(checkpoint)
    tensors[f"model.{key}"].view(-1)[3] = value
    pieces = {name: ShardedTensorView(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        pieces[name].add((0,) * tensor.dim(), tensor)
    state, temporary = read_state(checkpoint), begin(run_directory, step=4)
    files = write_pieces(temporary, pieces, ranks=Ranks(is_alone=True))
    for name in ("tokenizer.json", "config.yaml"):
        files[name] = write_durably(temporary / name, (checkpoint / name).read_bytes())
    files[STATE_NAME] = write_state(temporary, state)
    commit(temporary, step=state.step, files=files)
