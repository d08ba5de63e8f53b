"""Processes that start warm: forked by one server, which has imported what most of them need.

The server is Python's own (`multiprocessing`'s forkserver). It is started by the first process that asks, imports the
trainer behind the CPU shim, launcher and data tools, and has no thread of its own, so that what it forks may start gloo
and PyTorch's pools. `python -m MODULE` costs 2 to 5 seconds of processor time cold, 0.1 here. What a fork cannot show
(start-up, imports, what the interpreter itself does) is tested cold.
"""

import contextlib
import importlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

PRELOADED = ["tests.preload"]


def context() -> ForkServerContext:
    """The way to start processes that are forked from the server."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOADED)
    return found


class WarmProcess:
    """A command in a forked process: of `subprocess.Popen` what tests use, its outputs kept in files."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdout: Path | None = None,
        stderr: Path | None = None,
    ) -> None:
        """Start it.

        Args:
            command: `sys.executable -m MODULE ARGUMENTS`.
            stdout, stderr: where to keep what it says; None keeps it until `communicate` gives it.
        """
        assert list(command[:2]) == [sys.executable, "-m"], f"only Python's modules start warm, not {command}"
        self._folder = Path(tempfile.mkdtemp(prefix="trireme-warm-"))
        self._outputs = (stdout or self._folder / "stdout", stderr or self._folder / "stderr")
        self.args = list(command)
        self._process = context().Process(
            target=_run,
            args=(command[2], tuple(command[3:]), str(cwd), dict(env), tuple(map(str, self._outputs))),
            daemon=False,
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Of the command; the server is its parent."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the signal's number where one ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """As `returncode`."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; what it has said."""
        self.wait(timeout)
        said = (self._outputs[0].read_text(), self._outputs[1].read_text())
        shutil.rmtree(self._folder)
        return said

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()


def run(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout_seconds: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as `subprocess.run` does with captured text.

    Raises:
        subprocess.TimeoutExpired: it takes longer; it and its children have been ended.
    """
    process = WarmProcess(command, cwd=cwd, env=env)
    try:
        output, errors = process.communicate(timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        end_tree(process.pid)
        raise
    return subprocess.CompletedProcess(list(command), process.returncode or 0, output, errors)


def end_tree(pid: int) -> None:
    """End a process and all that it has started."""
    import psutil  # noqa: PLC0415 - only where something hangs

    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def _run(
    module: str, arguments: tuple[str, ...], cwd: str, environment: dict[str, str], outputs: tuple[str, str]
) -> None:
    """The life of a warm process; never returns."""
    from trainer.forked_ranks import Start, run_module  # noqa: PLC0415 - in the forked process only

    for standard, path in enumerate(outputs, start=1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.chdir(cwd)
    sys.path[0:0] = [cwd]
    os.execve = _become  # type: ignore[assignment]
    _start_interpreter(environment)
    os._exit(run_module(Start(module=module, arguments=arguments, environment=environment)))


def _become(path: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
    """`os.execve` for `python -m MODULE`: the module takes this process over, warm."""
    from trainer.forked_ranks import Start, run_module  # noqa: PLC0415 - in the forked process only

    assert path == sys.executable and command[1] == "-m", f"no module of Python's: {command}"
    os._exit(run_module(Start(module=command[2], arguments=tuple(command[3:]), environment=environment)))


def _start_interpreter(environment: Mapping[str, str]) -> None:
    """What Python itself does with the environment of a new process, as far as tests use it."""
    folders = [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[1:1] = folders
    if any(Path(folder, "sitecustomize.py").exists() for folder in folders):
        os.environ.update(environment)
        sys.modules.pop("sitecustomize", None)
        importlib.import_module("sitecustomize")


def wait_until(condition: Callable[[], object], *, seconds: float) -> None:
    """Wait for something to become true, and fail where it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true within {seconds:g} s"
        time.sleep(0.02)
