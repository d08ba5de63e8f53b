"""What reading an input raises, and under which reason the ledger counts it."""

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


def explain_read_error(error: BaseException) -> tuple[str, str]:
    """Reason and detail under which the ledger counts what ended the reading of a file that is not an archive."""
    if isinstance(error, UnreadableInputError):
        return error.reason, f"what follows in the file is lost: {error}"
    reason = "compressed_data_truncated" if isinstance(error, EOFError) else "compressed_data_corrupt"
    return reason, f"what follows in the file is lost: {type(error).__name__}: {error}"
