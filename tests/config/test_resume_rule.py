"""Suggestions for a step without a checkpoint."""

from pathlib import Path

from trainer.config.load import load_config
from trainer.config.validate import validate


def test_the_nearest_steps_that_have_a_checkpoint_are_named(tmp_path: Path) -> None:
    for step in (100, 200, 300, 400):
        (tmp_path / f"step_{step:08d}").mkdir()
    config = load_config([f"resume='{tmp_path}/step_00000310'"], world_size=1)
    found = [str(problem) for problem in validate(config, world_size=1) if problem.path == "resume"]
    assert len(found) == 1
    assert "Use step_00000200, step_00000300 or step_00000400; or use auto, never, restart, or" in found[0]
