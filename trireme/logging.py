"""Log a job with many processes: rank 0 writes to the console, every rank to its own file."""

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from trireme.files import LineFile

EVERY_RANK = {"every_rank": True}
"""Pass as `extra=` to show an INFO message of any rank on the console, marked with its rank."""

FILE_ONLY = {"file_only": True}
"""Pass as `extra=` to keep a message of any level off the console."""

LIBRARIES = (
    "megatron",
    "DeepSpeed",
    "deepspeed",
    "torch",
    "wandb",
    "urllib3",
    "fsspec",
    "hydra",
    "gguf",
    "py.warnings",
    "root",
)
"""Loggers whose messages below ERROR go to the rank's file only."""

MAX_WAITING_LINES = 10_000
"""Lines of a rank's log kept in memory while its disk cannot be written."""

_LIBRARIES_WITH_OWN_HANDLERS = ("DeepSpeed",)


def configure_logging(*, rank: int, run_directory: Path | None = None, level: int = logging.INFO) -> None:
    """Route log messages to console and files; a further call replaces the earlier one.

    Console (stderr): rank 0 from `level` up; other ranks from WARNING up, and messages with `extra=EVERY_RANK`.
    Messages of libraries appear there from ERROR up. `<run_directory>/logs/rank_NNN.log` gets everything, appended.
    """
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _ConsoleHandler | _RankFileHandler)]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    root.addHandler(_ConsoleHandler(rank, level))
    if run_directory is not None:
        root.addHandler(_RankFileHandler(rank_log_path(run_directory, rank=rank)))
    quiet_libraries()


def quiet_libraries() -> None:
    """Route Python warnings, and libraries that write to the console on their own, to our handlers.

    Works before and after such a library is imported; before is better, since some log during their import.
    """
    logging.captureWarnings(True)
    for name in _LIBRARIES_WITH_OWN_HANDLERS:
        library = logging.getLogger(name)
        if _hand_to_root not in library.filters:
            library.addFilter(_hand_to_root)


@contextlib.contextmanager
def printed_to_log(name: str) -> Iterator[None]:
    """Route what Python code prints to stdout, as libraries do, to the logger `name`."""
    lines = _LinesToLog(logging.getLogger(name))
    try:
        with contextlib.redirect_stdout(lines):
            yield
    finally:
        lines.close()


class _LinesToLog(io.TextIOBase):
    """Log each line written to this text stream as an INFO message."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._logger.info(line)
        return len(text)

    def close(self) -> None:
        if self._begun:
            self.write("\n")
        super().close()


def rank_log_path(run_directory: Path, *, rank: int) -> Path:
    """Return the path of a rank's log file."""
    return run_directory / "logs" / f"rank_{rank:03d}.log"


def _hand_to_root(record: logging.LogRecord) -> bool:
    """Pass the record to the root handlers, if any, and withhold it from the library's own."""
    handlers = logging.getLogger().handlers
    for handler in handlers:
        if record.levelno >= handler.level:
            handler.handle(record)
    return not handlers


def _is_from_library(record: logging.LogRecord) -> bool:
    return any(record.name == name or record.name.startswith(name + ".") for name in LIBRARIES)


class _ConsoleHandler(logging.Handler):
    """Write to the current `sys.stderr`, so that a live progress bar can print lines above itself."""

    def __init__(self, rank: int, level: int) -> None:
        super().__init__(level)
        self._rank = rank
        self.addFilter(self._is_shown)

    def _is_shown(self, record: logging.LogRecord) -> bool:
        if getattr(record, "file_only", False):
            return False
        if _is_from_library(record):
            return record.levelno >= logging.ERROR
        return self._rank == 0 or record.levelno >= logging.WARNING or getattr(record, "every_rank", False)

    def format(self, record: logging.LogRecord) -> str:
        is_marked = self._rank != 0 or getattr(record, "every_rank", False)
        rank = f"[rank {self._rank}] " if is_marked else ""
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return rank + level + super().format(record)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


class _RankFileHandler(logging.Handler):
    """Append every message of one rank to its file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = LineFile(path, say=_say_on_console, max_waiting=MAX_WAITING_LINES)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._file.write(self.format(record))
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self._file.close()
        super().close()


def _say_on_console(text: str) -> None:
    """Bypass the handlers, one of which is calling."""
    sys.stderr.write(f"warning: {text}\n")
    sys.stderr.flush()


def quiet_torchrun() -> None:
    """Limit the torchrun agent to errors that no process of the run reports: its own failures."""
    for name in (
        "torch.distributed.elastic.multiprocessing.api",
        "torch.distributed.elastic.agent.server.api",
        "torch.distributed.elastic.rendezvous.dynamic_rendezvous",
    ):
        logging.getLogger(name).setLevel(logging.CRITICAL)
