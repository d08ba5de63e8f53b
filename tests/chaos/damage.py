"""What happens to files while a run is down. Each takes the run's directory and the shard's prefix."""

import shutil
from pathlib import Path

from trainer.checkpoint.directory import list_checkpoints
from trainer.checkpoint.manifest import MANIFEST_NAME
from trainer.checkpoint.trainer_state import STATE_NAME


def truncate_tensors(run: Path, shard: Path) -> None:
    """the largest file of the newest checkpoint is cut in half"""
    path = _largest(run)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def flip_bit(run: Path, shard: Path) -> None:
    """a bit of the newest checkpoint's largest file is flipped"""
    _flip(_largest(run))


def lose_state(run: Path, shard: Path) -> None:
    """the newest checkpoint loses its state"""
    (list_checkpoints(run)[0] / STATE_NAME).unlink()


def spoil_manifest(run: Path, shard: Path) -> None:
    """a bit of the newest checkpoint's manifest is flipped"""
    _flip(list_checkpoints(run)[0] / MANIFEST_NAME)


def flip_shard_bit(run: Path, shard: Path) -> None:
    """a bit of the shard is flipped"""
    _flip(shard.with_suffix(".bin"))


def restore_shard(run: Path, shard: Path) -> None:
    """the shard is put back from a copy"""
    shutil.copy2(shard.with_suffix(".bin.copy"), shard.with_suffix(".bin"))


def _largest(run: Path) -> Path:
    files = (path for path in list_checkpoints(run)[0].rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
