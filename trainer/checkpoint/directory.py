"""A run's checkpoint directory: checkpoints appear in it at once, and old ones disappear at once."""

import logging
import math
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint.manifest import MANIFEST_NAME, FileRecord, Manifest, check_files, read_manifest, write_manifest
from trireme.errors import ConfigError
from trireme.files import sync_directory

CHECKPOINTS = "checkpoints"
_NAME = re.compile(r"step_(\d{8,})(\.replaced)?")
_ABANDONED = ".abandoned"
_TEMPORARY = re.compile(r"\.step_\d{8,}(\.replaced)?(\.2)?(\.abandoned)?\.tmp-.*")
_LOGGER = logging.getLogger(__name__)


def checkpoints_directory(run_directory: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run_directory / CHECKPOINTS


def list_checkpoints(run_directory: Path) -> list[Path]:
    """List a run's checkpoints, the one saved last first.

    A directory without a manifest is no checkpoint. One with an unreadable manifest has lost its place in the order; it
    comes first, so that whoever looks for a good one sees the damage.
    """
    directory = checkpoints_directory(run_directory)
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if _NAME.fullmatch(path.name) and (path / MANIFEST_NAME).is_file()]
    return sorted(found, key=lambda path: (serial_of(path) or math.inf, path.name), reverse=True)


def begin(run_directory: Path, *, step: int) -> Path:
    """Create the temporary directory that a checkpoint of `step` is written into; remove what dead saves left."""
    directory = checkpoints_directory(run_directory)
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            _LOGGER.info("removing %s, left by a save that did not finish", path)
            _remove(path)
    temporary = _temporary_name(directory / checkpoint_name(step))
    temporary.mkdir()
    return temporary


def commit(
    temporary: Path, *, step: int, files: Mapping[str, FileRecord], validation_loss: float | None = None
) -> Path:
    """Make a completely written temporary directory the newest checkpoint.

    Raises:
        FileNotFoundError: a file that some rank wrote is not visible here.
    """
    directory = temporary.parent
    for name, record in files.items():
        if not (temporary / name).is_file() or (temporary / name).stat().st_size != record.num_bytes:
            raise FileNotFoundError(
                f"{temporary / name} was written by another process but is not what rank 0 sees; "
                "checkpoints need a file system that all hosts share"
            )
    serial = 1 + max((serial_of(path) for path in list_checkpoints(directory.parent)), default=0)
    write_manifest(temporary, Manifest(step=step, serial=serial, files=dict(files), validation_loss=validation_loss))
    sync_directory(temporary)
    final = directory / checkpoint_name(step)
    replaced = final.with_name(final.name + ".replaced")
    if final.exists():
        # A directory cannot be renamed onto another one; until the second rename the old one counts.
        delete(replaced)
        final.rename(replaced)
    temporary.rename(final)
    sync_directory(directory)
    delete(replaced)
    return final


def abandon_later(run_directory: Path, *, than: Path) -> list[Path]:
    """Set aside every checkpoint of a run that was saved later than the one that the run rolls back to.

    What they hold is no longer this run's past, so no start may choose them, not even one before the next save. They
    keep their content, as step_NNNNNNNN.abandoned, until that save. Rank 0 calls this.

    Args:
        than: a checkpoint of this run; of another one, which this run started from, all of its own are later.
    Returns:
        Their new paths.
    Raises:
        OSError: one cannot be renamed.
        ConfigError: the manifest of `than` cannot be read.
    """
    own = list_checkpoints(run_directory)
    than = than.expanduser().resolve()
    serial = read_manifest(than).serial if than in [path.resolve() for path in own] else 0
    abandoned = []
    for path in own:
        if serial_of(path) > serial:
            target = path.with_name(path.name + _ABANDONED)
            if target.resolve() == than:  # the run goes back to what an earlier rollback had set aside
                target = path.with_name(f"{path.name}.2{_ABANDONED}")
            delete(target)
            abandoned.append(path.rename(target))
    if abandoned:
        sync_directory(checkpoints_directory(run_directory))
    return abandoned


def list_abandoned(run_directory: Path) -> list[Path]:
    """List what rollbacks of a run have set aside."""
    return sorted(checkpoints_directory(run_directory).glob(f"step_*{_ABANDONED}"))


def delete(path: Path) -> None:
    """Delete a checkpoint if it is there; it stops being one at once, however long the rest takes.

    What cannot be deleted is logged: old data must not stop a new save.
    """
    if not path.exists():
        return
    doomed = _temporary_name(path)
    try:
        path.rename(doomed)
    except OSError as error:
        _LOGGER.warning("could not delete %s: %s", path, error)
        return
    _remove(doomed)


def checkpoint_name(step: int) -> str:
    """Name the directory of a step's checkpoint."""
    return f"step_{step:08d}"


def step_of(path: Path) -> int:
    """The step of a checkpoint, by its name.

    Raises:
        ConfigError: the directory has been renamed, and its manifest cannot be read.
    """
    matched = _NAME.fullmatch(path.name)
    return int(matched.group(1)) if matched else read_manifest(path).step


def serial_of(path: Path) -> int:
    """Number of the save in the run directory, from 1; 0 where the manifest is unreadable."""
    try:
        return read_manifest(path).serial
    except ConfigError:
        return 0


def _remove(temporary: Path) -> None:
    try:
        shutil.rmtree(temporary)
    except OSError as error:
        _LOGGER.warning("could not delete %s: %s", temporary, error)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")


@dataclass(frozen=True, kw_only=True)
class _Whole:
    path: Path
    manifest: Manifest


def retain(run_directory: Path, *, keep_last: int, keep_interval: int = 0, keep_best: int = 0) -> None:
    """Delete the checkpoints that no rule keeps, and what rollbacks have set aside; called after a save.

    One with missing or truncated files does not count among the last or the best, so the last good one always stays.

    Args:
        keep_last: checkpoints saved last that stay; 0 keeps everything.
        keep_interval: those whose step is a multiple of it stay for ever; 0 means none.
        keep_best: checkpoints with the lowest validation loss that stay.
    """
    if keep_last <= 0:
        return
    try:
        paths, abandoned = list_checkpoints(run_directory), list_abandoned(run_directory)
    except OSError as error:
        _LOGGER.warning("could not look for old checkpoints: %s", error)
        return
    whole = sorted(_whole(paths), key=lambda found: found.manifest.serial, reverse=True)
    stays = {found.path for found in whole[:keep_last]}
    if len(stays) < keep_last:
        return
    if keep_interval:
        stays |= {path for path in paths if step_of(path) % keep_interval == 0}
    # Of several saved after the same validation, the one nearest to it.
    judged = [(found.manifest.validation_loss, found.manifest.step, found.path) for found in whole]
    best = sorted((loss, step, path) for loss, step, path in judged if loss is not None)
    stays |= {path for _, _, path in best[:keep_best]}
    for path in [*paths, *abandoned]:
        if path not in stays:
            delete(path)


def _whole(paths: Iterable[Path]) -> list[_Whole]:
    """Those whose files all have their sizes."""
    whole = []
    for path in paths:
        try:
            manifest = read_manifest(path)
        except ConfigError:
            continue
        if not check_files(path, manifest, verify_hashes=False):
            whole.append(_Whole(path=path, manifest=manifest))
    return whole
