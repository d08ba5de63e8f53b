"""Which checkpoints of a run stay after a save."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint.manifest import Manifest, check_files, read_manifest
from trainer.checkpoint.store import delete, list_abandoned, list_checkpoints, step_of
from trireme.errors import ConfigError

_LOGGER = logging.getLogger(__name__)


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
