"""Lock a run directory, so that one job at a time writes to it, on any file system that its hosts share.

The lock is a file that is created exclusively and that its owner touches every few seconds. It may outlive its owner:
a process of this host that has exited is noticed immediately, one of another host by a file that is no longer touched.
Locks of the operating system are not used, because shared file systems often have none, or only within one host.
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
"""A lock that is not touched for this long while this process watches has no owner any more."""
SETTLE_SECONDS = 1.0
"""Wait after a takeover: longer than another process needs between reading and writing."""
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Owner:
    token: str
    host: str
    machine: str
    """Identifies a host since its last boot, or a container: process ids are unique within one only."""
    pid: int
    started: float
    """Start time of the process, to detect that its id has been reused."""


class RunLock:
    """Hold the lock of a run directory inside `with`; a missing directory is created.

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
            self._take_over(self._wait_until_stale())
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
        """Create the file; return False if it exists."""
        try:
            with self._path.open("x") as file:
                file.write(json.dumps(asdict(self._owner)))
        except FileExistsError:
            return False
        except OSError as error:  # no space, for example; an empty lock would look like another job's to the next start
            self._path.unlink(missing_ok=True)
            raise ConfigError([cannot_write(self._path.parent, error, to=self._path.name)]) from error
        return True

    def _wait_until_stale(self) -> "_Look":
        """Watch another process's lock until that process is known to have exited; raise if it is alive.

        Returns:
            The last reading.
        """
        first = _look(self._path)
        if first.owner is not None and first.owner.machine == self._owner.machine:
            if _is_running(first.owner):
                raise ConfigError([_in_use(self._path, first.owner)])
            return first
        whose = f"{first.owner.host} (pid {first.owner.pid})" if first.owner else "an unknown process"
        _LOGGER.info(
            "%s is held by %s; waiting up to %.0f s to see whether that process is still alive",
            self._path,
            whose,
            STALE_SECONDS,
        )
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
        """Replace the owner of a stale lock; of several processes that try, the last one to write holds it."""
        if _look(self._path) not in (dead, _Look(owner=None, touched=None)):
            raise ConfigError([_in_use(self._path, _look(self._path).owner)])
        ours = self._path.with_name(f"{self._path.name}.{self._owner.token}")
        ours.write_text(json.dumps(asdict(self._owner)))
        ours.replace(self._path)
        time.sleep(SETTLE_SECONDS)
        if not self._is_ours():
            raise ConfigError([_in_use(self._path, _look(self._path).owner)])
        _LOGGER.warning("Took over %s: the process that held it has exited.", self._path)

    def _is_ours(self) -> bool:
        owner = _look(self._path).owner
        return owner is not None and owner.token == self._owner.token

    def _keep_alive(self) -> None:
        """Touch the file; exit if another process has taken it over while this one was suspended."""
        while not self._is_over.wait(HEARTBEAT_SECONDS):
            look = _look(self._path)
            if look.owner is not None and look.owner.token != self._owner.token:
                _LOGGER.error(
                    "%s was taken over by %s (pid %d) while this process was suspended: exiting without a save.",
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
                _LOGGER.warning("Failed to touch %s: %s", self._path, error.strerror)


@dataclass(frozen=True, kw_only=True)
class _Look:
    """Hold one reading of a lock."""

    owner: _Owner | None
    """None if the file is missing or unreadable."""
    touched: int | None
    """Modification time, of the file system's clock; None if the file is missing."""


def _look(path: Path) -> _Look:
    touched = None
    try:
        # Opened each time: network file systems query the server when a file is opened, not before.
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
    """Build the error for a run directory that cannot be written.

    Args:
        to: the file or directory that the error is about.
    """
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return Violation(
        path="output_dir",
        value=str(run_directory),
        message=f"cannot be written: {error.strerror} ({to})",
        fix="Free space there, or use an output_dir on another disk."
        if is_full
        else "Use an output_dir in which this user can create files.",
    )


def _in_use(path: Path, owner: _Owner | None) -> Violation:
    whose = f"{owner.host} (pid {owner.pid})" if owner is not None else "another job"
    return Violation(
        path="run_name",
        value=path.parent.name,
        message=f"is in use: {whose} is writing to {path.parent}",
        fix=f"Wait for that job, stop it, or use another run_name. The lock file is {path}.",
    )
