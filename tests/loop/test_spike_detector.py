"""Anomalies: what counts as one, when it is reported, and that a resumed detector finds the same ones."""

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


def observe_all(
    losses: list[float], *, detector: SpikeDetector | None = None, first_step: int = 1, norm: float = 1.0
) -> tuple[SpikeDetector, dict[int, Anomaly]]:
    """Steps of 8 samples; losses that are not finite are those of skipped steps."""
    detector = detector or SpikeDetector(CONFIG)
    found = {}
    for step, loss in enumerate(losses, start=first_step):
        trace = trace_step(step=step, first_sample=8 * (step - 1), loss=loss, grad_norm=norm if loss < 1e9 else loss)
        anomaly = detector.observe(trace, is_broken=not math.isfinite(loss))
        if anomaly is not None:
            found[step] = anomaly
    return detector, found


def test_a_spike_is_reported_once_after_its_patience() -> None:
    detector, found = observe_all([*USUAL, 4.0, 2.0, 4.0, 4.1, 4.2, 4.2, 2.0])
    assert list(found) == [12]
    anomaly = found[12]
    assert (anomaly.kind, anomaly.action) == ("loss_spike", "act")
    assert (anomaly.first.step, anomaly.last.step) == (11, 12)
    assert anomaly.outlier is not None and anomaly.outlier.value == 4.1
    start = detector.start_of(anomaly)
    assert (start.step, start.first_sample) == (9, 64), "two steps before the first bad one"
    assert [trace.step for trace in detector.since(12)] == [13, 14, 15]


def test_a_lasting_change_of_level_becomes_usual() -> None:
    _, found = observe_all([*USUAL, *[4.0] * 20, 6.0, 6.0])
    assert list(found) == [10, 30]


def test_steps_that_are_not_finite_in_a_row() -> None:
    _, found = observe_all([*USUAL, math.nan, math.nan, 2.0, math.inf, math.nan, math.nan, math.nan])
    assert list(found) == [14]
    assert found[14].kind == "not_finite" and found[14].action == "act" and found[14].first.step == 12


def test_a_step_without_a_value_does_not_end_a_spike() -> None:
    _, found = observe_all([*USUAL, 4.0, math.nan, 4.0])
    assert list(found) == [11]
    assert found[11].first.step == 9


def test_an_anomaly_with_action_precedes_one_with_a_warning() -> None:
    detector, _ = observe_all(USUAL)
    _, found = observe_all([4.0, 4.0], detector=detector, first_step=9, norm=50.0)
    assert found[10].kind == "loss_spike"
    detector, _ = observe_all(USUAL)
    _, found = observe_all([2.0, 2.0], detector=detector, first_step=9, norm=50.0)
    assert (found[10].kind, found[10].action) == ("grad_norm_spike", "warn")


def test_a_detector_that_is_off_reports_nothing() -> None:
    off = RecoveryConfig(loss_spike="off", grad_norm_spike="off", max_skipped_steps=0, spike_window=8)
    assert observe_all([*USUAL, *[math.nan] * 30, 9.0, 9.0, 9.0, 9.0], detector=SpikeDetector(off))[1] == {}


@pytest.mark.parametrize("cut", [3, 8, 9, 10, 12])
def test_a_detector_from_a_checkpoint_finds_what_the_saved_one_would(cut: int) -> None:
    losses = [*USUAL, 4.0, 4.0, math.nan, math.nan, math.nan, 2.0, 5.0, 5.0]
    _, expected = observe_all(losses)
    detector, before = observe_all(losses[:cut])
    record = json.loads(json.dumps(detector.to_record()))
    _, after = observe_all(losses[cut:], detector=SpikeDetector(CONFIG, record=record), first_step=cut + 1)
    assert before | after == expected
