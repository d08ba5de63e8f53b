"""The table of what frameworks do in their own way."""

import functools
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from launch.plan.job import Framework

_NAMES = ("family", "attention")
"""Entries that are no numbers."""
FRAMEWORKS_FILE = Path(__file__).parent / "data" / "frameworks.yaml"


@functools.cache
def load_frameworks() -> dict[str, Framework]:
    """All frameworks by name; see data/frameworks.yaml."""
    return {
        name: Framework(**{key: value for key, value in entry.items() if key not in _NAMES})
        for name, entry in _load_table().items()
    }


def family_of(framework: str) -> str:
    """The code that a framework shares with others; its own name for one that shares none or is not known."""
    return str(_load_table().get(framework, {}).get("family", framework))


def attention_kernel_of(framework: str) -> str:
    """The kernel of fused attention that a framework takes where the device has it: flash, cudnn or triton."""
    return str(_load_table().get(framework, {}).get("attention", "flash"))


@functools.cache
def _load_table() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = yaml.safe_load(FRAMEWORKS_FILE.read_text(encoding="utf-8"))
    return table
