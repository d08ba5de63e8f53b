"""Finding the next whole record behind a damaged place, and what lies behind the last one."""

import gzip
import io

import pytest

from data_tools.inputs.streams import CountedStream
from data_tools.readers.gzip_members import find_next_record, find_unread_end

RECORD = gzip.compress(b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 0\r\n\r\n\r\n\r\n")


def stream_of(*parts: bytes) -> CountedStream:
    return CountedStream(io.BytesIO(b"".join(parts)))


def test_next_record_is_whole_and_a_record():
    cut, other = RECORD[:-12], gzip.compress(b"no record")
    stream = stream_of(RECORD, cut, b"noise \x1f\x8b\x08 noise", other, RECORD)
    expected = len(RECORD) + len(cut) + 15 + len(other)
    assert find_next_record(stream, after=0) == expected
    assert find_next_record(stream, after=expected) is None


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (b"", None),
        (b"\0" * 512, None),
        (RECORD[:20], "archive_truncated"),
        (RECORD[:1], "archive_truncated"),
        (b"rubbish", "archive_trailing_garbage"),
    ],
    # The record holds the time at which it was made, and every process of pytest-xdist must find the same names.
    ids=["nothing", "zeros", "half a record", "one byte", "rubbish"],
)
def test_what_lies_behind_the_last_record(rest, reason):
    unread = find_unread_end(stream_of(RECORD, RECORD, rest), last_start=len(RECORD))
    assert (unread.reason if unread else None) == reason
    assert unread is None or unread.offset == 2 * len(RECORD)


def test_uncompressed_archives_are_not_examined():
    assert find_unread_end(stream_of(b"WARC/1.0\r\n\r\n", b"rubbish"), last_start=0) is None
