"""What ends a preparation or fails an input, and under which reason the ledger counts it."""

import lzma
import zlib

import pyarrow

READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, pyarrow.ArrowInvalid)
"""What reading a damaged, truncated or unreachable stream raises; fsspec's file systems raise OSError."""


class UnreadableInputError(OSError):
    """An input gives no more bytes, and not because of what it holds: reading on elsewhere in it makes no sense."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def find_reason(error: BaseException, *, truncated: str, corrupt: str) -> str:
    """The reason under which the ledger counts an error, given those for a file that is cut or damaged."""
    if isinstance(error, UnreadableInputError):
        return error.reason
    if isinstance(error, OSError) and error.errno is not None:
        # The system's own words: a broken disk, a file system that went away.
        return "file_unreadable"
    return truncated if isinstance(error, EOFError) else corrupt


def explain_read_error(error: BaseException) -> tuple[str, str]:
    """Reason and detail under which the ledger counts what ended the reading of a file that is not an archive."""
    reason = find_reason(error, truncated="compressed_data_truncated", corrupt="compressed_data_corrupt")
    kind = "" if isinstance(error, UnreadableInputError) else f"{type(error).__name__}: "
    return reason, f"what follows in the file is lost: {kind}{error}"


class PreparationError(Exception):
    """The preparation cannot go on; its message is for the user."""


class BadRecordError(PreparationError):
    """A record cannot be read, and strict=true."""
