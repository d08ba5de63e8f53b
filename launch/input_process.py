"""Check the files of a run in a process of trainer.check_inputs: the launcher's own cannot import the trainer."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from trireme.errors import EXIT_BAD_INPUT, EXIT_OK, ConfigError, Violation


def check_files(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run trainer.check_inputs with these arguments, which prints JSON; it uses no GPU."""
    command = [sys.executable, "-W", "ignore", "-m", "trainer.check_inputs", "--json", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})


def read_violations(done: subprocess.CompletedProcess[str]) -> list[Violation] | None:
    """Return what a finished `check_files` found; None if it failed."""
    if done.returncode not in (EXIT_OK, EXIT_BAD_INPUT):
        return None
    return [Violation(**violation) for violation in json.loads(done.stdout)["violations"]]


def with_data_errors(violations: Sequence[Violation], overrides: Sequence[str]) -> ConfigError:
    """Add the errors of tokenizer and shards to those of the settings, so that the user sees all errors at once.

    The check costs half a second, so a valid configuration is left to the processes of the run, which check all files.
    """
    found = read_violations(check_files("--data-only", "--", *overrides))
    return ConfigError({str(violation): violation for violation in [*violations, *(found or [])]}.values())
