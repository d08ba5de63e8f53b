"""Logging of a job with many processes: rank 0 speaks on the console, every rank keeps a file."""

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
    "py.warnings",
    "root",
)
"""Loggers whose messages below ERROR go to the rank's file only."""

MAX_WAITING_LINES = 10_000
"""Of a rank's log, while its disk takes none."""

_LIBRARIES_WITH_OWN_HANDLERS = ("DeepSpeed",)


def configure_logging(*, rank: int, run_directory: Path | None = None, level: int = logging.INFO) -> None:
    """Send log messages where they belong; calling again replaces the earlier call.

    Console (stderr): rank 0 from `level` up; other ranks from WARNING up, and what says `extra=EVERY_RANK`. Messages of
    libraries appear there from ERROR up. `<run_directory>/logs/rank_NNN.log` gets everything, appended.
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
    """Lead Python warnings and libraries that write to the console on their own into our handlers.

    Works before and after such a library is imported; before is better, for what it says while it is.
    """
    logging.captureWarnings(True)
    for name in _LIBRARIES_WITH_OWN_HANDLERS:
        library = logging.getLogger(name)
        if _hand_to_root not in library.filters:
            library.addFilter(_hand_to_root)


@contextlib.contextmanager
def printed_to_log(name: str) -> Iterator[None]:
    """Lead what Python code prints to stdout, as libraries do, to the logger `name`."""
    lines = _LinesToLog(logging.getLogger(name))
    try:
        with contextlib.redirect_stdout(lines):
            yield
    finally:
        lines.close()


class _LinesToLog(io.TextIOBase):
    """A text stream whose lines are INFO messages of a logger."""

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
    """The log file of one rank."""
    return run_directory / "logs" / f"rank_{rank:03d}.log"


def _hand_to_root(record: logging.LogRecord) -> bool:
    """Give the record to the root handlers, if any, and keep it from the library's own, which no one can redirect."""
    handlers = logging.getLogger().handlers
    for handler in handlers:
        if record.levelno >= handler.level:
            handler.handle(record)
    return not handlers


def _is_from_library(record: logging.LogRecord) -> bool:
    return any(record.name == name or record.name.startswith(name + ".") for name in LIBRARIES)


class _ConsoleHandler(logging.Handler):
    """Writes to whatever `sys.stderr` is at that moment, so that a live progress bar can put lines above itself."""

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
    """The file that keeps everything one rank says."""

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
    """Past the handlers, one of which is asking."""
    sys.stderr.write(f"warning: {text}\n")
    sys.stderr.flush()


def quiet_torchrun() -> None:
    """Keep the torchrun agent to errors that no process of the run explains: its own failures."""
    for name in (
        "torch.distributed.elastic.multiprocessing.api",
        "torch.distributed.elastic.agent.server.api",
        "torch.distributed.elastic.rendezvous.dynamic_rendezvous",
    ):
        logging.getLogger(name).setLevel(logging.CRITICAL)
