"""What is trouble, when it is told, and that a resumed judge is the same judge."""

import json
import math

import pytest

from trainer.config.run import RecoveryConfig
from trainer.loop.spikes import Anomaly, SpikeDetector, trace_step

CONFIG = RecoveryConfig(
    loss_spike="act",
    grad_norm_spike="warn",
    spike_window=8,
    spike_patience=2,
    max_skipped_steps=3,
    skip_steps_before=2,
)
USUAL = [2.0, 2.1, 1.9, 2.05, 1.95, 2.02, 1.98, 2.0]


def judge_all(
    losses: list[float], *, judge: SpikeDetector | None = None, first_step: int = 1, norm: float = 1.0
) -> tuple[SpikeDetector, dict[int, Anomaly]]:
    """Steps of 8 samples; losses that are not finite are those of skipped steps."""
    judge = judge or SpikeDetector(CONFIG)
    found = {}
    for step, loss in enumerate(losses, start=first_step):
        trace = trace_step(step=step, first_sample=8 * (step - 1), loss=loss, grad_norm=norm if loss < 1e9 else loss)
        finding = judge.observe(trace, is_broken=not math.isfinite(loss))
        if finding is not None:
            found[step] = finding
    return judge, found


def test_a_spike_is_told_once_when_it_has_lasted() -> None:
    judge, found = judge_all([*USUAL, 4.0, 2.0, 4.0, 4.1, 4.2, 4.2, 2.0])
    assert list(found) == [12]
    finding = found[12]
    assert (finding.trouble, finding.reaction) == ("loss_spike", "act")
    assert (finding.first.step, finding.last.step) == (11, 12)
    assert finding.unusual is not None and finding.unusual.value == 4.1
    start = judge.start_of(finding)
    assert (start.step, start.first_sample) == (9, 64), "two steps before the first bad one"
    assert [trace.step for trace in judge.since(12)] == [13, 14, 15]


def test_a_lasting_change_of_level_becomes_usual() -> None:
    _, found = judge_all([*USUAL, *[4.0] * 20, 6.0, 6.0])
    assert list(found) == [10, 30]


def test_steps_that_are_not_finite_in_a_row() -> None:
    _, found = judge_all([*USUAL, math.nan, math.nan, 2.0, math.inf, math.nan, math.nan, math.nan])
    assert list(found) == [14]
    assert found[14].trouble == "not_finite" and found[14].reaction == "act" and found[14].first.step == 12


def test_a_step_without_a_value_does_not_end_a_spike() -> None:
    _, found = judge_all([*USUAL, 4.0, math.nan, 4.0])
    assert list(found) == [11]
    assert found[11].first.step == 9


def test_what_is_acted_on_comes_before_what_is_warned_of() -> None:
    judge, _ = judge_all(USUAL)
    _, found = judge_all([4.0, 4.0], judge=judge, first_step=9, norm=50.0)
    assert found[10].trouble == "loss_spike"
    judge, _ = judge_all(USUAL)
    _, found = judge_all([2.0, 2.0], judge=judge, first_step=9, norm=50.0)
    assert (found[10].trouble, found[10].reaction) == ("grad_norm_spike", "warn")


def test_what_is_off_is_not_judged() -> None:
    off = RecoveryConfig(loss_spike="off", grad_norm_spike="off", max_skipped_steps=0, spike_window=8)
    assert judge_all([*USUAL, *[math.nan] * 30, 9.0, 9.0, 9.0, 9.0], judge=SpikeDetector(off))[1] == {}


@pytest.mark.parametrize("cut", [3, 8, 9, 10, 12])
def test_a_judge_from_a_checkpoint_judges_as_the_one_that_was_saved(cut: int) -> None:
    losses = [*USUAL, 4.0, 4.0, math.nan, math.nan, math.nan, 2.0, 5.0, 5.0]
    _, expected = judge_all(losses)
    judge, before = judge_all(losses[:cut])
    record = json.loads(json.dumps(judge.to_record()))
    _, after = judge_all(losses[cut:], judge=SpikeDetector(CONFIG, record=record), first_step=cut + 1)
    assert before | after == expected
