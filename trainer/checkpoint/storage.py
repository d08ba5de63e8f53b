"""Files of torch.distributed.checkpoint: hashed while they are written, and read without running what they contain."""

import hashlib
import io
import os
import pickle
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from trainer.checkpoint.manifest import FileRecord

METADATA_NAME = ".metadata"
"""torch's table of contents: which rectangle of which tensor lies where in which file."""

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
    """Writes one file per rank, flushed to the disk; `records` tells what was written."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, single_file_per_rank=True, sync_files=True, thread_count=1, overwrite=False)
        self._files = _HashingFileSystem()
        self.fs = self._files

    @property
    def records(self) -> dict[str, FileRecord]:
        """The files that this process wrote."""
        return self._files.records

    @property
    def disk_error(self) -> OSError | None:
        """What the disk said when it did not take a file; torch's serializer turns that into an error of its own."""
        return self._files.error

    def storage_meta(self) -> StorageMeta:
        """Leave the directory's name out of the metadata: it is a temporary one."""
        return StorageMeta()


class SafeReader(FileSystemReader):
    """Reads a checkpoint whose files need not be trusted: no pickle in it can name anything but metadata classes.

    torch reads the tensors themselves with weights_only=True, but `.metadata` with plain pickle.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read the table of contents.

        Raises:
            pickle.UnpicklingError: it names something that metadata does not consist of.
        """
        with (Path(self.path) / METADATA_NAME).open("rb") as file:
            metadata = _MetadataUnpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"{METADATA_NAME} holds {type(metadata).__name__}, not metadata")
        return metadata


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        """Allow what the table above names and torch's dtypes."""
        if global_name in _METADATA_CLASSES.get(module_name, ()):
            return super().find_class(module_name, global_name)
        if module_name == "torch" and isinstance(found := getattr(torch, global_name, None), torch.dtype):
            return found
        raise pickle.UnpicklingError(f"{METADATA_NAME} names {module_name}.{global_name}, which is no metadata")


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
    """Look for what an error was raised over."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


class _HashingStream(io.RawIOBase):
    """Hashes what was meant to be written, so that a disk that stores something else is found out too."""

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
        # Asked for by fsync, which does not know of Python's own buffer.
        self._file.flush()
        return self._file.fileno()

    def close(self) -> None:
        super().close()
        self._file.close()
