"""Web archives for tests: the same pages as ARC of both versions and as WARC."""

import gzip
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

FIELDS = {
    1: "URL IP-address Archive-date Content-type Archive-length",
    2: "URL IP-address Archive-date Content-type Result-code Checksum Location Offset Filename Archive-length",
}


@dataclass(frozen=True, kw_only=True)
class Page:
    url: str
    body: bytes
    status: str = "200 OK"
    content_type: str = "text/html"


def arc_record(page: Page, *, version: int = 1, length: int | None = None) -> bytes:
    """One URL record; its length is what the header says, right or wrong."""
    head = f"HTTP/1.1 {page.status}\r\nContent-Type: {page.content_type}\r\n\r\n"
    block = head.encode() + page.body if page.status else page.body
    size = len(block) if length is None else length
    kind = page.content_type.partition(";")[0]
    more = " 200 fac069150613fe55599cc7fa88aa089d - 0 test.arc" if version == 2 else ""
    return f"{page.url} 192.0.2.1 20010203040506 {kind}{more} {size}\n".encode() + block + b"\n"


def arc_head(*, version: int = 1) -> bytes:
    """The version block, with which every file begins."""
    block = f"{version} 0 Trireme\n{FIELDS[version]}\n"
    line = "filedesc://test.arc 0.0.0.0 20010203040506 text/plain"
    if version == 2:
        line = "filedesc://test.arc 0 20010203040506 text/plain 200 - - 0 test.arc"
    return f"{line} {len(block)}\n{block}\n".encode()


def write_arc(path: Path, pages: Iterable[Page], *, version: int = 1, is_gzip: bool = True) -> list[int]:
    """Write pages; returns where each record begins in the file."""
    starts, data = [], b""
    for record in (arc_head(version=version), *(arc_record(page, version=version) for page in pages)):
        starts.append(len(data))
        data += gzip.compress(record) if is_gzip else record
    path.write_bytes(data)
    return starts


def write_warc(path: Path, pages: Iterable[Page], *, is_gzip: bool = True) -> list[int]:
    """The same as WARC, with a warcinfo record in place of the version block."""
    starts = [0]
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=is_gzip)
        writer.write_record(writer.create_warcinfo_record(path.name, {"software": "test"}))
        for page in pages:
            starts.append(file.tell())
            headers = StatusAndHeaders(page.status, [("Content-Type", page.content_type)], protocol="HTTP/1.1")
            payload = io.BytesIO(page.body)
            writer.write_record(writer.create_warc_record(page.url, "response", payload=payload, http_headers=headers))
    return starts
