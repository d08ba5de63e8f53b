"""Read rows of tokens from shards, and compute a model's loss on them with a confidence interval.

b: rows, s: tokens of a row.
"""

from pathlib import Path

import numpy as np
import torch

from trainer.config.model import ModelConfig
from trainer.data.token_dataset import TokenDataset
from trainer.model.gpt import GPT
from trainer.scores.perplexities import Comparison, compare_perplexities
from trireme.errors import ConfigError, Violation
from trireme.shards.shard import ShardReader

MAX_ROW_LENGTH = 512
_BATCH_TOKENS = 2048


def choose_row_length(given: int | None, *, model: ModelConfig) -> int:
    """Return the tokens of a row: the given number, or the model's seq_length, at most `MAX_ROW_LENGTH`.

    Raises:
        ConfigError: the model has fewer positions.
    """
    if given is None:
        return min(model.seq_length, MAX_ROW_LENGTH, model.num_positions)
    if given > model.num_positions:
        message, fix = f"must be at most {model.num_positions}, the positions of the model", "Use fewer."
        raise ConfigError([Violation(path="--row-length", value=given, message=message, fix=fix)])
    return given


def read_rows(prefix: Path, *, num_rows: int, seq_length: int, vocab_size: int, path: str, seed: int) -> torch.Tensor:
    """Read random windows of a token shard, each at most once: [b, s + 1] int64.

    Args:
        prefix: of the shard, without .bin and .idx.
        num_rows: b; fewer if the shard has fewer windows.
        seq_length: s.
        vocab_size: of the model.
        path: the user's name of the prefix, for messages.
        seed: of the choice.
    Raises:
        ConfigError: the shard cannot be used, is shorter than a row, or has tokens that the model does not know.
    """
    num_tokens = ShardReader(prefix).num_tokens
    if num_tokens <= seq_length:
        message = f"has {num_tokens} tokens, but a row has {seq_length}, and the one after it"
        fix = "Give a larger shard, or a smaller --row-length."
        raise ConfigError([Violation(path=path, value=prefix, message=message, fix=fix)])
    dataset = TokenDataset([prefix], seq_length=seq_length)
    chosen = np.sort(np.random.default_rng(seed).permutation(dataset.num_windows)[:num_rows])
    rows = np.empty((len(chosen), seq_length + 1), np.int64)
    dataset.read_windows(chosen, out=rows, rows=range(len(chosen)))
    dataset.close()
    if int(rows.max()) >= vocab_size:
        message = f"contains token {int(rows.max())}, but the model has {vocab_size} tokens"
        fix = "Give a shard that was made with the model's tokenizer."
        raise ConfigError([Violation(path=path, value=prefix, message=message, fix=fix)])
    return torch.from_numpy(rows)


@torch.no_grad()
def row_losses(model: GPT, rows: torch.Tensor) -> np.ndarray:
    """Return the mean cross entropy of each row's tokens after the first, in nats: [b] fp64.

    Args:
        model: the whole model in this process, in evaluation mode.
        rows: [b, s + 1].
    """
    device = next(model.parameters()).device
    length = rows.shape[1] - 1
    step = max(1, _BATCH_TOKENS // length)
    losses = []
    for part in rows.split(step):
        tokens, labels = part[:, :-1].contiguous().to(device), part[:, 1:].contiguous().to(device)
        positions = torch.arange(length, device=device).expand_as(tokens)
        losses.append(model(tokens, positions, None, labels=labels).double().mean(dim=1).cpu().numpy())
    return np.concatenate(losses)


def compare_losses(before: np.ndarray, after: np.ndarray, *, seq_length: int) -> Comparison:
    """Compare the perplexities of two models, with intervals from a bootstrap over rows.

    Args:
        before, after: [b] losses in nats from `row_losses`, of the same rows.
        seq_length: tokens of a row.
    """
    return compare_perplexities(
        before * seq_length, after * seq_length, num_tokens=np.full(len(before), float(seq_length))
    )
