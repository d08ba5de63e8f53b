"""GPUs for the tests that need them: the process of the tests sees none, those that it starts do."""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

from tests.distributed.harness import run_distributed


def environment() -> dict[str, str]:
    """This process's, with the GPUs that tests/conftest.py hides."""
    shown = os.environ.get("TRIREME_TEST_GPUS", "all")
    others = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return others if shown == "all" else others | {"CUDA_VISIBLE_DEVICES": shown}


def ask_a_process(expression: str) -> str:
    """What torch says of the GPUs."""
    program = f"import torch; print({expression})"
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    return done.stdout.strip()


@functools.cache
def count_gpus() -> int:
    """How many GPUs torch can use here; 0 at once where there is no driver."""
    if shutil.which("nvidia-smi") is None and shutil.which("rocm-smi") is None:
        return 0
    return int(ask_a_process("torch.cuda.device_count()") or 0)


def needs_gpus(count: int) -> pytest.MarkDecorator:
    """Skip where there are fewer."""
    found = count_gpus()
    return pytest.mark.skipif(
        found < count, reason=f"needs {count} GPU{'s' if count > 1 else ''}, and {found} are here"
    )


@contextmanager
def shown_gpus() -> Iterator[None]:
    """Processes that are started inside see the GPUs."""
    with mock.patch.dict(os.environ, environment(), clear=True):
        yield


def run_on_gpus(function: Callable[..., Any], world_size: int, *args: Any, timeout_seconds: float = 500.0) -> list[Any]:
    """As `run_distributed`, each rank with a GPU, over nccl; what ranks return must not lie on one."""
    with shown_gpus():
        return run_distributed(function, world_size, *args, timeout_seconds=timeout_seconds, backend="nccl")
