"""Trace activations and their gradients through the layers, with their positions in the global batch.

s: sequence of this rank, b: sequences of a micro batch, h: hidden size, n: heads of this rank, d: channels of a head.
S and B are the whole sequence and the global batch.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from megatron.core.transformer.identity_op import IdentityOp
from torch import nn

from trainer.certificate.trace_file import Direction, Rectangle, TensorName, TraceWriter
from trainer.data.micro_batch import MicroBatch
from trainer.model.gpt import GPT
from trainer.model.heads import TaskHead
from trainer.model.sequence_exchange import slice_for_context_parallel
from trainer.parallel.world import World

Kind = Literal["hidden", "heads", "loss"]
"""[s, b, h], cut along s by sequence parallelism; [s, b, n, d] or [s, b, n * d], cut along n by tensor parallelism;
[b, s], or [b, s, k] scores of a task's head."""

AFTER_LAYERS = 1_000_000
"""Layer number of what follows the last layer."""


@dataclass(frozen=True, kw_only=True)
class _Probe:
    name: str
    kind: Kind
    order: tuple[int, int]


class ActivationProbes:
    """Write activations and gradients of the model's chunks between `start` and `stop`.

    The first forward pass of each micro batch is written, and the gradient of each of its tensors. What is recomputed
    in the backward pass is not written a second time.
    """

    def __init__(self, chunks: Sequence[nn.Module], *, world: World, seq_length: int, sequence_parallel: bool) -> None:
        self._world = world
        self._seq_length = seq_length
        self._positions = self._positions_of_this_rank(sequence_parallel)
        self._writer: TraceWriter | None = None
        self._samples: list[np.ndarray] = []
        self._num_samples = 0
        self._calls: Counter[tuple[int, str, bool]] = Counter()
        self._chunks = chunks
        for index, chunk in enumerate(chunks):
            self._watch(chunk, index)

    def start(self, writer: TraceWriter, micro_batches: Sequence[MicroBatch], *, first_sample: int, num: int) -> None:
        """Write the next step.

        Args:
            first_sample: number of the global batch's first sample.
            num: samples of the global batch.
        """
        self._writer = writer
        self._compute_all_positions(True)
        self._samples = [np.array(batch.sample_ids) - first_sample for batch in micro_batches]
        self._num_samples = num
        self._calls.clear()

    def stop(self) -> None:
        """Stop writing."""
        self._writer = None
        self._compute_all_positions(False)

    def _compute_all_positions(self, is_on: bool) -> None:
        for chunk in self._chunks:
            if isinstance(chunk, GPT):
                chunk.computes_all_positions = is_on

    def _positions_of_this_rank(self, sequence_parallel: bool) -> dict[Kind, np.ndarray]:
        """Return the sequence positions of each kind of tensor on this rank, from the function that slices batches."""
        world = self._world
        whole = torch.arange(self._seq_length)[None]
        own = slice_for_context_parallel(whole, cp_rank=world.cp_rank, cp_size=world.cp_size)[0].numpy()
        hidden = np.split(own, world.tp_size)[world.tp_rank] if sequence_parallel else own
        return {"hidden": hidden, "heads": own, "loss": own}

    def _watch(self, chunk: Any, index: int) -> None:
        if getattr(chunk, "pre_process", False):
            self._watch_output(chunk.embedding, index, _Probe(name="embedding", kind="hidden", order=(0, 0)))
        for layer in chunk.decoder.layers:
            self._watch_layer(layer, index)
        if getattr(chunk, "post_process", False):
            norm = _Probe(name="final norm", kind="hidden", order=(AFTER_LAYERS, 0))
            self._watch_output(chunk.decoder.final_layernorm, index, norm)
            name = "scores" if isinstance(chunk.head, TaskHead) else "loss"
            self._watch_output(chunk, index, _Probe(name=name, kind="loss", order=(AFTER_LAYERS, 1)))

    def _watch_layer(self, layer: Any, index: int) -> None:
        number = int(layer.layer_number)

        def probe(part: str, place: int, kind: Kind = "hidden") -> _Probe:
            return _Probe(name=f"layer {number} {part}", kind=kind, order=(number, place))

        attention = layer.self_attention
        self._watch_output(layer.input_layernorm, index, probe("input norm", 0))
        inputs = [probe(f"attention {name}", 1 + i, "heads") for i, name in enumerate(("query", "key", "value"))]
        self._watch_inputs(attention.core_attention, index, inputs)
        self._watch_output(attention.core_attention, index, probe("attention context", 4, "heads"))
        self._watch_output(attention, index, probe("attention", 5))
        self._watch_output(layer.pre_mlp_layernorm, index, probe("norm before the MLP", 6))
        self._watch_output(layer.mlp, index, probe("MLP", 7))
        self._watch_output(layer, index, probe("output", 8))

    def _watch_output(self, module: nn.Module | None, index: int, probe: _Probe) -> None:
        if module is None or isinstance(module, IdentityOp):
            return

        def hook(_: nn.Module, __: Any, output: Any) -> None:
            self._see(output[0] if isinstance(output, tuple) else output, index, probe)

        module.register_forward_hook(hook)

    def _watch_inputs(self, module: nn.Module, index: int, probes: Sequence[_Probe]) -> None:
        def hook(_: nn.Module, arguments: tuple[Any, ...], __: dict[str, Any]) -> None:
            for tensor, probe in zip(arguments, probes, strict=False):
                self._see(tensor, index, probe)

        module.register_forward_pre_hook(hook, with_kwargs=True)

    def _see(self, tensor: torch.Tensor, chunk: int, probe: _Probe) -> None:
        if self._writer is None:
            return
        is_recomputed = torch._C._current_graph_task_id() != -1  # as torch.utils.checkpoint asks
        call = (chunk, probe.name, is_recomputed)
        # The schedules take each chunk's micro batches in order, forward as backward.
        micro_batch = self._calls[call]
        self._calls[call] += 1
        if not is_recomputed:
            self._write(tensor.detach(), micro_batch, probe, "forward")
        if tensor.requires_grad and probe.kind != "loss":
            tensor.register_hook(lambda gradient: self._write_gradient(gradient, micro_batch, probe))

    def _write_gradient(self, gradient: torch.Tensor, micro_batch: int, probe: _Probe) -> None:
        # The engine averages over data-parallel ranks what each of them has scaled up (trainer.engine.forward).
        scale = self._world.dp_size * self._world.cp_size
        self._write(gradient.detach() / scale, micro_batch, probe, "backward")

    def _write(self, tensor: torch.Tensor, micro_batch: int, probe: _Probe, direction: Direction) -> None:
        if self._writer is None:
            return
        values = np.array(tensor.float().cpu().numpy())
        positions, samples = self._positions[probe.kind], self._samples[micro_batch]
        is_loss = probe.kind == "loss"
        axes = [samples, positions] if is_loss else [positions, samples]
        sizes = (self._num_samples, self._seq_length) if is_loss else (self._seq_length, self._num_samples)
        inner, start = values.shape[2:], [0] * (values.ndim - 2)
        if probe.kind == "heads":
            start[0] = self._world.tp_rank * inner[0]
            inner = (inner[0] * self._world.tp_size, *inner[1:])
        name = TensorName(direction=direction, name=probe.name, shape=(*sizes, *inner), order=probe.order)
        for first in _runs(axes[0]):
            for second in _runs(axes[1]):
                offset = (int(axes[0][first.start]), int(axes[1][second.start]), *start)
                self._writer.add(Rectangle(tensor=name, offset=offset, values=values[first, second]))


def _runs(places: np.ndarray) -> Iterator[slice]:
    """Split ascending places into runs of consecutive ones."""
    bounds = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
    for start, end in itertools.pairwise(bounds):
        yield slice(start, end)
