"""What imports and exports leave behind where they are interrupted, killed, or find the disk full: nothing."""

import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.huggingface.models import save_model
from tests.trireme.small_disk import small_file_system
from trainer import export_hf, import_hf
from trainer.huggingface import native_weights
from trainer.huggingface.importing import import_model, open_source
from trainer.huggingface.output_directory import scratch_directory
from trireme.command import run_command
from trireme.errors import EXIT_BAD_INPUT, EXIT_OK, EXIT_STOPPED
from trireme.stop_signals import STOP_SIGNALS

Command = Callable[[Path], int]
COMMANDS = ("import", "export")
EXPORTED = {"config.json", "generation_config.json", "model.safetensors"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama2", tmp_path_factory.mktemp("model") / "source")


@pytest.fixture(scope="module")
def commands(source: Path) -> dict[str, Command]:
    """Each command as a function of its output directory, which returns the exit code; without the gate."""
    run = source.parent / "run"
    import_model(open_source(source), run, has_gate=False)

    def command(module: Any, path: Path) -> Command:
        def call(output: Path) -> int:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", ["command", str(path), str(output), "--gate", "off"])
                return run_command(lambda: module.run(module._parse()))

        return call

    return {"import": command(import_hf, source), "export": command(export_hf, run)}


@pytest.fixture(autouse=True)
def default_signals() -> Iterator[None]:
    """Signals are not ignored, whatever these tests were started with."""
    former = {number: signal.signal(number, signal.SIG_DFL) for number in STOP_SIGNALS}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda it: it.name)
def test_a_signal_leaves_nothing(
    name: str,
    number: signal.Signals,
    commands: dict[str, Command],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The signal comes while the file of weights is written, where torch catches what is raised; then once more."""
    seen: list[str] = []

    def interrupt(self: native_weights.CopyProgress, num_elements: int) -> None:
        seen.extend(path.name for path in tmp_path.rglob("*") if path.is_file())
        os.kill(os.getpid(), number)

    monkeypatch.setattr(native_weights.CopyProgress, "__call__", interrupt)
    try:
        code = commands[name](tmp_path / "new" / "output")
    except SystemExit as error:  # ends the interpreter
        code = int(str(error.code))
    assert code == 128 + number
    assert seen == ["__0_0.distcp" if name == "import" else "model.safetensors"]
    assert not list(tmp_path.iterdir())
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == f"Interrupted by {number.name}: nothing was written to {tmp_path / 'new' / 'output'}."
    assert not any("Traceback" in line for line in said)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_a_message(
    name: str, commands: dict[str, Command], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model has 109 thousand parameters of 4 bytes."""
    with small_file_system(tmp_path / "disk", kibibytes=128) as disk:
        assert commands[name](disk / "output") == EXIT_STOPPED
        assert not list(disk.iterdir())
        said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if "No space left on device" in line]
    assert line.startswith(f"{disk / 'output'}: cannot be written: No space left on device (")
    assert line.endswith(" free). Free disk space, or choose an OUTPUT_DIR on another disk.")
    assert "Traceback" not in said


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("file", "OUTPUT_DIR: must be a directory"),
        ("file/y", "OUTPUT_DIR: cannot be created: Not a directory"),
        ("/proc/zz", "OUTPUT_DIR: cannot be created: No such file or directory"),
        ("dangling", "OUTPUT_DIR: cannot be created: File exists"),
    ],
)
def test_an_unusable_path_is_a_message(
    name: str,
    path: str,
    message: str,
    commands: dict[str, Command],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    if name == "import" and path == "dangling":
        message = "OUTPUT_DIR: cannot be created: "
    assert commands[name](tmp_path / path) == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["dangling", "file"]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("path", ["link", "."])
def test_an_empty_directory_is_filled_in_place(
    name: str,
    path: str,
    commands: dict[str, Command],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "link").symlink_to(empty)
    monkeypatch.chdir(empty)
    inode = empty.stat().st_ino
    assert commands[name](tmp_path / "link" if path == "link" else Path(".")) == EXIT_OK
    assert empty.stat().st_ino == inode
    found = {entry.name for entry in empty.iterdir()}
    assert found == ({"checkpoints"} if name == "import" else EXPORTED)


def test_the_remainder_of_a_killed_export_is_removed_and_that_of_a_living_one_is_not(
    commands: dict[str, Command], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    (output / ".trireme-export-0123").mkdir(parents=True)
    (output / ".trireme-export-0123" / "model.safetensors").touch()
    with scratch_directory(output, prefix=".trireme-export-") as living:
        assert [path.name for path in output.iterdir()] == [living.name]
        assert commands["export"](output) == EXIT_BAD_INPUT
        assert "OUTPUT_DIR: is being written by another export" in capsys.readouterr().err
        assert living.is_dir()
    (output / ".trireme-export-4567").mkdir()
    assert commands["export"](output) == EXIT_OK
    assert {path.name for path in output.iterdir()} == EXPORTED


def test_a_remainder_whose_lock_cannot_be_tried_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on network file systems that lock no directories."""

    def refuse(*arguments: object) -> None:
        raise OSError(9, "Bad file descriptor")

    (tmp_path / "x-1").mkdir()
    monkeypatch.setattr(fcntl, "flock", refuse)
    with scratch_directory(tmp_path, prefix="x-") as path:
        assert path.is_dir()
    assert [entry.name for entry in tmp_path.iterdir()] == ["x-1"]
    assert f"{tmp_path / 'x-1'} may be the remainder of an interrupted command: delete it" in caplog.text
