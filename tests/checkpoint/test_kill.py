"""SIGKILL at any point of a save leaves the last good checkpoint, and the next save cleans up."""

import os
import signal
from pathlib import Path

import pytest

from tests.checkpoint.fragments import fragments_of, layout_in, open_world, state_of
from tests.distributed.harness import RanksFailed, run_distributed
from trainer.checkpoint import directory as store
from trainer.checkpoint import save as save_module
from trainer.checkpoint.dcp import HashingWriter
from trainer.checkpoint.discovery import choose_checkpoint
from trainer.checkpoint.load import load_checkpoint
from trainer.checkpoint.save import save_checkpoint
from trainer.config.parallel import ParallelConfig

ONE = ParallelConfig()
POINTS = ["begun", "half written", "written", "manifest", "old one aside", "committed", "deleting"]
LEFT = {"committed": 2, "deleting": 2}


def _save(run: Path, *, step: int) -> Path:
    with open_world(ONE) as world:
        fragments = fragments_of(ONE, world, fill=True)
        return save_checkpoint(run, fragments=fragments, state=state_of(step), keep_last=1)


def _die(*args: object, **kwargs: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_at(point: str) -> None:
    """Arm this process to be killed at a point of its next save."""
    if point == "begun":
        HashingWriter.prepare_local_plan = _die
    elif point == "half written":
        HashingWriter.finish = _die
    elif point == "written":
        save_module.write_state = _die
    elif point == "manifest":
        store.sync_directory = _die
    elif point == "old one aside":
        rename = Path.rename
        Path.rename = lambda self, target: _die() if self.name.startswith(".step") else rename(self, target)
    elif point == "committed":
        save_module.retain = _die
    elif point == "deleting":
        store.shutil.rmtree = _die


def _save_and_die(run: Path, point: str) -> None:
    """Save step 1, then be killed while saving another step, or step 1 again."""
    _save(run, step=1)
    _die_at(point)
    _save(run, step=1 if point == "old one aside" else 2)


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_leaves_the_last_good_checkpoint(tmp_path: Path, point: str) -> None:
    with pytest.raises(RanksFailed, match=f"rank 0 died with exit code -{signal.SIGKILL.value}"):
        run_distributed(_save_and_die, 1, tmp_path, point)
    path = choose_checkpoint("auto", run_directory=tmp_path, verify=True)
    assert path is not None
    step = LEFT.get(point, 1)
    with open_world(ONE) as world:
        fragments = fragments_of(ONE, world, fill=False)
        assert load_checkpoint(path, fragments=fragments, layout=layout_in(ONE)).step == step
    _save(tmp_path, step=3)
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == ["step_00000003"]
