"""The generated reference equals the one in docs/."""

import subprocess
import sys
from pathlib import Path

from trainer.config.load import group_options
from trainer.config.schema import TrainConfig
from trireme.config.fields import leaf_paths

REPOSITORY = Path(__file__).resolve().parents[2]


def test_docs_are_current_and_complete() -> None:
    command = [sys.executable, "-m", "trainer.config.reference"]
    text = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    written = (REPOSITORY / "docs" / "reference" / "training.md").read_text(encoding="utf-8")
    assert text == written, "run: python -m trainer.config.reference > docs/reference/training.md"
    for path, _ in leaf_paths(TrainConfig):
        assert f"| `{path}` | " in text
    for group, options in group_options().items():
        for option in options:
            assert f"| `{group}` | `{option}`" in text
    assert "| `parallel` | `single` (default) |" in text
    assert (
        "| `training.stop_after_step` | an integer, at least 1, or null | `null` | Save a checkpoint and exit after"
        " this step; schedules still end at train_iters, so the run can be resumed. |" in text
    )
