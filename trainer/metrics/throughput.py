"""Measure throughput and memory of steps: tokens per second, model FLOP/s, MFU."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch


def measure_memory_bytes(device: torch.device) -> int:
    """Return PyTorch's peak allocation on a CUDA device; on CPU, the resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Hold the throughput of one step, or the mean over several."""

    step_time_seconds: float
    tokens_per_second: float
    """Over all devices."""
    model_tflops_per_device: float
    mfu: float | None


class ThroughputMeter:
    """Time steps between `start` and `stop`; time between two steps (validation, saving) does not count."""

    def __init__(
        self,
        *,
        tokens_per_step: int,
        model_flops_per_token: float,
        num_devices: int,
        peak_tflops: float | None,
        num_warmup_steps: int = 2,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Set the work of a step; the mean excludes the first `num_warmup_steps` (allocation, autotuning)."""
        self._tokens_per_step, self._model_flops_per_token = tokens_per_step, model_flops_per_token
        self._num_devices, self._peak_tflops = num_devices, peak_tflops
        self._num_warmup_steps, self._clock = num_warmup_steps, clock
        self._started: float | None = None
        self._num_steps = 0
        self._mean_seconds = 0.0

    def start(self) -> None:
        """Start timing a step."""
        self._started = self._clock()

    def stop(self) -> Throughput:
        """Return the throughput of the step; its result is on the host, so its work on the device is done."""
        assert self._started is not None, "stop without start"
        seconds = self._clock() - self._started
        self._started = None
        self._num_steps += 1
        num_counted = self._num_steps - self._num_warmup_steps
        if num_counted > 0:
            self._mean_seconds += (seconds - self._mean_seconds) / num_counted
        return self._of(seconds)

    def mean(self) -> Throughput | None:
        """Return the mean over the steps after the warm-up; None if there was none."""
        return self._of(self._mean_seconds) if self._num_steps > self._num_warmup_steps else None

    def _of(self, seconds: float) -> Throughput:
        tokens_per_second = self._tokens_per_step / max(seconds, 1e-9)
        tflops = tokens_per_second * self._model_flops_per_token / self._num_devices / 1e12
        return Throughput(
            step_time_seconds=seconds,
            tokens_per_second=tokens_per_second,
            model_tflops_per_device=tflops,
            mfu=tflops / self._peak_tflops if self._peak_tflops else None,
        )
