"""Look up the peak FLOP/s of known accelerators, the reference of model FLOP/s utilization (MFU)."""

import re
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class DevicePeak:
    """Hold the dense bf16 matrix peak of one torch device, with fp32 accumulation and no sparsity."""

    pattern: str
    """Regular expression that is searched in the device's name."""
    tflops: float
    source: str


# The first match counts: variants come before the plain name.
PEAKS = (
    DevicePeak(
        pattern=r"\bGB[23]00\b",
        tflops=2500.0,
        source="NVIDIA GB200 and GB300 NVL72 datasheets: 360 PFLOP/s sparse / 72 / 2",
    ),
    DevicePeak(pattern=r"\bB200\b", tflops=2250.0, source="NVIDIA HGX B200 datasheet: 36 PFLOP/s sparse / 8 / 2"),
    DevicePeak(pattern=r"\bH200 NVL\b", tflops=835.5, source="NVIDIA H200 datasheet: 1,671 TFLOP/s sparse / 2"),
    DevicePeak(
        pattern=r"\bG?H200\b", tflops=989.4, source="NVIDIA H200 and GH200 datasheets: 1,979 TFLOP/s sparse / 2"
    ),
    DevicePeak(pattern=r"\bH[18]00 NVL\b", tflops=835.5, source="NVIDIA H100 datasheet: 1,671 TFLOP/s sparse / 2"),
    DevicePeak(pattern=r"\bH[18]00 PCIe\b", tflops=756.0, source="NVIDIA H100 datasheet: 1,513 TFLOP/s sparse / 2"),
    DevicePeak(pattern=r"\bH[18]00\b", tflops=989.4, source="NVIDIA H100 datasheet (SXM): 1,979 TFLOP/s sparse / 2"),
    DevicePeak(pattern=r"\bH20\b", tflops=148.0, source="NVIDIA H20 datasheet"),
    DevicePeak(pattern=r"\bA[18]00\b", tflops=312.0, source="NVIDIA A100 datasheet"),
    DevicePeak(pattern=r"\bA30\b", tflops=165.0, source="NVIDIA A30 datasheet"),
    DevicePeak(pattern=r"\bA40\b", tflops=149.7, source="NVIDIA A40 datasheet"),
    DevicePeak(pattern=r"\bA10\b", tflops=125.0, source="NVIDIA A10 datasheet"),
    DevicePeak(pattern=r"\bL40S\b", tflops=362.05, source="NVIDIA L40S datasheet"),
    DevicePeak(pattern=r"\bL40\b", tflops=181.05, source="NVIDIA L40 datasheet"),
    DevicePeak(pattern=r"\bL4\b", tflops=121.0, source="NVIDIA L4 datasheet: 242 TFLOP/s sparse / 2"),
    DevicePeak(pattern=r"\bRTX 5090$", tflops=209.5, source="NVIDIA RTX Blackwell architecture white paper"),
    DevicePeak(pattern=r"\bRTX 4090$", tflops=165.2, source="NVIDIA Ada architecture white paper"),
    DevicePeak(pattern=r"\bRTX 3090$", tflops=71.0, source="NVIDIA Ampere GA102 architecture white paper"),
    # No bf16 units: the fp16 peak.
    DevicePeak(pattern=r"\bV100S\b", tflops=130.0, source="NVIDIA V100 datasheet (fp16)"),
    DevicePeak(pattern=r"\bV100-PCIE\b", tflops=112.0, source="NVIDIA V100 datasheet (fp16)"),
    DevicePeak(pattern=r"\bV100\b", tflops=125.0, source="NVIDIA V100 datasheet (SXM2, fp16)"),
    DevicePeak(pattern=r"\bMI355X\b", tflops=2516.6, source="AMD Instinct MI355X datasheet"),
    DevicePeak(pattern=r"\bMI3(00|25)X\b", tflops=1307.4, source="AMD Instinct MI300X and MI325X datasheets"),
    DevicePeak(
        pattern=r"\bMI250X\b", tflops=191.5, source="AMD Instinct MI250X datasheet: 383 / 2 dies, each a device"
    ),
    DevicePeak(
        pattern=r"\bMI250\b", tflops=181.05, source="AMD Instinct MI250 datasheet: 362.1 / 2 dies, each a device"
    ),
    DevicePeak(pattern=r"\bMI210\b", tflops=181.0, source="AMD Instinct MI210 datasheet"),
)


def find_peak(device_name: str) -> DevicePeak | None:
    """Return the peak of a device by its driver's name for it; None for an unknown one, and for a CPU."""
    if re.search(r"\bMIG\b", device_name):
        return None  # a slice of a device
    return next((peak for peak in PEAKS if re.search(peak.pattern, device_name, re.IGNORECASE)), None)


def device_peak_tflops(device: torch.device, *, configured: float | None) -> float | None:
    """Return the configured peak, else the known one of this device, else None: then MFU is not reported."""
    if configured is not None:
        return configured
    if device.type != "cuda":
        return None
    peak = find_peak(torch.cuda.get_device_name(device))
    return peak.tflops if peak is not None else None
