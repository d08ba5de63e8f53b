"""Commands whose reader leaves or whose user interrupts them, each in a process of its own."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROLOGUE = "import sys, time\nfrom trireme.command import *\n"


def start(body: str, **changes: str) -> "subprocess.Popen[bytes]":
    """Start a command whose body is a function `main`."""
    program = f"{PROLOGUE}{body}\nallow_any_text()\nsys.exit(run_command(main))"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", **changes},
    )


def end_of(process: "subprocess.Popen[bytes]") -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors.decode()


@pytest.mark.parametrize(
    "write",
    ["while True: write_output('line\\n')", "while True: print('line')", "print('one')"],
    ids=["at once", "in blocks", "at the end"],
)
def test_a_closed_pipe_ends_a_command_quietly(write: str) -> None:
    process = start(f"def main():\n    time.sleep(0.5)\n    {write}")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    assert end_of(process) == (128 + signal.SIGPIPE, "")


def test_help_into_a_closed_pipe_is_quiet() -> None:
    process = start(
        "def main():\n    time.sleep(0.5)\n    import argparse\n    argparse.ArgumentParser().parse_args(['-h'])"
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    assert end_of(process) == (128 + signal.SIGPIPE, "")


def test_ctrl_c_shows_no_traceback_and_keeps_what_was_written() -> None:
    process = start(
        "def main():\n    print('held')\n    print('ready', file=sys.stderr, flush=True)\n    time.sleep(60)"
    )
    assert process.stderr is not None
    assert process.stderr.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (128 + signal.SIGINT, b"held\n", b"")


def test_a_full_disk_is_reported_in_one_line() -> None:
    program = f"{PROLOGUE}sys.exit(run_command(lambda: write_output('text')))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    message = "stdout: cannot be written: No space left on device. Free disk space, or write the output elsewhere.\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_a_character_that_the_terminal_lacks_is_a_question_mark() -> None:
    process = start("def main():\n    write_output('\\u4e2d!')", PYTHONIOENCODING="ascii")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, b"?!", b"")


def test_the_exit_code_is_that_of_the_body() -> None:
    assert end_of(start("def main():\n    return 3")) == (3, "")
    assert end_of(start("def main():\n    pass")) == (0, "")
