"""Extend torch.distributed.checkpoint: hashed and safe storage, and planners for `ShardedTensorView`."""

import hashlib
import io
import math
import os
import pickle
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    STATE_DICT_TYPE,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from trainer.checkpoint.discovery import check_checkpoint
from trainer.checkpoint.manifest import FileRecord
from trainer.checkpoint.pieces import ShardedTensorView
from trireme.errors import ConfigError, Violation, raise_if_any

METADATA_NAME = ".metadata"
"""torch's table of contents: which chunk of which tensor is where in which file."""

_METADATA_CLASSES = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
}
"""All that torch's own metadata consists of, besides numbers, strings, containers and dtypes."""


class HashingWriter(FileSystemWriter):
    """Write one file per rank, flushed to the disk; `records` lists what was written."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, single_file_per_rank=True, sync_files=True, thread_count=1, overwrite=False)
        self._files = _HashingFileSystem()
        self.fs = self._files

    @property
    def records(self) -> dict[str, FileRecord]:
        """The files that this process has written."""
        return self._files.records

    @property
    def disk_error(self) -> OSError | None:
        """The error of a failed write; torch's serializer turns it into another error."""
        return self._files.error

    def storage_meta(self) -> StorageMeta:
        """Omit the directory's name from the metadata: it is temporary."""
        return StorageMeta()


class SafeReader(FileSystemReader):
    """Read a checkpoint whose files need not be trusted: its pickle may name metadata classes only.

    torch reads the tensors themselves with weights_only=True, but `.metadata` with plain pickle.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read the table of contents.

        Raises:
            pickle.UnpicklingError: it names a class that does not belong to metadata.
        """
        with (Path(self.path) / METADATA_NAME).open("rb") as file:
            metadata = _MetadataUnpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"{METADATA_NAME} holds {type(metadata).__name__}, not metadata")
        return metadata


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        """Allow the classes of the table above and torch's dtypes."""
        if global_name in _METADATA_CLASSES.get(module_name, ()):
            return super().find_class(module_name, global_name)
        if module_name == "torch" and isinstance(found := getattr(torch, global_name, None), torch.dtype):
            return found
        raise pickle.UnpicklingError(
            f"{METADATA_NAME} names {module_name}.{global_name}, which is not allowed in metadata"
        )


class _HashingFileSystem(FileSystem):
    def __init__(self) -> None:
        self.records: dict[str, FileRecord] = {}
        self.error: OSError | None = None

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        assert mode == "wb", f"a checkpoint's files are written once, never opened with {mode}"
        try:
            with Path(path).open("wb") as file:
                stream = _HashingStream(file)
                yield stream
        except Exception as error:
            if (found := _find_disk_error(error)) is not None:
                self.error = OSError(found.errno, found.strerror, str(path))
            raise
        self.records[Path(path).name] = FileRecord(num_bytes=stream.num_bytes, sha256=stream.digest.hexdigest())

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        super().rename(path, new_path)
        self.records[Path(new_path).name] = self.records.pop(Path(path).name)


def _find_disk_error(error: BaseException | None) -> OSError | None:
    """Find the OSError among the causes of an error."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


class _HashingStream(io.RawIOBase):
    """Hash what should be written, so that a disk that stores something else is detected too."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.digest = hashlib.sha256()
        self.num_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        written = self._file.write(data)
        self.num_bytes += written
        return written

    def tell(self) -> int:
        return self.num_bytes

    def flush(self) -> None:
        if not self._file.closed:
            self._file.flush()

    def fileno(self) -> int:
        # Called by fsync, which does not know of Python's buffer.
        self._file.flush()
        return self._file.fileno()

    def close(self) -> None:
        super().close()
        self._file.close()


@torch.no_grad()
def read_pieces(path: Path, pieces: Mapping[str, ShardedTensorView]) -> None:
    """Read into this process's views without communication: ranks need not agree on what each of them reads.

    Raises:
        ConfigError: a tensor is missing or has another shape, or a file is damaged.
    """
    reader, planner = SafeReader(path), PieceLoadPlanner()
    try:
        metadata = reader.read_metadata()
        reader.set_up_storage_reader(metadata, is_coordinator=True)
        planner.set_up_planner(dict(pieces), metadata, is_coordinator=True)
        plan = planner.create_local_plan()
        reader.read_data(plan, planner).wait()
    except ConfigError:
        raise
    except Exception:
        # Without prior verification, a damaged file raises an error of a library: name the file instead.
        raise_if_any(check_checkpoint(path, verify_hashes=True))
        raise


_MAX_NAMED_KEYS = 8


class PieceSavePlanner(DefaultSavePlanner):
    """Write a dictionary of `ShardedTensorView`; refuse a checkpoint in which a tensor is incomplete."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def set_up_planner(
        self, state_dict: STATE_DICT_TYPE, storage_meta: StorageMeta | None = None, is_coordinator: bool = False
    ) -> None:
        """Take the views as they are."""
        assert all(isinstance(value, ShardedTensorView) for value in state_dict.values())
        super().set_up_planner(state_dict, storage_meta, is_coordinator)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """Join the ranks' plans; the default planner checks for overlaps, but for gaps only with several ranks."""
        plans, metadata = super().create_global_plan(all_plans)
        for key, entry in metadata.state_dict_metadata.items():
            assert isinstance(entry, TensorStorageMetadata)
            covered = sum(math.prod(chunk.sizes) for chunk in entry.chunks)
            if covered != math.prod(entry.size):
                raise ValueError(f"the ranks hold {covered} of the {math.prod(entry.size)} elements of {key}")
        return plans, metadata

    def lookup_object(self, index: MetadataIndex) -> torch.Tensor:
        """Return the view of a write item."""
        return self.state_dict[index.fqn].__get_tensor_shard__(index)


class PieceLoadPlanner(LoadPlanner):
    """Read into a dictionary of `ShardedTensorView`; every element must be in the checkpoint."""

    def set_up_planner(
        self, state_dict: STATE_DICT_TYPE, metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """Take the views and the checkpoint's table of contents."""
        assert metadata is not None
        self._views: dict[str, ShardedTensorView] = state_dict
        self._contents: dict[str, Any] = metadata.state_dict_metadata

    def create_local_plan(self) -> LoadPlan:
        """Find the stored chunks that overlap this rank's.

        Raises:
            ConfigError: a tensor is missing, has another shape or is incomplete.
        """
        items: list[ReadItem] = []
        violations: list[Violation] = []
        for key, view in self._views.items():
            entry = self._contents.get(key)
            problem = _mismatch(view, entry)
            if problem is None:
                assert isinstance(entry, TensorStorageMetadata)
                found = create_read_items_for_chunk_list(key, entry, view.__create_chunk_list__())
                items += found
                covered = sum(math.prod(item.lengths) for item in found)
                if covered != view.num_elements:
                    problem = (
                        f"is incomplete in the checkpoint: {covered} of the {view.num_elements} elements are stored"
                    )
            if problem is not None:
                violations.append(
                    Violation(
                        path=key,
                        value=f"shape {tuple(view.global_shape)}",
                        message=problem,
                        fix="Load a checkpoint of this model.",
                    )
                )
        if violations:
            raise ConfigError(violations[:_MAX_NAMED_KEYS])
        return LoadPlan(items)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """Return the plans unchanged: each rank reads what it needs."""
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        """Return the plan unchanged."""
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Refuse: checkpoints hold tensors only, and bytes would have to be unpickled."""
        raise ValueError(f"{read_item.storage_index.fqn} is stored as bytes, not as a tensor")

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        """Return the part of this rank's memory that a stored chunk is copied into (and cast to)."""
        index = read_item.dest_index
        target = self._views[index.fqn].__get_tensor_shard__(index).detach()
        for axis, (start, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            target = target.narrow(axis, start, length)
        return target

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        """Do nothing: the target is the engine's own memory."""


def _mismatch(view: ShardedTensorView, entry: Any) -> str | None:
    if not isinstance(entry, TensorStorageMetadata):
        return "is not in the checkpoint"
    if entry.size != view.global_shape:
        return f"has another shape in the checkpoint: {tuple(entry.size)}"
    return None
