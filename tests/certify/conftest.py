"""Certificates that tests share: their processes are started once."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from trainer.certify import run

# As conf/certify/standard.yaml has them, with fewer runs: starting processes is most of the time.
QUICK = ["certify=standard", "certify.num_perturbed_runs=4", "certify.num_steps=3"]


@dataclass(frozen=True, kw_only=True)
class Issued:
    """What the command left behind."""

    exit_code: int
    record: dict[str, Any]
    page: str
    folder: Path

    def layout(self, name: str) -> dict[str, Any]:
        """One row."""
        return next(layout for layout in self.record["layouts"] if layout["name"] == name)


Issue = Callable[..., Issued]


@pytest.fixture(scope="session")
def issue(tmp_path_factory: pytest.TempPathFactory) -> Issue:
    def issue(layouts: Sequence[str], *overrides: str, worker_module: str = "trainer.certificate.worker") -> Issued:
        folder = tmp_path_factory.mktemp("certificate")
        written = ",".join(f'"{layout}"' for layout in layouts)
        exit_code = run(
            [*QUICK, f"layouts=[{written}]", f"certify.output_dir={folder}", *overrides], worker_module=worker_module
        )
        return Issued(
            exit_code=exit_code,
            record=json.loads((folder / "certificate.json").read_text()),
            page=(folder / "certificate.html").read_text(),
            folder=folder,
        )

    return issue
