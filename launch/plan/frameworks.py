"""The table of what frameworks do in their own way."""

import functools
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from launch.plan.job import Framework

FRAMEWORKS_FILE = Path(__file__).parent / "data" / "frameworks.yaml"


@functools.cache
def load_frameworks() -> dict[str, Framework]:
    """All frameworks by name; see data/frameworks.yaml."""
    table = yaml.safe_load(FRAMEWORKS_FILE.read_text(encoding="utf-8"))
    return {name: Framework(**entry) for name, entry in table.items()}
