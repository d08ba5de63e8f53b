"""Create the directories that imports and exports write into, and leave nothing behind where one fails."""

import contextlib
import errno
import fcntl
import glob
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from trireme.errors import EXIT_STOPPED, ConfigError, RunStopped, Violation
from trireme.files import nearest_existing_parent
from trireme.progress import format_bytes

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOGGER = logging.getLogger(__name__)


def cannot_use(output: Path, message: str, *, fix: str = "Choose another path.") -> ConfigError:
    """Return the error of an output directory."""
    return ConfigError([Violation(path="OUTPUT_DIR", value=output, message=message, fix=fix)])


@contextlib.contextmanager
def created_directory(path: Path, *, output: Path) -> Iterator[None]:
    """Create a directory with its parents; where the block raises, delete the ones created, unless they are in use.

    Args:
        path: the directory.
        output: the command's argument, for messages.
    Raises:
        ConfigError: it cannot be created.
        OSError: the disk is full.
    """
    path = path.absolute()
    missing = [place for place in (path, *path.parents) if not os.path.lexists(place)]
    try:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in _FULL:
                raise
            raise cannot_use(output, f"cannot be created: {error.strerror}") from error
        yield
    except BaseException:
        for place in missing:
            with contextlib.suppress(OSError):  # not empty: another process uses it
                place.rmdir()
        raise


@contextlib.contextmanager
def scratch_directory(parent: Path, *, prefix: str) -> Iterator[Path]:
    """Create a directory that is deleted at the end, and delete those of processes that were killed.

    Args:
        parent: an existing directory.
        prefix: of its name.
    Raises:
        OSError: it cannot be created.
    """
    delete_leftovers(parent, prefix=prefix)
    path = parent / f"{prefix}{secrets.token_hex(4)}"
    path.mkdir(mode=0o700)
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks of directories
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def delete_leftovers(parent: Path, *, prefix: str, before: Callable[[Path], object] = lambda path: None) -> None:
    """Delete the scratch directories of killed processes; name those that cannot be deleted.

    The lock of a living process keeps its directory.

    Args:
        parent: an existing directory.
        prefix: of their names.
        before: is given each directory before it is deleted.
    """
    for path in parent.glob(f"{glob.escape(prefix)}*"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # another user's, or gone
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_uid == os.geteuid():
                _LOGGER.info("Removing %s, the remainder of an interrupted command.", path)
                before(path)
                shutil.rmtree(path)
        except BlockingIOError:  # in use
            continue
        except OSError as error:
            _LOGGER.warning("%s may be the remainder of an interrupted command: delete it (%s).", path, error.strerror)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def deleted_on_failure(path: Path) -> Iterator[None]:
    """Delete a directory where the block raises."""
    try:
        yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


@contextlib.contextmanager
def write_errors_explained(output: Path) -> Iterator[None]:
    """Turn errors of files into messages; that of a full disk says how much is free.

    Raises:
        RunStopped: a file could not be read or written.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        message = f"{error.filename or output}: {error.strerror}. Nothing was written to {output}."
        if error.errno in _FULL:
            raise _full_disk(output, error) from error
        raise RunStopped(message, exit_code=EXIT_STOPPED) from error
    except Exception as error:
        # The package is an extra, and reports a full disk by an error of its own.
        if type(error).__name__ != "SafetensorError" or f"os error {errno.ENOSPC}" not in str(error):
            raise
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise _full_disk(output, full) from error


def _full_disk(output: Path, error: OSError) -> RunStopped:
    free = format_bytes(shutil.disk_usage(nearest_existing_parent(output)).free)
    message = (
        f"{output}: cannot be written: {error.strerror} ({free} free). Free disk space, or choose an OUTPUT_DIR on"
        " another disk."
    )
    return RunStopped(message, exit_code=EXIT_STOPPED)
