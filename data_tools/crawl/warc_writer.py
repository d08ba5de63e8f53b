"""Write the pages of a crawl into a WARC file (ISO 28500), which gets its final name only when complete."""

import io
import os
from pathlib import Path
from types import TracebackType

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from data_tools.crawl.fetch import USER_AGENT, Page


class WarcFile:
    """A gzipped WARC: warcinfo, then a request and a response record for each page, with digests."""

    def __init__(self, path: Path, *, description: str) -> None:
        """Open `<path>.partial` and write the warcinfo record."""
        self._path = path
        self._temporary = path.with_name(path.name + ".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self._temporary.open("wb")
        self._writer = WARCWriter(self._stream, gzip=True, warc_version="1.1")
        self._is_committed = False
        info = {"software": USER_AGENT, "format": "WARC File Format 1.1", "robots": "obey", "description": description}
        self._writer.write_record(self._writer.create_warcinfo_record(path.name, info))

    def __enter__(self) -> "WarcFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; without a commit, remove it."""
        self._stream.close()
        if not self._is_committed:
            self._temporary.unlink(missing_ok=True)

    def add(self, page: Page) -> None:
        """Append a page as a response record and the request that it answers."""
        extra = {"WARC-Truncated": "length"} if page.is_truncated else {}
        response = self._writer.create_warc_record(
            page.url,
            "response",
            payload=io.BytesIO(page.body),
            http_headers=StatusAndHeaders(
                f"{page.status} {page.reason}".strip(), _stored_headers(page), protocol="HTTP/1.1"
            ),
            warc_headers_dict=extra,
        )
        request = self._writer.create_warc_record(
            page.url,
            "request",
            http_headers=StatusAndHeaders(page.request_line, list(page.request_headers), is_http_request=True),
        )
        self._writer.write_request_response_pair(request, response)

    @property
    def num_bytes(self) -> int:
        """Return the compressed size so far."""
        return self._stream.tell()

    def commit(self) -> None:
        """Give the file its final name."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        os.replace(self._temporary, self._path)
        self._is_committed = True


def _stored_headers(page: Page) -> list[tuple[str, str]]:
    """Return the response's headers, true for the stored body: without transfer coding, as Common Crawl keeps them."""
    headers = [
        (f"X-Crawl-{key}" if key.lower() in ("transfer-encoding", "content-length") else key, value)
        for key, value in page.headers
    ]
    return [*headers, ("Content-Length", str(len(page.body)))]
