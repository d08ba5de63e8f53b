"""The runs of the chaos suite and what goes wrong in each. Steps and places are drawn from a seed."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.chaos import damage
from tests.train.commands import SMALL

NUM_STEPS = 16
SAVE_INTERVAL = 4
GLOBAL_BATCH_SIZE = 8
Design = Literal["equal", "within 1e-6", "equal to its replay"]

SETTINGS = (
    *(setting for setting in SMALL if not setting.startswith(("training.train_iters", "checkpoint."))),
    f"training.train_iters={NUM_STEPS}",
    f"checkpoint.save_interval={SAVE_INTERVAL}",
    "checkpoint.keep_last=0",
    "data.verify=checksum",
    "recovery.max_skipped_steps=2",
    "recovery.skip_steps_before=0",
    "health.heartbeat_seconds=0.3",
    "health.hang_min_seconds=6",
    "health.hang_step_multiple=20",
    "health.straggler_interval=4",
)
DROPOUT = ("model.hidden_dropout=0.1", "model.attention_dropout=0.1")
WANDB_ONLINE = "logging.wandb.mode=online"
ENGINES: dict[str, tuple[str, ...]] = {
    "deepspeed dp2": ("engine=deepspeed", "parallel=dp2", *DROPOUT),
    "megatron pp2": ("engine=megatron", "parallel=pp2", *DROPOUT),
}
ELASTIC: tuple[tuple[tuple[str, ...], int], ...] = (
    (("engine=deepspeed", "parallel=dp2"), 2),
    (("engine=megatron", "parallel=pp2"), 2),
    (("engine=deepspeed", "parallel=single", "training.micro_batch_size=4"), 1),
    (("engine=megatron", "parallel=tp2"), 2),
    (("engine=deepspeed", "parallel=dp2", "engine.zero_stage=2"), 2),
)
SPIKE = (
    "recovery=act",
    "recovery.spike_window=6",
    "recovery.spike_threshold=2",
    "recovery.spike_patience=2",
    "recovery.skip_steps_before=0",
    "optimizer.lr=1e-2",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault of a run, as the table has it."""

    fault: str
    """In words."""
    kind: str
    """Of `Fault`, or of `tests.chaos.damage`."""
    step: int | None = None
    """In which it happens; None for damage between two starts."""
    start: int | None = None
    """The start behind which damage is done, from 0; -1 before the first."""
    sign: str | None = None
    """What rank 0's log says when it is detected; None where the start ends."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One run."""

    name: str
    reference: str
    """The undisturbed run that it is compared with, see `REFERENCES`."""
    design: Design
    rows: tuple[Row, ...]
    faults: tuple[dict[str, Any], ...] = ()
    commands: tuple[tuple[tuple[str, ...], int], ...]
    damages: dict[int, Callable[[Path, Path], None]] = field(default_factory=dict)
    """By start, from 0 (-1: before the first): given the run's directory and the shard's prefix."""
    skipped_samples: tuple[int, int] = (0, 0)
    needs_small_disk: bool = False
    wandb_server: Literal["silent", "cut"] | None = None
    """One that never answers, or one that takes the run and is cut off by a fault."""


REFERENCES: dict[str, tuple[str, ...]] = {**ENGINES, "elastic": ELASTIC[0][0]}


def long_form(seed: int) -> list[Scenario]:
    """Every fault."""
    return [scenario for engine in ENGINES for scenario in _of_engine(engine, seed=seed)] + [_elastic(seed)]


def draw_steps(name: str, *, seed: int, count: int, first: int = 2, last: int = NUM_STEPS - 1) -> list[int]:
    """Different steps in order, of this scenario alone."""
    return sorted(random.Random(f"{seed} {name}").sample(range(first, last + 1), count))


def _seconds(name: str, *, seed: int) -> float:
    """A moment within a step, whatever the process does then."""
    return round(random.Random(f"{seed} {name} seconds").uniform(0.001, 0.08), 3)


def _of_engine(engine: str, *, seed: int) -> list[Scenario]:
    scenarios = [
        _kills(engine, seed=seed),
        _kills_in_saves(engine, seed=seed),
        _ends(engine, seed=seed),
        _standstills(engine, seed=seed),
        _not_finite_in_a_row(engine, seed=seed),
        _not_finite_once(engine, seed=seed),
        _spike(engine),
        _damaged_checkpoints(engine, seed=seed),
        _damaged_shards(engine, seed=seed),
        _full_disk(engine),
        _wandb_outage(engine),
        _wandb_cut(engine, seed=seed),
    ]
    return [*scenarios, _slow(engine, seed=seed)] if "dp2" in engine else scenarios


def build_scenario(
    engine: str, name: str, rows: Sequence[Row], faults: Sequence[dict[str, Any]], **further: Any
) -> Scenario:
    settings = {"reference": engine, "design": "equal", "commands": ((ENGINES[engine], 2),)}
    return Scenario(name=f"{engine}: {name}", rows=tuple(rows), faults=tuple(faults), **{**settings, **further})


def _kills(engine: str, *, seed: int) -> Scenario:
    name = f"{engine} kill"
    faults, rows = [], []
    for number, step in enumerate(draw_steps(name, seed=seed, count=5)):
        rank, seconds = number % 2, _seconds(f"{name} {number}", seed=seed)
        faults.append({"kind": "kill", "rank": rank, "step": step, "seconds": seconds})
        rows.append(Row(fault=f"kill -9 of rank {rank}, {seconds} s into step {step}", kind="kill", step=step))
    return build_scenario(engine, "kill -9 at random steps", rows, faults)


def _kills_in_saves(engine: str, *, seed: int) -> Scenario:
    faults, rows = [], []
    for number, (rank, writes) in enumerate([(0, 0), (1, 0), (0, 2), (0, 4)]):
        # It takes hold when the step begins, so that the next save is that of the step.
        step = SAVE_INTERVAL * (1 + number % 4)
        faults.append({"kind": "kill_in_save", "rank": rank, "step": step, "writes": writes})
        what = f"kill -9 of rank {rank} in the asynchronous save of step {step}, {writes} files in"
        rows.append(Row(fault=what, kind="kill_in_save", step=step))
    return build_scenario(engine, "kill -9 inside saves", rows, faults)


def _ends(engine: str, *, seed: int) -> Scenario:
    name = f"{engine} ends"
    first, second, third, fourth = draw_steps(name, seed=seed, count=4, last=11)
    seconds = _seconds(name, seed=seed)
    faults = [
        {"kind": "kill_job", "rank": 0, "step": first, "seconds": seconds},
        {"kind": "raise", "rank": 1, "step": second},
        {"kind": "kill_job", "rank": 1, "step": third},
        {"kind": "sigterm", "rank": 0, "step": fourth, "seconds": seconds},
        {"kind": "sigterm_in_save", "rank": 0, "step": 12},
    ]
    rows = [
        Row(fault=f"kill -9 of launcher and ranks, {seconds} s into step {first}", kind="kill_job", step=first),
        Row(fault=f"rank 1 raises in step {second}", kind="raise", step=second),
        Row(fault=f"kill -9 of launcher and ranks as step {third} begins", kind="kill_job", step=third),
        Row(fault=f"SIGTERM in step {fourth}", kind="sigterm", step=fourth),
        Row(fault="SIGTERM while the checkpoint of step 12 is written", kind="sigterm_in_save", step=12),
    ]
    return build_scenario(engine, "ends of other kinds", rows, faults)


def _standstills(engine: str, *, seed: int) -> Scenario:
    first, second = draw_steps(f"{engine} standstill", seed=seed, count=2, first=4)
    seconds = _seconds(f"{engine} standstill", seed=seed)
    faults = [
        {"kind": "stop", "rank": 1, "step": first, "seconds": seconds},
        {"kind": "hang", "rank": 0, "step": second},
    ]
    rows = [
        Row(fault=f"SIGSTOP of rank 1 in step {first}", kind="stop", step=first),
        Row(fault=f"rank 0 hangs in step {second}", kind="hang", step=second),
    ]
    return build_scenario(engine, "standstills", rows, faults)


def _not_finite_in_a_row(engine: str, *, seed: int) -> Scenario:
    step = random.Random(f"{seed} {engine} row").randint(6, 7)
    faults = [
        {"kind": "nan_gradient", "rank": 1, "step": step, "last_step": step + 1},
        {"kind": "inf_loss", "rank": 1, "step": step + 4, "last_step": step + 5},
    ]
    rows = [
        Row(fault=f"NaN gradient on rank 1, steps {step} and {step + 1}", kind="nan_gradient", step=step),
        Row(fault=f"infinite loss on rank 1, steps {step + 4} and {step + 5}", kind="inf_loss", step=step + 4),
    ]
    return build_scenario(engine, "not finite in a row", rows, faults)


def _not_finite_once(engine: str, *, seed: int) -> Scenario:
    first, second, third = (2 * half for half in draw_steps(f"{engine} once", seed=seed, count=3, last=7))
    kinds = ((first, "nan_gradient", 0), (second, "nan_gradient", 1), (third, "inf_loss", 1))
    faults = [{"kind": kind, "rank": rank, "step": step} for step, kind, rank in kinds]
    words = {"nan_gradient": "NaN gradient", "inf_loss": "infinite loss"}
    rows = [Row(fault=f"{words[kind]} on rank {rank}, step {step}", kind=kind, step=step) for step, kind, rank in kinds]
    return build_scenario(engine, "not finite once", rows, faults, design="equal to its replay")


def _spike(engine: str) -> Scenario:
    # Steps 10 and 11 read the samples 72 to 87.
    faults = [{"kind": "bad_samples", "rank": None, "first": 72, "end": 88}]
    rows = [Row(fault="wrong labels in samples 72 to 87: a loss spike", kind="bad_samples", step=10)]
    commands = (((*ENGINES[engine], *SPIKE), 2),)
    design: Design = "equal to its replay"
    return build_scenario(
        engine, "loss spike", rows, faults, design=design, commands=commands, skipped_samples=(72, 88)
    )


def _damaged_checkpoints(engine: str, *, seed: int) -> Scenario:
    name = f"{engine} damage"
    # By step 7 the saves of steps 2 and 4 have ended: there is always an older one to go on from.
    steps = draw_steps(name, seed=seed, count=4, first=7)
    faults = [{"kind": "kill", "rank": 0, "step": step} for step in steps]
    actions = (damage.truncate_tensors, damage.flip_bit, damage.lose_state, damage.spoil_manifest)
    rows, damages = [], {}
    for number, (step, action) in enumerate(zip(steps, actions, strict=True)):
        rows.append(
            Row(
                fault=f"kill -9 in step {step}, and {action.__doc__}",
                kind=action.__name__,
                start=number,
                sign="Skipping the damaged checkpoint",
            )
        )
        damages[number] = action
    commands = (((*ENGINES[engine], "checkpoint.save_interval=2"), 2),)
    return build_scenario(engine, "damaged checkpoints", rows, faults, damages=damages, commands=commands)


def _damaged_shards(engine: str, *, seed: int) -> Scenario:
    step = draw_steps(f"{engine} shard", seed=seed, count=1, first=6, last=12)[0]
    rows = [
        Row(fault="a bit of a shard is flipped before the start", kind="flip_shard_bit", start=-1),
        Row(fault=f"a shard is cut while the run reads it, in step {step}", kind="truncate_shard", step=step),
    ]
    damages = {-1: damage.flip_shard_bit, 0: damage.restore_shard, 1: damage.restore_shard}
    faults = [{"kind": "truncate_shard", "rank": 0, "step": step, "path": "SHARD"}]
    return build_scenario(engine, "damaged shards", rows, faults, damages=damages)


def _full_disk(engine: str) -> Scenario:
    faults = [
        {"kind": "fill_disk", "rank": 0, "step": 4, "path": "RUN"},
        # The save of step 4 has ended when that of step 8 begins.
        {"kind": "free_disk", "rank": 0, "step": 10, "path": "RUN"},
    ]
    sign = "Failed to save checkpoint"
    rows = [Row(fault="the disk of the run is full from step 4 to step 10", kind="fill_disk", step=4, sign=sign)]
    return build_scenario(engine, "full disk", rows, faults, needs_small_disk=True)


def _wandb_outage(engine: str) -> Scenario:
    rows = [
        Row(
            fault="the W&B server takes connections and never answers",
            kind="wandb",
            start=-1,
            sign="Weights & Biases failed",
        )
    ]
    commands = (((*ENGINES[engine], WANDB_ONLINE), 2),)
    return build_scenario(engine, "W&B outage", rows, (), commands=commands, wandb_server="silent")


def _wandb_cut(engine: str, *, seed: int) -> Scenario:
    step = draw_steps(f"{engine} cut", seed=seed, count=1, first=4, last=12)[0]
    faults = [{"kind": "cut_wandb", "rank": 0, "step": step}]
    what, sign = f"the W&B server takes the run and is cut off in step {step}", "did not accept the last records"
    rows = [Row(fault=what, kind="cut_wandb", step=step, sign=sign)]
    commands = (((*ENGINES[engine], WANDB_ONLINE), 2),)
    return build_scenario(engine, "W&B cut off", rows, faults, commands=commands, wandb_server="cut")


def _slow(engine: str, *, seed: int) -> Scenario:
    faults = [
        {"kind": "slow", "rank": 1, "step": 3, "last_step": 4, "seconds": 0.5},
        {"kind": "slow", "rank": 0, "step": 9, "last_step": 12, "seconds": 0.5},
    ]
    rows = [
        Row(fault="rank 1 is slow in steps 3 and 4", kind="slow", step=3, sign="is a straggler"),
        Row(fault="rank 0 is slow in steps 9 to 12", kind="slow", step=9, sign="is a straggler"),
    ]
    return build_scenario(engine, "slow ranks", rows, faults)


def _elastic(seed: int) -> Scenario:
    steps = draw_steps("elastic", seed=seed, count=4, first=3)
    faults = [{"kind": "kill", "rank": 0, "step": step} for step in steps]
    rows = [
        Row(fault=f"kill -9 in step {step}, goes on as {' '.join(settings)}", kind="kill", step=step)
        for step, (settings, _) in zip(steps, ELASTIC[1:], strict=True)
    ]
    return Scenario(
        name="elastic restarts",
        reference="elastic",
        design="within 1e-6",
        rows=tuple(rows),
        faults=tuple(faults),
        commands=ELASTIC,
    )
