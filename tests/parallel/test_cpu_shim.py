"""The shim's own condition: what runs before it must leave Megatron-Core alone."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["trainer.inputs", "trainer.evaluate", "trainer.generate", "trainer.train"])
def test_checks_of_inputs_do_without_megatron_core(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{'megatron', 'deepspeed'}} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
