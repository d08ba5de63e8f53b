"""Locate the project's own files, whichever copy of the code runs."""

from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[1]
"""Directory that holds the packages, conf/ and slurm/."""
CONF_DIR = PROJECT_ROOT / "conf"
