"""`trainer.train` with faults in it: the real entry, in whose process a step, a batch or a save goes wrong.

What each rank reads in each step goes into the plan's directory (`lineage.RANK.jsonl`), and a line for each fault when
it happens (`happened.RANK.jsonl`), over all restarts of the run.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.parallel import cpu_shim

cpu_shim.install()

import psutil  # noqa: E402 - the shim comes first

from tests.chaos.plan import VARIABLE, Fault  # noqa: E402 - as above
from tests.metrics.wandb_server import CUT_PATH  # noqa: E402 - as above
from trainer import train  # noqa: E402 - as above
from trainer.data.loader import BatchLoader  # noqa: E402 - as above
from trainer.data.micro_batch import MicroBatch  # noqa: E402 - as above
from trainer.loop.train_loop import TrainLoop  # noqa: E402 - as above
from trainer.metrics import wandb  # noqa: E402 - as above


class Faults:
    """The faults of this process, and what has happened of them."""

    def __init__(self, plan: dict[str, Any], *, rank: int) -> None:
        self._directory, self._rank = Path(plan["directory"]), rank
        every = [Fault(**fault) for fault in plan["faults"]]
        self._faults = [fault for fault in every if fault.rank in (None, rank)]

    def due(self, step: int) -> Iterator[Fault]:
        """Those that happen in a step, noted down before they do."""
        path = self._directory / f"happened.{self._rank}.jsonl"
        for fault in self._faults:
            if fault.kind == "bad_samples" or not fault.step <= step <= (fault.last_step or fault.step):
                continue
            happened = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            before = [one for one in happened if (one["fault"], one["step"]) == (asdict(fault), step)]
            if len(before) < fault.times:
                _append(path, {"fault": asdict(fault), "step": step, "time": time.time() + fault.seconds})
                yield fault

    def note(self, step: int, loader: Any, samples: list[int]) -> None:
        """Write down what this rank has read in a step that it has taken."""
        record = {
            "start": os.getppid(),
            "time": time.time(),
            "step": step,
            "dp_rank": loader._dp_rank,
            "samples": samples,
        }
        _append(self._directory / f"lineage.{self._rank}.jsonl", record)

    def spoil(self, batches: list[MicroBatch]) -> None:
        """Make the labels of bad samples wrong."""
        bad = [fault for fault in self._faults if fault.kind == "bad_samples"]
        for batch in batches:
            for row, sample in enumerate(batch.sample_ids):
                if any(fault.first <= sample < fault.end for fault in bad):
                    batch.labels[row] = (batch.labels[row] + 31) % 64


@contextmanager
def fault_nan_gradient(fault: Fault, loop: Any) -> Iterator[None]:
    """The gradient of one parameter is NaN."""
    parameter = next(parameter for name, parameter in loop._engine._chunks[0].named_parameters() if "norm" in name)
    hook = parameter.register_hook(lambda gradient: gradient * float("nan"))
    yield
    hook.remove()


@contextmanager
def fault_inf_loss(fault: Fault, loop: Any) -> Iterator[None]:
    """The loss is infinite, and its gradient would not be."""
    hook = loop._engine._chunks[-1].register_forward_hook(lambda module, inputs, losses: losses + float("inf"))
    yield
    hook.remove()


def fault_kill(fault: Fault, loop: Any) -> AbstractContextManager[None]:
    """This rank is ended, some time after the step has begun."""
    _later(fault.seconds, lambda: os.kill(os.getpid(), signal.SIGKILL))
    return nullcontext()


def fault_kill_job(fault: Fault, loop: Any) -> AbstractContextManager[None]:
    """The launcher and all ranks are ended, as when a host loses power."""

    def end() -> None:
        launcher = psutil.Process(os.getppid())
        for process in (launcher, *launcher.children(recursive=True)):
            if process.pid != os.getpid():
                process.kill()
        os.kill(os.getpid(), signal.SIGKILL)

    _later(fault.seconds, end)
    return nullcontext()


def fault_kill_in_save(fault: Fault, loop: Any) -> AbstractContextManager[None]:
    """This rank is ended in its next save, after it has made some files durable."""
    remaining = fault.writes
    sync = os.fsync

    def count(descriptor: int) -> None:
        nonlocal remaining
        if "/checkpoints/" in os.readlink(f"/proc/self/fd/{descriptor}") + "/":
            if remaining <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            remaining -= 1
        sync(descriptor)

    os.fsync = count
    return nullcontext()


def fault_stop(fault: Fault, loop: Any) -> AbstractContextManager[None]:
    """This rank is frozen."""
    _later(fault.seconds, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    return nullcontext()


def fault_slow(fault: Fault, loop: Any) -> AbstractContextManager[None]:
    """This rank computes slowly: its forward pass takes longer."""
    hook = loop._engine._chunks[0].register_forward_hook(lambda module, inputs, output: time.sleep(fault.seconds))

    @contextmanager
    def while_slow() -> Iterator[None]:
        yield
        hook.remove()

    return while_slow()


def fault_raise(fault: Fault, loop: Any) -> AbstractContextManager[None]:
    """This rank raises."""
    raise RuntimeError(f"a fault was asked for in step {fault.step}")


def fault_hang(fault: Fault, loop: Any) -> AbstractContextManager[None]:
    """This rank no longer gets on, and its process is alive."""
    time.sleep(3600)
    return nullcontext()


def fault_sigterm(fault: Fault, loop: Any) -> AbstractContextManager[None]:
    """Someone asks the launcher to stop."""
    _later(fault.seconds, lambda: os.kill(os.getppid(), signal.SIGTERM))
    return nullcontext()


def fault_sigterm_in_save(fault: Fault, loop: Any) -> AbstractContextManager[None]:
    """Someone asks the launcher to stop while a checkpoint is written."""
    sync, launcher = os.fsync, os.getppid()

    def ask(descriptor: int) -> None:
        if "/checkpoints/" in os.readlink(f"/proc/self/fd/{descriptor}") + "/":
            os.fsync = sync
            os.kill(launcher, signal.SIGTERM)
        sync(descriptor)

    os.fsync = ask
    return nullcontext()


def fault_truncate_shard(fault: Fault, loop: Any) -> AbstractContextManager[None]:
    """A shard loses its second half under the running job."""
    path = Path(f"{fault.path}.bin")
    os.truncate(path, path.stat().st_size // 2)
    return nullcontext()


def fault_fill_disk(fault: Fault, loop: Any) -> AbstractContextManager[None]:
    """Someone fills the disk to the last byte."""
    with (Path(fault.path) / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return nullcontext()


def fault_free_disk(fault: Fault, loop: Any) -> AbstractContextManager[None]:
    """They remove it."""
    (Path(fault.path) / "filler").unlink()
    return nullcontext()


def fault_cut_wandb(fault: Fault, loop: Any) -> AbstractContextManager[None]:
    """The W&B server, which has taken the run, is no more."""
    urllib.request.urlopen(os.environ["WANDB_BASE_URL"] + CUT_PATH, data=b"").close()
    return nullcontext()


def install(faults: Faults) -> None:
    """Patch what the loop calls."""
    read, take = BatchLoader.next_step, TrainLoop._take_step

    def next_step(loader: Any) -> list[MicroBatch]:
        batches = read(loader)
        faults.spoil(batches)
        loader.samples_read = [sample for batch in batches for sample in batch.sample_ids]
        return batches

    def take_step(loop: Any, *arguments: Any) -> bool:
        step = loop.progress.step + 1
        with ExitStack() as stack:
            for fault in faults.due(step):
                stack.enter_context(globals()[f"fault_{fault.kind}"](fault, loop))
            went_back = take(loop, *arguments)
        faults.note(step, loop._loader, loop._loader.samples_read)
        return went_back

    # Nobody waits a minute for each outage; a server that is there answers within seconds on a busy host.
    wandb.INIT_TIMEOUT_SECONDS, wandb.FINISH_TIMEOUT_SECONDS = 15.0, 5.0
    BatchLoader.next_step = next_step  # type: ignore[method-assign]
    TrainLoop._take_step = take_step  # type: ignore[assignment,method-assign]


def _later(seconds: float, act: Any) -> None:
    """From a thread, or now: within a step, a collective or a save, wherever the process is then."""
    if seconds:
        threading.Timer(seconds, act).start()
    else:
        act()


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def main() -> int:
    """Train, with faults."""
    install(Faults(json.loads(Path(os.environ[VARIABLE]).read_text()), rank=int(os.environ.get("RANK", "0"))))
    return train.main()


if __name__ == "__main__":
    sys.exit(main())
