"""Simulate the pipeline schedules of Megatron-Core: when each stage works on which micro batch.

1F1B: stage i runs p - i - 1 forward passes, then alternates one forward and one backward pass, then runs the remaining
backward passes. Interleaved: the same with chunks, which alternate in groups of p micro batches.

Source: Megatron-Core schedules.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_MICROBATCHES = 24
"""Most micro batches to show; the steady state repeats itself."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Describe one pass of one chunk over one micro batch."""

    stage: int
    chunk: int
    micro_batch: int
    is_backward: bool
    start: float
    end: float


def play_schedule(
    forward_seconds: Sequence[float], backward_seconds: Sequence[float], *, num_chunks: int, num_microbatches: int
) -> list[Work]:
    """Simulate one step.

    Args:
        forward_seconds: time of each stage for one micro batch, over all its chunks.
        backward_seconds: the same for the backward pass.
        num_chunks: per stage.
        num_microbatches: a multiple of the number of stages if there are several chunks.
    Returns:
        All passes, by stage and time.
    """
    num_stages = len(forward_seconds)
    orders = [
        _order(stage, num_stages=num_stages, num_chunks=num_chunks, num_microbatches=num_microbatches)
        for stage in range(num_stages)
    ]
    ends: dict[tuple[int, int, int, bool], float] = {}
    clocks, places = [0.0] * num_stages, [0] * num_stages
    done: list[Work] = []
    while any(places[stage] < len(orders[stage]) for stage in range(num_stages)):
        before = len(done)
        for stage in range(num_stages):
            while places[stage] < len(orders[stage]):
                chunk, micro_batch, is_backward = orders[stage][places[stage]]
                needed = _needed(stage, chunk, is_backward, num_stages=num_stages, num_chunks=num_chunks)
                key = None if needed is None else (*needed[:2], micro_batch, needed[2])
                if key is not None and key not in ends:
                    break
                start = max(clocks[stage], 0.0 if key is None else ends[key])
                seconds = (backward_seconds if is_backward else forward_seconds)[stage] / num_chunks
                clocks[stage] = start + seconds
                ends[stage, chunk, micro_batch, is_backward] = clocks[stage]
                done.append(
                    Work(
                        stage=stage,
                        chunk=chunk,
                        micro_batch=micro_batch,
                        is_backward=is_backward,
                        start=start,
                        end=clocks[stage],
                    )
                )
                places[stage] += 1
        assert len(done) > before, "a schedule that waits for itself"
    return sorted(done, key=lambda work: (work.stage, work.start))


def _needed(
    stage: int, chunk: int, is_backward: bool, *, num_stages: int, num_chunks: int
) -> tuple[int, int, bool] | None:
    """Return the pass whose result this one needs: (stage, chunk, is_backward), or None for the first one."""
    if not is_backward:
        if stage > 0:
            return stage - 1, chunk, False
        return None if chunk == 0 else (num_stages - 1, chunk - 1, False)
    if stage < num_stages - 1:
        return stage + 1, chunk, True
    return (stage, chunk, False) if chunk == num_chunks - 1 else (0, chunk + 1, True)


def _order(stage: int, *, num_stages: int, num_chunks: int, num_microbatches: int) -> list[tuple[int, int, bool]]:
    """Return the passes of a stage in order: (chunk, micro batch, is_backward)."""
    total = num_microbatches * num_chunks
    if num_chunks == 1:
        warm_up = min(num_stages - stage - 1, total)
    else:
        warm_up = min(2 * (num_stages - stage - 1) + (num_chunks - 1) * num_stages, total)
    forward = [(*_nth(number, num_stages, num_chunks), False) for number in range(total)]
    backward = [
        (num_chunks - 1 - chunk, batch, True)
        for chunk, batch in (_nth(number, num_stages, num_chunks) for number in range(total))
    ]
    order = forward[:warm_up]
    for number in range(warm_up, total):
        order += [forward[number], backward[number - warm_up]]
    return order + backward[total - warm_up :]


def _nth(number: int, num_stages: int, num_chunks: int) -> tuple[int, int]:
    """Return chunk and micro batch of the n-th forward pass."""
    if num_chunks == 1:
        return 0, number
    group, inside = divmod(number, num_stages * num_chunks)
    chunk, place = divmod(inside, num_stages)
    return chunk, group * num_stages + place
