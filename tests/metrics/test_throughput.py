"""Speed figures: what counts as step time, and how they follow from it."""

import pytest
import torch

from trainer.metrics.mfu import PEAKS, device_peak_tflops, find_peak
from trainer.metrics.throughput import ThroughputMeter, measure_memory_bytes


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _meter(clock: Clock, *, peak_tflops: float | None = 50.0) -> ThroughputMeter:
    return ThroughputMeter(
        tokens_per_step=1000,
        model_flops_per_token=2e10,
        target_flops_per_token=5e9,
        num_devices=2,
        peak_tflops=peak_tflops,
        num_warmup_steps=1,
        clock=clock,
    )


def _step(meter: ThroughputMeter, clock: Clock, seconds: float) -> None:
    meter.start()
    clock.now += seconds
    meter.stop(target_share=1.0)


def test_speed_follows_from_the_time_of_the_step() -> None:
    clock = Clock()
    meter = _meter(clock)
    meter.start()
    clock.now += 0.5
    speed = meter.stop(target_share=1.0)
    assert speed.step_time_seconds == pytest.approx(0.5)
    assert speed.tokens_per_second == pytest.approx(2000)
    assert speed.model_tflops_per_device == pytest.approx(2000 * 2e10 / 2 / 1e12)  # 20
    assert speed.mfu == pytest.approx(0.4)


def test_tokens_without_a_target_need_no_logits() -> None:
    clock = Clock()
    meter = _meter(clock)
    for share in (1.0, 0.2, 0.4):
        meter.start()
        clock.now += 0.5
        speed = meter.stop(target_share=share)
        assert speed.model_tflops_per_device == pytest.approx(2000 * (2e10 - (1 - share) * 5e9) / 2 / 1e12)
    mean = meter.mean()
    assert mean is not None and mean.model_tflops_per_device == pytest.approx(2000 * (2e10 - 0.7 * 5e9) / 2 / 1e12)


def test_mfu_is_left_out_where_the_peak_is_unknown() -> None:
    clock = Clock()
    meter = _meter(clock, peak_tflops=None)
    meter.start()
    clock.now += 1
    assert meter.stop(target_share=1.0).mfu is None


def test_the_mean_leaves_out_warm_up_and_what_lies_between_steps() -> None:
    clock = Clock()
    meter = _meter(clock)
    _step(meter, clock, 30.0)
    assert meter.mean() is None
    for seconds in (1.0, 3.0):
        clock.now += 1000.0
        _step(meter, clock, seconds)
    mean = meter.mean()
    assert mean is not None
    assert mean.step_time_seconds == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA GB200", 2500.0),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100-PCIE-40GB", 312.0),
        ("NVIDIA A800-SXM4-80GB", 312.0),
        ("Tesla V100-SXM2-16GB", 125.0),
        ("Tesla V100-PCIE-32GB", 112.0),
        ("Tesla V100S-PCIE-32GB", 130.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA L40", 181.05),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("AMD Instinct MI250X", 191.5),
        ("AMD Instinct MI300X", 1307.4),
    ],
)
def test_a_device_is_found_by_its_driver_name(name: str, tflops: float) -> None:
    peak = find_peak(name)
    assert peak is not None and peak.tflops == tflops


@pytest.mark.parametrize(
    "name",
    [
        "Intel(R) Xeon(R) Platinum 8480+",
        "NVIDIA A10G",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "",
    ],
)
def test_another_device_has_no_peak(name: str) -> None:
    assert find_peak(name) is None


def test_every_peak_names_its_source() -> None:
    assert all(len(peak.source) > 10 and peak.tflops > 0 for peak in PEAKS)


def test_a_configured_peak_wins_and_a_cpu_has_none() -> None:
    assert device_peak_tflops(torch.device("cpu"), configured=123.0) == 123.0
    assert device_peak_tflops(torch.device("cpu"), configured=None) is None


def test_memory_of_a_cpu_process_is_what_is_resident() -> None:
    before = measure_memory_bytes(torch.device("cpu"))
    held = torch.ones(50_000_000, dtype=torch.float32)
    grown = measure_memory_bytes(torch.device("cpu")) - before
    assert held.nbytes * 0.9 < grown < held.nbytes * 1.5
