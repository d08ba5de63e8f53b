"""Run a model's forward passes with a key-value cache under any layout; one rank decides, the others follow.

b: rows of a replica, s: new tokens of a row, v: tokens of the vocabulary.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from trainer.inference.stages import run_stages
from trainer.model.adapter_bank import AdapterBank
from trainer.model.cache import CachedStep, KeyValueCache
from trainer.model.gpt import GPT
from trainer.parallel.world import World

_NO_LIMIT = datetime.timedelta(days=3650)
"""Followers wait for the next step as long as the user takes."""


@dataclass(frozen=True, kw_only=True)
class NewTokens:
    """Hold the tokens that a step adds to a row."""

    row: int
    start: int
    """Positions of the row that are in the cache before."""
    tokens: tuple[int, ...]
    adapter: int = 0
    """Number of the adapter in the bank; 0 for none."""


@dataclass(frozen=True, kw_only=True)
class MoveRow:
    """Move cached positions between two rows, before the tokens are added."""

    source: int
    target: int
    length: int
    swaps: bool
    """Exchange the rows; otherwise `source` is copied to `target`."""


@dataclass(frozen=True, kw_only=True)
class ReplicaStep:
    """Hold what one replica of the model does in a step."""

    moves: tuple[MoveRow, ...] = ()
    rows: tuple[NewTokens, ...] = ()
    """Ascending by row."""


class ModelRunner:
    """Run forward passes of a model that is spread over the ranks of a layout.

    Rank 0 calls `run` with each step, and all others call `follow` once. Data-parallel replicas have rows of their own;
    with expert parallelism they share experts, so each takes part in each step, if need be with a token that is
    dropped.

    Args:
        model: this stage's chunk, in evaluation mode, built with `reset_position_ids`.
        num_rows: rows of a replica's cache.
        max_length: the model's context.
        adapters: of which each row uses one or none.
        packs_weights: pack the weights on a CPU, for speed: the model can be used for nothing else afterwards.
    """

    def __init__(
        self,
        model: GPT,
        *,
        world: World,
        num_rows: int,
        max_length: int,
        adapters: AdapterBank | None = None,
        packs_weights: bool = True,
    ) -> None:
        assert not model.training
        self._adapters = adapters
        if packs_weights:
            model.pack_weights()
        self._model, self._world, self._max_length = model, world, max_length
        self.num_rows, self.num_replicas = num_rows, world.dp_size
        # One more row, for the token that a replica without rows computes under expert parallelism.
        self._cache = KeyValueCache(num_rows=num_rows + 1)
        self._has_shared_experts = world.groups.ep.size() > 1
        self._control: distributed.ProcessGroup | None = None
        self._sources = [0]
        if world.world_size > 1:
            self._control = distributed.new_group(backend="gloo", timeout=_NO_LIMIT)
            self._sources = self._find_sources()

    @property
    def cache_bytes(self) -> int:
        """Return the memory of this rank's cache."""
        return self._cache.memory_bytes

    def run(self, steps: Sequence[ReplicaStep]) -> list[torch.Tensor | None]:
        """Run one step on all ranks; rank 0 calls this.

        Args:
            steps: one for each replica.
        Returns:
            for each replica the logits after the last token of each row: [b, v] fp32 on the CPU; None without rows.
        """
        assert self._world.rank == 0 and len(steps) == self.num_replicas
        self._send(tuple(steps))
        return self._execute(steps)

    def follow(self) -> None:
        """Take part in the steps of rank 0, until it calls `stop`; all other ranks call this."""
        while (steps := self._receive()) is not None:
            self._execute(steps)

    def stop(self) -> None:
        """End `follow` on the other ranks; rank 0 calls this."""
        self._send(None)

    def _send(self, steps: tuple[ReplicaStep, ...] | None) -> None:
        if self._control is not None:
            distributed.broadcast_object_list([steps], src=0, group=self._control, device=torch.device("cpu"))

    def _receive(self) -> tuple[ReplicaStep, ...] | None:
        received: list[tuple[ReplicaStep, ...] | None] = [None]
        distributed.broadcast_object_list(received, src=0, group=self._control, device=torch.device("cpu"))
        return received[0]

    def _find_sources(self) -> list[int]:
        """Return the rank that has each replica's logits: the first of its last stage."""
        mine = (self._world.rank, self._world.dp_rank, self._world.tp_rank, self._world.pp_rank)
        places: list[Any] = [None] * self._world.world_size
        distributed.all_gather_object(places, mine, group=self._control)
        last = self._world.pp_size - 1
        found = {dp_rank: rank for rank, dp_rank, tp_rank, pp_rank in places if (tp_rank, pp_rank) == (0, last)}
        return [found[replica] for replica in range(self.num_replicas)]

    @torch.inference_mode()
    def _execute(self, steps: Sequence[ReplicaStep]) -> list[torch.Tensor | None]:
        """Run this rank's replica, and bring the logits of all replicas to rank 0."""
        mine = steps[self._world.dp_rank]
        for move in mine.moves:
            act = self._cache.swap_rows if move.swaps else self._cache.copy_row
            act(move.source, move.target, length=move.length)
        logits = None
        if mine.rows:
            logits = self._forward(mine.rows)
        elif self._has_shared_experts and any(step.rows for step in steps):
            self._forward((NewTokens(row=self.num_rows, start=0, tokens=(0,)),))
        return self._collect(logits, steps=steps)

    def _forward(self, rows: Sequence[NewTokens]) -> torch.Tensor | None:
        """Return logits [b, v] on the ranks of the last stage, else None."""
        step = CachedStep(
            self._cache,
            rows=[new.row for new in rows],
            starts=[new.start for new in rows],
            counts=[len(new.tokens) for new in rows],
            max_length=self._max_length,
            device=self._world.device,
        )
        if self._adapters is not None:
            self._adapters.select([new.adapter for new in rows], device=self._world.device)
        width = step.num_new
        tokens = [new.tokens + (0,) * (width - len(new.tokens)) for new in rows]
        ids = torch.tensor(tokens, dtype=torch.int64, device=self._world.device)

        def call() -> torch.Tensor:
            # Megatron-Core passes the step on to the core attention, as the attention mask.
            output: torch.Tensor = self._model(ids, step.position_ids, step)
            return output

        output = run_stages(self._model, call, world=self._world, num_rows=len(rows), num_tokens=width)
        return None if output is None else output[:, -1]

    def _collect(self, logits: torch.Tensor | None, *, steps: Sequence[ReplicaStep]) -> list[torch.Tensor | None]:
        """Send the replicas' logits to rank 0; return them there, else nothing."""
        rank = self._world.rank
        if logits is not None:
            logits = logits.float().cpu().contiguous()
        collected: list[torch.Tensor | None] = []
        for step, source in zip(steps, self._sources, strict=True):
            if not step.rows:
                collected.append(None)
            elif rank == 0 == source:
                collected.append(logits)
            elif rank == 0:
                received = torch.empty(len(step.rows), self._model.vocab_size)
                distributed.recv(received, src=source, group=self._control)
                collected.append(received)
            elif rank == source:
                assert logits is not None
                distributed.send(logits, dst=0, group=self._control)
        return collected
