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
        target_flops_per_token: float,
        num_devices: int,
        peak_tflops: float | None,
        num_warmup_steps: int = 2,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Set the work of a step; the mean excludes the first `num_warmup_steps` (allocation, autotuning).

        Args:
            tokens_per_step: over all devices.
            model_flops_per_token: operations of a token with a target.
            target_flops_per_token: those of them that a token without a target does not need.
            num_devices: all of the run.
            peak_tflops: of one device; None reports no MFU.
            num_warmup_steps: first steps that the mean leaves out.
            clock: seconds.
        """
        self._tokens_per_step = tokens_per_step
        self._model_flops_per_token, self._target_flops_per_token = model_flops_per_token, target_flops_per_token
        self._num_devices, self._peak_tflops = num_devices, peak_tflops
        self._num_warmup_steps, self._clock = num_warmup_steps, clock
        self._started: float | None = None
        self._num_steps = 0
        self._mean_seconds, self._mean_share = 0.0, 0.0

    def start(self) -> None:
        """Start timing a step."""
        self._started = self._clock()

    def stop(self, *, target_share: float) -> Throughput:
        """Return the throughput of the step; its result is on the host, so its work on the device is done.

        Args:
            target_share: share of the step's tokens that have a target.
        """
        assert self._started is not None, "stop without start"
        seconds = self._clock() - self._started
        self._started = None
        self._num_steps += 1
        num_counted = self._num_steps - self._num_warmup_steps
        if num_counted > 0:
            self._mean_seconds += (seconds - self._mean_seconds) / num_counted
            self._mean_share += (target_share - self._mean_share) / num_counted
        return self._of(seconds, target_share)

    def mean(self) -> Throughput | None:
        """Return the mean over the steps after the warm-up; None if there was none."""
        is_known = self._num_steps > self._num_warmup_steps
        return self._of(self._mean_seconds, self._mean_share) if is_known else None

    def _of(self, seconds: float, target_share: float) -> Throughput:
        tokens_per_second = self._tokens_per_step / max(seconds, 1e-9)
        flops_per_token = self._model_flops_per_token - (1 - target_share) * self._target_flops_per_token
        tflops = tokens_per_second * flops_per_token / self._num_devices / 1e12
        return Throughput(
            step_time_seconds=seconds,
            tokens_per_second=tokens_per_second,
            model_tflops_per_device=tflops,
            mfu=tflops / self._peak_tflops if self._peak_tflops else None,
        )
