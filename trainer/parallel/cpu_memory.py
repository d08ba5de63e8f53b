"""Let a training process on a CPU keep the memory that it frees, as PyTorch's allocator does on a GPU."""

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "LD_PRELOAD")
"""Environment variables by which a user has chosen: glibc's own, and another allocator."""


def keep_freed_memory() -> bool:
    """Tell glibc to return no freed memory to the system; a step then reuses the memory of the one before.

    Otherwise the system gives and clears the pages of activations and gradients anew in every step. 25 steps of a
    classifier of 23 M parameters with validation took 25 instead of 39 s of processor time on a busy machine, with
    0.4 instead of 7.3 million page faults; the process was at its largest 1.5 instead of 1.2 GB, by fragments.

    Returns:
        Whether it was done: not where the C library is another, nor where the environment sets glibc's allocator.
    """
    if any(os.environ.get(name) for name in _SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_M_MMAP_MAX, 0))
