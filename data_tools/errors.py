"""Errors that stop a preparation or fail an input, and the reasons under which the ledger counts them."""

import lzma
import zlib

import pyarrow

READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, pyarrow.ArrowInvalid)
"""Errors of damaged, truncated or unreachable streams; fsspec's file systems raise OSError."""


class UnreadableInputError(OSError):
    """An input yields no more bytes for a reason other than its content; retrying at another offset is useless."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def find_reason(error: BaseException, *, truncated: str, corrupt: str) -> str:
    """Return the reason under which the ledger counts an error, given those for a truncated and a damaged file."""
    if isinstance(error, UnreadableInputError):
        return error.reason
    if isinstance(error, OSError) and error.errno is not None:
        # An error of the operating system: a broken disk, a file system that is gone.
        return "file_unreadable"
    return truncated if isinstance(error, EOFError) else corrupt


def explain_read_error(error: BaseException) -> tuple[str, str]:
    """Return the reason and detail under which the ledger counts a read error of a file that is not an archive."""
    reason = find_reason(error, truncated="compressed_data_truncated", corrupt="compressed_data_corrupt")
    kind = "" if isinstance(error, UnreadableInputError) else f"{type(error).__name__}: "
    return reason, f"what follows in the file is lost: {kind}{error}"


class PreparationError(Exception):
    """The preparation cannot continue; the message is for the user."""


class NothingKeptError(PreparationError):
    """No document is left to train on: the same command fails again until a setting or an input changes."""


class BadRecordError(PreparationError):
    """A record cannot be read, and data_prep.strict is set."""
