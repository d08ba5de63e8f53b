"""Routing of log messages: to the console by rank and level, and to each rank's file."""

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from trireme.logging import EVERY_RANK, configure_logging, printed_to_log, quiet_libraries, rank_log_path


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root, deepspeed = logging.getLogger(), logging.getLogger("DeepSpeed")
    before = (list(root.handlers), root.level, list(deepspeed.filters))
    yield
    logging.captureWarnings(False)
    for handler in root.handlers:
        if handler not in before[0]:
            handler.close()
    root.handlers[:], deepspeed.filters[:] = before[0], before[2]
    root.setLevel(before[1])


def _say_everything() -> None:
    ours = logging.getLogger("trainer.loop")
    ours.info("step done")
    ours.info("I am here", extra=EVERY_RANK)
    ours.warning("careful")
    logging.getLogger("megatron.core.optimizer").warning("no apex")
    logging.getLogger("megatron.core.optimizer").error("broken")


def test_rank_0_speaks_and_libraries_only_when_something_broke(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(rank=0)
    _say_everything()
    assert capsys.readouterr().err.splitlines() == [
        "step done",
        "[rank 0] I am here",
        "warning: careful",
        "error: broken",
    ]


def test_what_a_library_prints_is_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(rank=0, run_directory=tmp_path)
    with pytest.raises(ZeroDivisionError), printed_to_log("deepspeed"):
        print("MA 0.33 GB")
        print("one", end=" ")
        print("line\nunfinished", end="")
        raise ZeroDivisionError
    print("ours")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("ours\n", "")
    kept = rank_log_path(tmp_path, rank=0).read_text().splitlines()
    assert [line.partition("deepspeed: ")[2] for line in kept] == ["MA 0.33 GB", "one line", "unfinished"]


def test_other_ranks_speak_when_asked_or_in_trouble_and_say_their_rank(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(rank=3)
    _say_everything()
    assert capsys.readouterr().err.splitlines() == [
        "[rank 3] I am here",
        "[rank 3] warning: careful",
        "[rank 3] error: broken",
    ]


def test_the_ranks_file_keeps_everything_and_is_appended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        configure_logging(rank=12, run_directory=tmp_path)
        _say_everything()
    text = rank_log_path(tmp_path, rank=12).read_text()
    assert rank_log_path(tmp_path, rank=12).name == "rank_012.log"
    assert text.count("INFO    trainer.loop: step done") == 2
    assert text.count("no apex") == 2


def test_python_warnings_go_to_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(rank=0, run_directory=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old API", stacklevel=1)
    assert "old API" not in capsys.readouterr().err
    assert "old API" in rank_log_path(tmp_path, rank=0).read_text()


def test_a_library_with_its_own_console_handler_is_redirected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet_libraries()
    library = logging.getLogger("DeepSpeed")
    own = logging.StreamHandler()  # as DeepSpeed adds while it is imported, after quiet_libraries
    library.addHandler(own)
    library.propagate = False
    try:
        configure_logging(rank=0, run_directory=tmp_path)
        library.warning("setting accelerator")
        library.error("no such stage")
    finally:
        library.removeHandler(own)
    assert capsys.readouterr().err.splitlines() == ["error: no such stage"]
    assert "setting accelerator" in rank_log_path(tmp_path, rank=0).read_text()
