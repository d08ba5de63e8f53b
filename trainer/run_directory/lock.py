"""One job at a time in a run directory, on any file system that all its hosts share.

The lock is a file that appears by exclusive creation and whose owner touches it every few seconds. It outlives its
owner: a process that is gone from this host is seen at once, one of another host by a file that stays untouched.
No lock of the operating system is asked, because shared file systems often have none or keep them to one host.
"""

import errno
import json
import logging
import os
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import psutil

from trireme.errors import ConfigError, Violation
from trireme.logging import EVERY_RANK
from trireme.processes import leave_exit_code

LOCK_NAME = "run.lock"
HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
"""A lock that nobody has touched for so long, while we looked on, belongs to nobody."""
SETTLE_SECONDS = 1.0
"""After taking over: longer than another one needs between looking and writing."""
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Owner:
    token: str
    host: str
    machine: str
    """Tells hosts, their starts and containers apart: process numbers mean something within one only."""
    pid: int
    started: float
    """When the process began, so that a number given anew is not taken for it."""


class RunLock:
    """Holds a run directory from `with` to its end; the directory is created where it is missing.

    Raises:
        ConfigError: another job holds it.
    """

    def __init__(self, run_directory: Path) -> None:
        self._path = run_directory / LOCK_NAME
        self._owner = _Owner(
            token=secrets.token_hex(8),
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            started=psutil.Process().create_time(),
        )
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name="run lock", daemon=True)

    def __enter__(self) -> "RunLock":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError([cannot_write(self._path.parent, error, to=self._path.name)]) from error
        if not self._create():
            self._take_over(self._wait_for_its_end())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()
        if self._is_ours():
            self._path.unlink(missing_ok=True)

    def _create(self) -> bool:
        """Create the file; False where there is one."""
        try:
            with self._path.open("x") as file:
                file.write(json.dumps(asdict(self._owner)))
        except FileExistsError:
            return False
        except OSError as error:  # no room, say; an empty lock would be another one's to the next start
            self._path.unlink(missing_ok=True)
            raise ConfigError([cannot_write(self._path.parent, error, to=self._path.name)]) from error
        return True

    def _wait_for_its_end(self) -> "_Look":
        """Look at another one's lock until it is known to be dead, and refuse when it is alive.

        Returns:
            The last look at it.
        """
        first = _look(self._path)
        if first.owner is not None and first.owner.machine == self._owner.machine:
            if _is_running(first.owner):
                raise ConfigError([_in_use(self._path, first.owner)])
            return first
        whose = f"{first.owner.host}, process {first.owner.pid}" if first.owner else "an unknown process"
        _LOGGER.info("%s belongs to %s; looking whether it is alive (%.0f s)", self._path, whose, STALE_SECONDS)
        deadline = time.monotonic() + STALE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(1.0, STALE_SECONDS / 10))
            look = _look(self._path)
            if look.touched is None:
                return look
            if look != first:
                raise ConfigError([_in_use(self._path, look.owner)])
        return first

    def _take_over(self, dead: "_Look") -> None:
        """Put our name in the place of a dead one's; of several that try it, the last one to write has it."""
        if _look(self._path) not in (dead, _Look(owner=None, touched=None)):
            raise ConfigError([_in_use(self._path, _look(self._path).owner)])
        ours = self._path.with_name(f"{self._path.name}.{self._owner.token}")
        ours.write_text(json.dumps(asdict(self._owner)))
        ours.replace(self._path)
        time.sleep(SETTLE_SECONDS)
        if not self._is_ours():
            raise ConfigError([_in_use(self._path, _look(self._path).owner)])
        _LOGGER.warning("%s was left by a process that is gone; it is ours now", self._path)

    def _is_ours(self) -> bool:
        owner = _look(self._path).owner
        return owner is not None and owner.token == self._owner.token

    def _keep_alive(self) -> None:
        """Touch the file, and leave when it is another one's: this process was taken for dead while it slept."""
        while not self._is_over.wait(HEARTBEAT_SECONDS):
            look = _look(self._path)
            if look.owner is not None and look.owner.token != self._owner.token:
                _LOGGER.error(
                    "%s was taken over by %s, process %d: this process had stood still; leaving without a save",
                    self._path,
                    look.owner.host,
                    look.owner.pid,
                    extra=EVERY_RANK,
                )
                leave_exit_code(1)
                os._exit(1)
            try:
                os.utime(self._path)
            except OSError as error:
                _LOGGER.warning("%s cannot be touched: %s", self._path, error.strerror)


@dataclass(frozen=True, kw_only=True)
class _Look:
    """A lock at one moment."""

    owner: _Owner | None
    """None where the file is missing or says nothing readable."""
    touched: int | None
    """When, in the file system's own time; None where there is no file."""


def _look(path: Path) -> _Look:
    touched = None
    try:
        # Opened each time: network file systems ask the server about a file when it is opened, not before.
        with path.open() as file:
            touched = os.fstat(file.fileno()).st_mtime_ns
            return _Look(owner=_Owner(**json.load(file)), touched=touched)
    except (OSError, ValueError, TypeError):
        return _Look(owner=None, touched=touched)


def _is_running(owner: _Owner) -> bool:
    try:
        process = psutil.Process(owner.pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - owner.started) < 10.0
    except psutil.NoSuchProcess:
        return False


def _machine() -> str:
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(os.readlink(path) if path.endswith("pid") else Path(path).read_text().strip())
        except OSError:  # no Linux
            continue
    return "/".join(parts)


def cannot_write(run_directory: Path, error: OSError, *, to: str) -> Violation:
    """What to say of a run directory in which something cannot be written.

    Args:
        to: the file or directory that the error is about.
    """
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return Violation(
        path="output_dir",
        value=str(run_directory),
        message=f"cannot be written: {error.strerror} ({to})",
        fix="make room there, or choose an output_dir that has some"
        if is_full
        else "choose an output_dir that this user can create files in",
    )


def _in_use(path: Path, owner: _Owner | None) -> Violation:
    whose = f"process {owner.pid} of host {owner.host}" if owner is not None else "another job"
    return Violation(
        path="run_name",
        value=path.parent.name,
        message=f"is in use: {whose} is writing to {path.parent}",
        fix=f"wait for it, end it, or use another run_name (the lock is {path})",
    )
