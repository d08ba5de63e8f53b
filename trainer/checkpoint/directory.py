"""Manage a run's checkpoint directory: checkpoints appear and disappear atomically, and retention deletes old ones."""

import logging
import math
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint.manifest import MANIFEST_NAME, FileRecord, Manifest, check_files, read_manifest, write_manifest
from trainer.checkpoint.trainer_state import is_same_basis
from trireme.errors import ConfigError
from trireme.files import sync_directory

CHECKPOINTS = "checkpoints"
_NAME = re.compile(r"step_(\d{8,})(\.replaced)?")
_ABANDONED = ".abandoned"
_TEMPORARY = re.compile(r"\.step_\d{8,}(\.replaced)?(\.2)?(\.abandoned)?\.tmp-.*")
_LOGGER = logging.getLogger(__name__)


def checkpoints_directory(run_directory: Path) -> Path:
    """Return the directory in which a run keeps its checkpoints."""
    return run_directory / CHECKPOINTS


def list_checkpoints(run_directory: Path) -> list[Path]:
    """List a run's checkpoints, the one saved last first.

    A directory without a manifest is no checkpoint. One with an unreadable manifest has no place in the order; it comes
    first, so that the search for a valid one reports the damage.
    """
    directory = checkpoints_directory(run_directory)
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if _NAME.fullmatch(path.name) and (path / MANIFEST_NAME).is_file()]
    return sorted(found, key=lambda path: (serial_of(path) or math.inf, path.name), reverse=True)


def begin(run_directory: Path, *, step: int) -> Path:
    """Create the temporary directory that a checkpoint of `step` is written into; remove those of unfinished saves."""
    directory = checkpoints_directory(run_directory)
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            _LOGGER.info("Removing %s, the remainder of an unfinished save.", path)
            _remove(path)
    temporary = _temporary_name(directory / checkpoint_name(step))
    temporary.mkdir()
    return temporary


def commit(
    temporary: Path,
    *,
    step: int,
    files: Mapping[str, FileRecord],
    validation_loss: float | None = None,
    validation_score: float | None = None,
    validation_basis: str | None = None,
) -> Path:
    """Make a completely written temporary directory the latest checkpoint.

    Raises:
        FileNotFoundError: rank 0 does not see a file that another rank wrote.
    """
    directory = temporary.parent
    for name, record in files.items():
        if not (temporary / name).is_file() or (temporary / name).stat().st_size != record.num_bytes:
            raise FileNotFoundError(
                f"rank 0 does not see {temporary / name} as another rank wrote it; output_dir must be on a file system "
                "that all hosts share"
            )
    serial = 1 + max((serial_of(path) for path in list_checkpoints(directory.parent)), default=0)
    manifest = Manifest(
        step=step,
        serial=serial,
        files=dict(files),
        validation_loss=validation_loss,
        validation_score=validation_score,
        validation_basis=validation_basis,
    )
    write_manifest(temporary, manifest)
    sync_directory(temporary)
    final = directory / checkpoint_name(step)
    replaced = final.with_name(final.name + ".replaced")
    if final.exists():
        # A directory cannot be renamed onto another one; until the second rename the old one is valid.
        delete(replaced)
        final.rename(replaced)
    temporary.rename(final)
    sync_directory(directory)
    delete(replaced)
    return final


def abandon_later(run_directory: Path, *, than: Path) -> list[Path]:
    """Rename every checkpoint of a run that was saved later than the one that the run rolls back to.

    The run has left their course, so no start may load them, not even one before the next save. They keep their
    content, as step_NNNNNNNN.abandoned, until that save. Rank 0 calls this.

    Args:
        than: a checkpoint of this run, or the one of another run that this run was forked from: then all are later.
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
            if target.resolve() == than:  # the run rolls back to what an earlier rollback had renamed
                target = path.with_name(f"{path.name}.2{_ABANDONED}")
            delete(target)
            abandoned.append(path.rename(target))
    if abandoned:
        sync_directory(checkpoints_directory(run_directory))
    return abandoned


def list_abandoned(run_directory: Path) -> list[Path]:
    """List the checkpoints that rollbacks of a run have renamed."""
    return sorted(checkpoints_directory(run_directory).glob(f"step_*{_ABANDONED}"))


def delete(path: Path) -> None:
    """Delete a checkpoint if it exists; it is renamed first, so that it is invalid from the first moment on.

    A failure is logged: old data must not prevent a new save.
    """
    if not path.exists():
        return
    doomed = _temporary_name(path)
    try:
        path.rename(doomed)
    except OSError as error:
        _LOGGER.warning("Failed to delete %s: %s", path, error)
        return
    _remove(doomed)


def checkpoint_name(step: int) -> str:
    """Return the directory name of a step's checkpoint."""
    return f"step_{step:08d}"


def step_of(path: Path) -> int:
    """Return the step of a checkpoint, from its name or its manifest.

    Raises:
        ConfigError: the directory has been renamed, and its manifest cannot be read.
    """
    matched = _NAME.fullmatch(path.name)
    return int(matched.group(1)) if matched else read_manifest(path).step


def serial_of(path: Path) -> int:
    """Return the number of the save in the run directory, from 1; 0 if the manifest is unreadable."""
    try:
        return read_manifest(path).serial
    except ConfigError:
        return 0


def _remove(temporary: Path) -> None:
    try:
        shutil.rmtree(temporary)
    except OSError as error:
        _LOGGER.warning("Failed to delete %s: %s", temporary, error)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")


@dataclass(frozen=True, kw_only=True)
class _Complete:
    path: Path
    manifest: Manifest


def retain(run_directory: Path, *, keep_last: int, keep_interval: int = 0, keep_best: int = 0) -> None:
    """Delete the checkpoints that no rule keeps, and those that rollbacks have renamed; called after a save.

    One with missing or truncated files does not count among the last or the best, so the latest valid one always stays.

    Args:
        keep_last: number of checkpoints saved last that stay; 0 keeps all.
        keep_interval: checkpoints whose step is a multiple of it stay; 0 means none.
        keep_best: number of checkpoints with the lowest validation loss, or the highest score, that stay; validations
            by another metric or on other rows than the latest one do not count.
    """
    if keep_last <= 0:
        return
    try:
        paths, abandoned = list_checkpoints(run_directory), list_abandoned(run_directory)
    except OSError as error:
        _LOGGER.warning("Failed to list old checkpoints: %s", error)
        return
    complete = sorted(_find_complete(paths), key=lambda found: found.manifest.serial, reverse=True)
    kept = {found.path for found in complete[:keep_last]}
    if len(kept) < keep_last:
        return
    if keep_interval:
        kept |= {path for path in paths if step_of(path) % keep_interval == 0}
    # Of several saved after the same validation, the one nearest to it is kept.
    validated = [found for found in complete if _order(found.manifest) is not None]
    basis = validated[0].manifest.validation_basis if validated else None
    compared = [found for found in validated if is_same_basis(found.manifest.validation_basis, basis)]
    best = sorted((_order(found.manifest), found.manifest.step, found.path) for found in compared)
    kept |= {path for _, _, path in best[:keep_best]}
    for path in [*paths, *abandoned]:
        if path not in kept:
            delete(path)


def _order(manifest: Manifest) -> float | None:
    """Return what a checkpoint is compared by: less is better."""
    return manifest.validation_loss if manifest.validation_score is None else -manifest.validation_score


def _find_complete(paths: Iterable[Path]) -> list[_Complete]:
    """Return the checkpoints whose files all have the right sizes."""
    complete = []
    for path in paths:
        try:
            manifest = read_manifest(path)
        except ConfigError:
            continue
        if not check_files(path, manifest, verify_hashes=False):
            complete.append(_Complete(path=path, manifest=manifest))
    return complete
