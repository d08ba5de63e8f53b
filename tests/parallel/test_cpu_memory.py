"""A training process on a CPU keeps the memory that it frees."""

import os
import platform
import resource
import subprocess
import sys

import pytest

from trainer.parallel.cpu_memory import keep_freed_memory

NUM_BYTES = 64 << 20
PROGRAM = f"""
import resource, sys, torch
from trainer.parallel.cpu_memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
def allocate():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones({NUM_BYTES // 4}).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
counts = [allocate() for _ in range(20)]  # a freed block is too small for the first ones, by their alignment
print(int(kept), counts[-1])
"""


def count_faults(word: str) -> tuple[bool, int]:
    """Return whether memory is kept, and the page faults of a tensor of a size that was freed before."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, word],
        capture_output=True,
        text=True,
        check=True,
        env={**clean, "OMP_NUM_THREADS": "1"},
    )
    kept, count = result.stdout.split()
    return kept == "1", int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no mallopt")
def test_memory_that_was_freed_is_used_again_without_page_faults() -> None:
    num_pages = NUM_BYTES // resource.getpagesize()
    assert count_faults("leave")[1] > num_pages // 1024  # huge pages make fewer than one a page
    kept, count = count_faults("keep")
    assert kept
    assert count <= num_pages // 1024


def test_a_user_has_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not keep_freed_memory()
