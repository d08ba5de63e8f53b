"""The commands of data_tools: in this process, which has imported everything already, or as a user starts them."""

import contextlib
import importlib
import io
import logging
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import warm

REPOSITORY = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 300.0
"""Of a process or an event; many times what it takes, because other processes may have the processors."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)


def command_line(module: str, *arguments: object) -> list[str]:
    """What a user types."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def start_command(module: str, *arguments: object) -> "subprocess.Popen[str]":
    """Start a command as the leader of a process group of its own; both outputs are pipes."""
    return subprocess.Popen(
        command_line(module, *arguments),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_process(*command: object) -> "subprocess.CompletedProcess[str]":
    """Run any command to its end, in a process of its own."""
    return subprocess.run(
        list(map(str, command)), cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT_SECONDS
    )


def wait_until(is_true: Callable[[], object]) -> None:
    """Return as soon as something is so."""
    warm.wait_until(is_true, seconds=LIMIT_SECONDS)


def run_command(module: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Call a command's `main` as `python -m MODULE` does, without the second or two that a new process imports for.

    Worker processes that it starts are real ones, forked from a server that lives as long as the tests do: they have
    the environment variables that the first of these tests had, and what they write to the console is not returned.
    """
    words = command_line(module, *arguments)
    # A package is run by its __main__.
    file = importlib.import_module(module)
    main = importlib.import_module(f"{module}.__main__").main if hasattr(file, "__path__") else file.main
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(REPOSITORY),
        pytest.MonkeyPatch.context() as patch,
        _state_kept(),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        patch.setattr(sys, "argv", [sys.modules[module].__file__, *words[3:]])
        code = _exit_code_of(main)
    return subprocess.CompletedProcess(words, code, stdout.getvalue(), stderr.getvalue())


def _exit_code_of(main: Callable[[], object]) -> int:
    """What the interpreter makes of the way in which `main` ends."""
    try:
        code = main()
    except SystemExit as end:
        code = end.code
    except Exception:
        traceback.print_exc()
        return 1
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1


@contextlib.contextmanager
def _state_kept() -> Iterator[None]:
    """Give the command the logging of a new process, and take back what it sets for the whole process."""
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, root.manager.disable
    signals = {number: signal.getsignal(number) for number in _SIGNALS}
    root.handlers[:] = []
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.disable(disabled)
        for number, handler in signals.items():
            signal.signal(number, handler)
