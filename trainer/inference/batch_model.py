"""Load a model that is given whole texts, such as an encoder or a classifier, and run it on batches of rows.

All ranks know all batches: each replica of the model computes its share of them, and rank 0 gets all results.
b: rows of a batch, s: tokens of its longest row.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import distributed

from trainer.config.model import ModelConfig
from trainer.inference.loading import count_tokens, open_tokenizer, place_model
from trainer.inference.options import ModelOptions
from trainer.inference.stages import run_stages, share_batches
from trainer.model.gpt import GPT
from trainer.parallel.world import World
from trainer.saved_run import SavedRun, open_saved_run
from trireme.tokenizer.tokenizer import Tokenizer

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class InputRow:
    """Hold the tokens of one text."""

    tokens: np.ndarray
    """[n] integers."""
    token_types: np.ndarray | None = None
    """[n] integers; None is 0."""

    def __len__(self) -> int:
        return len(self.tokens)


Take = Callable[[torch.Tensor, Sequence[int]], list[Any]]
"""Takes a result for each row out of an output, [b, s, ...] on the device; the numbers are those of the rows."""


class BatchModel:
    """Run a model on rows.

    Args:
        model: of this rank, in evaluation mode.
        batch_size: rows at once.
    """

    def __init__(self, model: GPT, *, config: ModelConfig, world: World, batch_size: int) -> None:
        self.config, self.world = config, world
        self._model, self._batch_size = model, batch_size

    @property
    def is_driver(self) -> bool:
        """Return whether this rank gets the results."""
        return self.world.rank == 0

    def compute(self, rows: Sequence[InputRow], take: Take) -> Iterator[dict[int, Any]]:
        """Compute all rows, those of similar length together; all ranks call this and exhaust the iterator.

        Args:
            rows: the same on every rank.
            take: called where the output is, without gradients.
        Returns:
            after every batch of all replicas, the results by number of row; on other ranks than 0 an empty dictionary.
        """
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]), reverse=True)
        batches = [order[first : first + self._batch_size] for first in range(0, len(order), self._batch_size)]
        return share_batches(batches, lambda numbers: self._compute_batch(numbers, rows, take), world=self.world)

    def _compute_batch(self, numbers: Sequence[int], rows: Sequence[InputRow], take: Take) -> dict[int, Any]:
        batch = [rows[number] for number in numbers]
        shape = (len(batch), max(map(len, batch)))
        tokens, types = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        starts, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int64)
        for index, row in enumerate(batch):
            size = len(row)
            tokens[index, :size] = row.tokens
            if row.token_types is not None:
                types[index, :size] = row.token_types
            # Padding is a document of its own.
            starts[index, size:] = size
            positions[index] = np.arange(shape[1]) - starts[index]
        output = self._forward(*(torch.from_numpy(values) for values in (tokens, positions, starts, types)))
        if output is None:
            return {}
        return dict(zip(numbers, take(output, numbers), strict=True))

    @torch.inference_mode()
    def _forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, starts: torch.Tensor, types: torch.Tensor
    ) -> torch.Tensor | None:
        """Return the output on the first tensor-parallel rank of the last stage, else None."""
        groups, device = self.world.groups, self.world.device
        inputs = [values.to(device) for values in (tokens, positions, starts)]
        further: dict[str, Any] = {"token_types": types.to(device)} if self.config.num_tokentypes else {}

        def call() -> torch.Tensor:
            output: torch.Tensor = self._model(*inputs, runtime_gather_output=True, **further)
            return output

        rows, length = tokens.shape
        output = run_stages(self._model, call, world=self.world, num_rows=rows, num_tokens=length)
        return output if groups.tp.rank() == 0 else None


@dataclass(frozen=True, kw_only=True)
class LoadedBatchModel:
    """Hold a model that is ready to be given texts."""

    saved: SavedRun
    tokenizer: Tokenizer
    vocab_size: int
    """Tokens, without the padding of the vocabulary."""
    model: BatchModel


def open_for_batches(options: ModelOptions) -> tuple[SavedRun, Tokenizer]:
    """Open the latest valid checkpoint at a path and the model's tokenizer.

    Raises:
        ConfigError: there is no valid checkpoint, or the tokenizer is not the model's.
    """
    saved = open_saved_run(options.path, verify=True)
    return saved, open_tokenizer(options.tokenizer, saved)


def load_batch_model(options: ModelOptions, *, saved: SavedRun, tokenizer: Tokenizer, purpose: str) -> LoadedBatchModel:
    """Load a checkpoint into the layout of the options; all ranks call this.

    Args:
        purpose: completes the message about damaged weights: `cannot predict: ...`.
    Raises:
        ConfigError: on every rank: the model cannot be divided so, or its weights are not finite.
    """
    model, world = place_model(options, saved=saved, purpose=purpose)
    _LOGGER.info("%s, step %d", saved.checkpoint, saved.state.step)
    config = saved.state.model_config()
    return LoadedBatchModel(
        saved=saved,
        tokenizer=tokenizer,
        vocab_size=count_tokens(tokenizer, saved),
        model=BatchModel(model, config=config, world=world, batch_size=options.max_batch_size),
    )


def broadcast_from_driver(value: Any) -> Any:
    """Return rank 0's value on every rank."""
    if distributed.get_world_size() == 1:
        return value
    shared = [value]
    distributed.broadcast_object_list(shared, src=0)
    return shared[0]
