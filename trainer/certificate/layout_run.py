"""Run the steps of one layout on one rank, with the same parts as training, and write what is compared."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from trainer.build import build_engine
from trainer.build_data import build_training_loader
from trainer.certificate.job import Job
from trainer.certificate.noise import RoundingNoise
from trainer.certificate.probes import AFTER_LAYERS, ActivationProbes
from trainer.certificate.trace_file import Direction, Rectangle, TensorName, TraceWriter, trace_path
from trainer.checkpoint.pieces import STATE_PREFIXES, pieces_to_load
from trainer.config.derived import derive_config
from trainer.config.schema import TrainConfig
from trainer.data.micro_batch import MicroBatch
from trainer.engine.base import Engine, StepResult
from trainer.parallel.world import World

_LAYERS = "decoder.layers."
_CLIPPING_EPSILON = 1e-6
"""Added by engines to the norm when they clip, to avoid a division by 0."""


def run_layout(job: Job, *, config: TrainConfig, world: World) -> list[StepResult]:
    """Build the layout, take its steps at the peak learning rate, write weights and traces; all ranks call this."""
    derived = derive_config(
        config, world_size=world.world_size, vocab_size=job.vocab_size, tokenizer_eod_id=job.tokenizer_eod_id
    )
    probes: list[ActivationProbes] = []

    def watch(chunks: Sequence[torch.nn.Module]) -> None:
        if job.noise_seed is not None:
            RoundingNoise(chunks, seed=job.noise_seed, device=world.device)
        if job.num_traced_steps:
            probes.append(
                ActivationProbes(
                    chunks,
                    world=world,
                    seq_length=config.model.seq_length,
                    sequence_parallel=config.parallel.sequence_parallel,
                )
            )

    engine = build_engine(config, derived=derived, world=world, watch=watch)
    loader = build_training_loader(config, derived=derived, world=world)
    recorder = Recorder(engine, config=config, folder=Path(job.folder), rank=world.rank)
    initial = recorder.weights("initial")
    results = []
    with loader:
        for step in range(job.num_steps):
            first_sample = loader.consumed_samples
            batches = prepare_batches(loader.next_step(), job=job, step=step)
            is_traced = step < job.num_traced_steps
            writer = TraceWriter()
            before = recorder.states() if is_traced else {}
            if is_traced:
                probes[0].start(writer, batches, first_sample=first_sample, num=config.training.global_batch_size)
            results.append(engine.train_step(batches, learning_rate=config.optimizer.lr))
            if is_traced:
                probes[0].stop()
                recorder.write_step(step, writer, before=before, result=results[-1])
    recorder.write_weights([*initial, *recorder.weights("final")])
    engine.close()
    return results


def prepare_batches(batches: Sequence[MicroBatch], *, job: Job, step: int) -> list[MicroBatch]:
    """Mask the ends of sequences and reorder micro batches, if the job requires it."""
    batches = [_shorten(batch) for batch in batches] if job.varies_lengths else list(batches)
    if job.noise_seed is not None:
        order = np.random.default_rng((job.noise_seed, step)).permutation(len(batches))
        batches = [batches[index] for index in order]
    return batches


def _shorten(batch: MicroBatch) -> MicroBatch:
    """Mask the end of each sequence, depending on its sample number; at least one target remains."""
    length = batch.loss_mask.shape[1]
    keep = [1 + int(np.random.default_rng(sample).integers(length)) for sample in batch.sample_ids]
    is_kept = torch.arange(length)[None] < torch.tensor(keep)[:, None]
    return replace(batch, loss_mask=batch.loss_mask * is_kept)


class Recorder:
    """Write weights, gradients and updates of this rank under their names in the unsharded model.

    Every engine exposes the optimizer's fp32 state in the same way, so gradients are computed from the first moment
    m: (m_new - beta1 * m_old) / (1 - beta1), divided by the clipping factor.
    """

    def __init__(self, engine: Engine, *, config: TrainConfig, folder: Path, rank: int) -> None:
        self._engine, self._config, self._folder, self._rank = engine, config, folder, rank

    def states(self) -> dict[str, list[tuple[tuple[int, ...], tuple[int, ...], np.ndarray]]]:
        """Copy this rank's optimizer state: key -> (whole shape, offset, values) of each rectangle."""
        found = {}
        for key, pieces in pieces_to_load(self._engine.optimizer_fragments()).items():
            offsets = [tuple(chunk.offsets) for chunk in pieces.__create_chunk_list__()]
            values = [np.array(view.detach().float().cpu().numpy()) for view in pieces.views]
            found[key] = [(tuple(pieces.global_shape), *part) for part in zip(offsets, values, strict=True)]
        return found

    def weights(self, direction: Direction) -> list[Rectangle]:
        """Return the current fp32 weights."""
        prefix = STATE_PREFIXES["param"]
        states = {key: parts for key, parts in self.states().items() if key.startswith(prefix)}
        return list(_rectangles(direction, states, prefix=prefix))

    def write_weights(self, rectangles: Iterable[Rectangle]) -> None:
        """Write the run's weights before the first and after the last step."""
        writer = TraceWriter()
        for rectangle in rectangles:
            writer.add(rectangle)
        writer.save(trace_path(self._folder, rank=self._rank))

    def write_step(self, step: int, writer: TraceWriter, *, before: Mapping[str, list], result: StepResult) -> None:
        """Write the writer's activations, and the gradients and updates of one step."""
        writer.divide("backward", result.loss_scale or 1.0)
        after = self.states()
        clip_grad, beta1 = self._config.optimizer.clip_grad, self._config.optimizer.adam_beta1
        clipping = min(1.0, clip_grad / (result.grad_norm + _CLIPPING_EPSILON)) if clip_grad > 0 else 1.0
        moments, params = STATE_PREFIXES["exp_avg"], STATE_PREFIXES["param"]
        gradients = {}
        for key, parts in after.items():
            pairs = list(zip(before[key], parts, strict=True))
            if key.startswith(moments):
                scale = (1 - beta1) * clipping
                gradients[key] = [(*new[:2], (new[2] - np.float32(beta1) * old[2]) / scale) for old, new in pairs]
        for rectangle in _rectangles("gradient", gradients, prefix=moments):
            writer.add(rectangle)
        both: list[tuple[Direction, Mapping[str, list]]] = [("before", before), ("update", after)]
        for direction, states in both:
            weights = {key: parts for key, parts in states.items() if key.startswith(params)}
            for rectangle in _rectangles(direction, weights, prefix=params):
                writer.add(rectangle)
        writer.save(trace_path(self._folder, rank=self._rank, step=step))


def _rectangles(direction: Direction, states: Mapping[str, list], *, prefix: str) -> Iterator[Rectangle]:
    """Name the parts by layer, if Megatron-Core stacks the layers of a tensor or, with mixed layers, numbers them."""
    for key, parts in states.items():
        name = key.removeprefix(prefix)
        rest = name.removeprefix(_LAYERS)
        number, _, rest_of_numbered = rest.partition(".")
        for shape, offset, values in parts:
            if rest == name:
                order = (0 if name.startswith("embedding.") else AFTER_LAYERS, 0)
                tensor = TensorName(direction=direction, name=name, shape=shape, order=order)
            elif number.isdigit():
                tensor = _in_layer(direction, int(number) + 1, rest_of_numbered, shape)
            else:
                tensor = _in_layer(direction, offset[0] + 1, rest, shape[1:])
                offset, values = offset[1:], values[0]
            yield Rectangle(tensor=tensor, offset=offset, values=values)


def _in_layer(direction: Direction, layer: int, name: str, shape: tuple[int, ...]) -> TensorName:
    return TensorName(direction=direction, name=f"layer {layer} {name}", shape=shape, order=(layer, 0))
