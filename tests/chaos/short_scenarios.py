"""The short form of the chaos suite, which `make test-long` plays."""

from tests.chaos import damage
from tests.chaos.scenarios import ENGINES, NUM_STEPS, Row, Scenario, build_scenario, draw_steps


def short_form(seed: int) -> list[Scenario]:
    """A few faults that between them use most of the machinery."""
    first, second = ENGINES
    return [_short_first(first, seed=seed), _short_second(second, seed=seed)]


def _short_first(engine: str, *, seed: int) -> Scenario:
    # By step 13 the saves of steps 4 and 8 have ended: there is an older one to go on from.
    step = draw_steps(f"{engine} short", seed=seed, count=1, first=13)[0]
    faults = [
        {"kind": "nan_gradient", "rank": 1, "step": 6, "last_step": 7},
        {"kind": "kill", "rank": 1, "step": step, "seconds": 0.01},
        {"kind": "kill_in_save", "rank": 0, "step": NUM_STEPS, "writes": 1},
    ]
    rows = [
        Row(fault="NaN gradient on rank 1, steps 6 and 7", kind="nan_gradient", step=6),
        Row(fault=f"kill -9 of rank 1 in step {step}", kind="kill", step=step),
        Row(
            fault=f"and then {damage.flip_bit.__doc__}",
            kind="flip_bit",
            start=0,
            sign="Skipping the damaged checkpoint",
        ),
        Row(fault=f"kill -9 of rank 0 in the save of step {NUM_STEPS}", kind="kill_in_save", step=NUM_STEPS),
    ]
    return build_scenario(engine, "short form", rows, faults, damages={0: damage.flip_bit})


def _short_second(engine: str, *, seed: int) -> Scenario:
    step = draw_steps(f"{engine} short", seed=seed, count=1, first=9)[0]
    faults = [
        {"kind": "inf_loss", "rank": 1, "step": 6, "last_step": 7},
        {"kind": "kill_job", "rank": 0, "step": step},
    ]
    rows = [
        Row(fault="infinite loss on rank 1, steps 6 and 7", kind="inf_loss", step=6),
        Row(fault=f"kill -9 of launcher and ranks in step {step}", kind="kill_job", step=step),
    ]
    return build_scenario(engine, "short form", rows, faults)
