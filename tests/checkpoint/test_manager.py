"""Saving while training goes on: what is written is what was, a failure is told and no more, and a run can go back."""

import logging
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoint.fragments import assert_filled, flip_bit, fragments_of, layout_in, open_world
from tests.checkpoint.saving import ONE, open_saving, progress_of
from tests.distributed.harness import run_distributed
from trainer.checkpoint import manager as saver
from trainer.checkpoint.dcp import HashingWriter
from trainer.checkpoint.discovery import find_latest
from trainer.checkpoint.load import load_checkpoint
from trainer.checkpoint.manager import ResumeSource
from trainer.checkpoint.manifest import read_manifest
from trainer.checkpoint.trainer_state import ForkedFrom, read_state
from trainer.config.parallel import ParallelConfig
from trainer.config.run import CheckpointConfig
from trireme.errors import ConfigError

ASYNC, SYNC = CheckpointConfig(), CheckpointConfig(async_save=False)
BOTH = pytest.mark.parametrize("checkpoint", [ASYNC, SYNC], ids=["async", "sync"])


def test_a_save_in_the_background_writes_the_bytes_of_one_in_the_step(tmp_path: Path) -> None:
    contents = []
    for name, checkpoint in (("async", ASYNC), ("sync", SYNC)):
        torch.manual_seed(1)
        with open_saving(tmp_path / name, checkpoint) as saving:
            for step in (10, 20):
                saving.save(step, validation_loss=2.5)
        contents.append({path.name: path.read_bytes() for path in (find_latest(saving.run) or tmp_path).iterdir()})
        assert saving.kinds() == [("checkpoint_saved", 10), ("checkpoint_saved", 20)]
        assert 0 < saving.events[0]["stall_seconds"] <= saving.events[0]["total_seconds"]
    names = {".metadata", "__0_0.distcp", "config.yaml", "manifest.json", "trainer_state.json"}
    assert contents[0].keys() == contents[1].keys() == names
    differing = sorted(name for name in names if contents[0][name] != contents[1][name])
    assert differing == ["config.yaml", "manifest.json"], "that says which of the two it was, and its hash"


@contextmanager
def _held(patch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Writing waits for the event."""
    may_write, write = threading.Event(), HashingWriter.write_data

    def wait(self: HashingWriter, *args: Any) -> Any:
        assert may_write.wait(60)
        return write(self, *args)

    patch.setattr(HashingWriter, "write_data", wait)
    try:
        yield may_write
    finally:
        may_write.set()


def test_an_asynchronous_save_writes_the_state_of_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _held(monkeypatch) as may_write, open_saving(tmp_path, ASYNC) as saving:
        torch.manual_seed(5)
        saving.save(10)
        drawn = torch.rand(3)
        for fragment in saving.engine.fragments:
            for values in fragment.states.values():
                values.add_(1)
        assert find_latest(saving.run) is None
        may_write.set()
        assert saving.saver.finish()
        path = find_latest(saving.run)
        assert path is not None
    with open_world(ONE) as world:
        fragments = fragments_of(ONE, world, fill=False)
        load_checkpoint(path, fragments=fragments, layout=layout_in(ONE))
        assert_filled(fragments)
        assert torch.equal(torch.rand(3), drawn), "random states too"


def test_one_save_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with _held(monkeypatch) as may_write, open_saving(tmp_path, ASYNC) as saving, caplog.at_level(logging.INFO):
        saving.save(10)
        waits = "Waiting for the checkpoint of step 10, which is still being written"

        def let_it_write() -> None:
            while waits not in caplog.text:
                time.sleep(0.01)
            may_write.set()

        # It would wait for ever were it not said that it does.
        writer = threading.Thread(target=let_it_write, daemon=True)
        writer.start()
        saving.save(20)
        assert saving.kinds() == [("checkpoint_saved", 10)]
        assert saving.saver.finish()
        writer.join()
        assert saving.names() == ["step_00000010", "step_00000020"]


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    with open_saving(tmp_path, ASYNC) as saving:
        saving.save(10)
        assert saving.saver.save_last(progress_of(10))
        assert read_manifest(saving.run / "checkpoints" / "step_00000010").serial == 1
    with open_saving(tmp_path, ASYNC, step=10) as saving:
        saving.save(10)
        assert saving.events == [], "what was loaded counts"


def test_host_memory_is_used_again(tmp_path: Path) -> None:
    with open_saving(tmp_path, ASYNC) as saving:
        places = []
        for step in (1, 2):
            saving.save(step)
            places.append(saving.saver._host_copy._memory.data_ptr())
        num_elements = sum(fragment.num_elements for fragment in saving.engine.fragments)
        assert saving.saver._host_copy.num_bytes == 12 * num_elements
        assert places[0] == places[1]


@contextmanager
def _small_disk(limit: int = 20_000) -> Iterator[None]:
    """Files cannot grow beyond a limit: an error of the operating system in the midst of writing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@BOTH
def test_a_failed_save_is_logged_and_training_continues(
    tmp_path: Path, checkpoint: CheckpointConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with open_saving(tmp_path, replace(checkpoint, keep_last=1)) as saving:
        saving.save(10)
        assert saving.saver.finish()
        with _small_disk():
            saving.save(20)
            assert not saving.saver.finish()
        (record,) = [r for r in caplog.records if r.levelno == logging.ERROR and r.name == saver.__name__]
        message = record.getMessage()
        assert message.startswith(f"Failed to save checkpoint at step 20 to {saving.run / 'checkpoints'}: Error while")
        assert "rank 0: OSError: [Errno 27] File too large" in message
        assert message.endswith(f"Latest checkpoint: {saving.run / 'checkpoints' / 'step_00000010'}")
        failure = saving.events[-1]
        assert (failure["kind"], failure["step"]) == ("checkpoint_failed", 20)
        assert "File too large" in failure["reason"]
        assert saving.names() == ["step_00000010"], "what was written is removed, and nothing older is deleted"
        saving.save(20)
        assert saving.saver.finish(), "the next save tries again, of the same step too"
        assert saving.names() == ["step_00000020"]


@BOTH
def test_an_error_of_the_disk_is_reported_from_every_stage_of_a_save(
    tmp_path: Path, checkpoint: CheckpointConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """torch's serializer makes of it "unexpected pos 704 vs 598" when the disk is full at the end of a tensor."""
    with open_saving(tmp_path, checkpoint) as saving:
        saving.save(1)
        assert saving.saver.finish()
        whole = (saving.run / "checkpoints" / "step_00000001" / "__0_0.distcp").stat().st_size
        limits = range(700, whole, whole // 12)
        for step, limit in enumerate(limits, start=2):
            with _small_disk(limit):
                saving.save(step)
                assert not saving.saver.finish()
        reasons = [event["reason"] for event in saving.events[1:]]
        assert len(reasons) == len(limits)
        wanted = "OSError: [Errno 27] File too large: "
        assert [reason for reason in reasons if wanted not in reason or "__0_0.distcp" not in reason] == []


@BOTH
def test_a_failed_last_save_is_reported(
    tmp_path: Path, checkpoint: CheckpointConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with open_saving(tmp_path, checkpoint) as saving:
        with _small_disk():
            assert not saving.saver.save_last(progress_of(7))
        assert "The run stops at step 7, which could not be saved: Error while saving" in caplog.text
        assert "There is no checkpoint to resume from" in caplog.text
        saving.save(6)
        with _small_disk():
            saving.save(7)
        assert saving.saver.save_last(progress_of(7)), "what failed at the last interval is tried again"
        with _small_disk():
            assert not saving.saver.save_last(progress_of(8))
        assert f"resume=auto resumes from {saving.run / 'checkpoints' / 'step_00000007'}" in caplog.text


def test_a_rollback_loads_the_state_into_the_running_engine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_saving(tmp_path, ASYNC) as saving:
        for step in (10, 20, 30):
            saving.engine.num_updates = step
            saving.save(step)
        for fragment in saving.engine.fragments:
            fragment.states["param"].fill_(float("nan"))
        state = saving.saver.roll_back(at_or_before_step=29)
        assert state is not None
        assert (state.step, state.consumed_samples, saving.engine.num_updates) == (20, 160, 20)
        assert_filled(saving.engine.fragments)
        assert saving.names() == ["step_00000010", "step_00000020", "step_00000030.abandoned"]
        assert "step_00000030.abandoned: the run continues from step 20" in caplog.text
        assert find_latest(saving.run) == saving.run / "checkpoints" / "step_00000020"
        saving.save(20)
        assert saving.kinds()[-1] == ("checkpoint_saved", 30), "step 20 is there"
        saving.save(30)
        assert saving.saver.finish()
        assert saving.names() == ["step_00000010", "step_00000020", "step_00000030"]
        assert find_latest(saving.run) == saving.run / "checkpoints" / "step_00000030"


def test_a_rollback_skips_damaged_checkpoints(tmp_path: Path) -> None:
    with open_saving(tmp_path, SYNC) as saving:
        for step in (10, 20):
            saving.save(step)
        flip_bit(saving.run / "checkpoints" / "step_00000020" / "__0_0.distcp", position=5000)
        state = saving.saver.roll_back(at_or_before_step=20)
        assert state is not None and state.step == 10
        flip_bit(saving.run / "checkpoints" / "step_00000010" / "__0_0.distcp", position=5000)
        with pytest.raises(ConfigError, match="is damaged: the manifest records sha256"):
            saving.saver.roll_back(at_or_before_step=20)


def test_a_rollback_without_a_checkpoint_is_reported(tmp_path: Path) -> None:
    with open_saving(tmp_path, ASYNC) as saving:
        saving.save(10)
        assert saving.saver.roll_back(at_or_before_step=9) is None
        assert saving.names() == ["step_00000010"], "nothing has changed"


def test_a_fork_rolls_back_to_its_source(tmp_path: Path) -> None:
    with open_saving(tmp_path, SYNC, run_name="parent") as saving:
        saving.save(10)
    parent = saving.run / "checkpoints" / "step_00000010"
    lineage = (ForkedFrom(run_name="parent", step=10, checkpoint=str(parent)),)
    origin = ResumeSource(checkpoint=parent, forked_from=lineage)
    with open_saving(tmp_path, SYNC, run_name="child", origin=origin, step=10) as saving:
        saving.save(20)
        assert read_state(saving.run / "checkpoints" / "step_00000020").forked_from == lineage
        state = saving.saver.roll_back(at_or_before_step=19)
        assert state is not None and (state.run_name, state.step) == ("parent", 10)
        assert saving.names() == ["step_00000020.abandoned"]
    assert parent.exists()


def _on_two_ranks(directory: Path) -> list[tuple[bool, str | None]]:
    """Saves in both modes that one rank cannot take part in, between others that work."""
    answers = []
    for name, checkpoint in (("async", ASYNC), ("sync", SYNC)):
        parallel = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)
        with open_saving(directory, checkpoint, run_name=name, parallel=parallel) as saving:
            rank = torch.distributed.get_rank()
            for step in (1, 2, 3):
                saving.engine.failure = MemoryError("no host memory") if step == 2 and rank == 1 else None
                saving.save(step)
                # Collectives of training go on meanwhile, in the order that the main threads give them.
                for _ in range(50):
                    torch.distributed.all_reduce(torch.ones(1))
                answers.append((saving.saver.finish(), saving.saver._failure))
            torch.distributed.barrier()
            if rank == 0:
                assert saving.names() == ["step_00000001", "step_00000003"]
                assert [kind for kind, _ in saving.kinds()] == [
                    "checkpoint_saved",
                    "checkpoint_failed",
                    "checkpoint_saved",
                ]
            else:
                assert saving.events == []
            assert saving.saver.roll_back(at_or_before_step=2) is not None
    return answers


def test_a_failure_of_one_rank_is_raised_on_all_ranks(tmp_path: Path) -> None:
    first, second = run_distributed(_on_two_ranks, 2, tmp_path)
    assert first == second
    assert [is_saved for is_saved, _ in first] == [True, False, True] * 2
    assert (
        first[1][1] == first[4][1] == "Error while saving the checkpoint of step 2: rank 1: MemoryError: no host memory"
    )
