"""How much memory a process holds."""

import psutil
import torch


def measure_memory_bytes(device: torch.device) -> int:
    """Most that PyTorch has allocated on a CUDA device so far; on CPU the resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss
