"""Fetch one page: rate-limited, with time limits, retries and a size limit; the whole response is kept."""

import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests
import urllib3
from lxml import etree, html
from requests.utils import requote_uri

USER_AGENT = "Trireme-crawl/0.1"
RETRIED_STATUSES = frozenset({429, 502, 503, 504})
_CHUNK_BYTES = 1 << 16
_LONGEST_RETRY_AFTER_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class FetchSettings:
    """Limits of one request."""

    timeout_seconds: float = 20.0
    """Longest silence of the server; a whole page may take four times as long."""
    num_retries: int = 2
    retry_wait_seconds: float = 1.0
    """Before the first retry; doubled for each further one."""
    max_page_bytes: int = 10_000_000
    """Longer pages are truncated, and marked as truncated."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A response as received, whatever its status."""

    url: str
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    """Transfer coding removed, content coding kept."""
    request_line: str
    request_headers: tuple[tuple[str, str], ...]
    is_truncated: bool

    def header(self, name: str) -> str:
        """Return the first header of this name, or an empty string."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    @property
    def is_html(self) -> bool:
        """Return whether the server calls it HTML."""
        return "html" in self.header("content-type").lower()


class FetchError(Exception):
    """No response; the message is the reason in few words, to be counted."""


class Pace:
    """Spaces request starts over all threads."""

    def __init__(self, delay_seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.delay_seconds = delay_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._next = clock()

    def wait(self) -> None:
        """Return when the next request may start."""
        with self._lock:
            start = max(self._next, self._clock())
            self._next = start + self.delay_seconds
        time.sleep(max(0.0, start - self._clock()))


class Fetcher:
    """Requests pages, from any number of threads."""

    def __init__(self, settings: FetchSettings, *, pace: Pace, is_loopback: bool = False) -> None:
        self._settings, self._pace, self._is_loopback = settings, pace, is_loopback
        self._local = threading.local()

    def get(self, url: str) -> Page:
        """Fetch one page; redirects are not followed.

        Raises:
            FetchError: no response after all tries.
        """
        for attempt in range(self._settings.num_retries + 1):
            is_last = attempt == self._settings.num_retries
            self._pace.wait()
            try:
                page = self._try(url)
            except (requests.Timeout, urllib3.exceptions.TimeoutError):
                error = FetchError("timeout")
            except (requests.ConnectionError, urllib3.exceptions.ProtocolError):
                error = FetchError("connection failed")
            except (requests.RequestException, urllib3.exceptions.HTTPError) as cause:
                raise FetchError(f"bad request or response ({type(cause).__name__})") from cause
            else:
                if page.status not in RETRIED_STATUSES or is_last:
                    return page
                time.sleep(self._retry_wait(attempt, page.header("retry-after")))
                continue
            if is_last:
                raise error
            time.sleep(self._retry_wait(attempt, ""))
        raise AssertionError("unreachable")

    def _try(self, url: str) -> Page:
        deadline = time.monotonic() + 4 * self._settings.timeout_seconds
        response = self._session().get(url, stream=True, allow_redirects=False, timeout=self._settings.timeout_seconds)
        with response:
            body, is_truncated = bytearray(), False
            while chunk := response.raw.read(_CHUNK_BYTES, decode_content=False):
                body += chunk
                if len(body) > self._settings.max_page_bytes:
                    del body[self._settings.max_page_bytes :]
                    is_truncated = True
                    break
                if time.monotonic() > deadline:
                    raise requests.Timeout("page took too long")
            request = response.request
            host = ("Host", urlsplit(request.url or url).netloc)
            return Page(
                url=request.url or url,
                status=response.status_code,
                reason=response.reason or "",
                headers=tuple((str(key), str(value)) for key, value in response.raw.headers.iteritems()),
                body=bytes(body),
                request_line=f"{request.method} {request.path_url} HTTP/1.1",
                request_headers=(host, *((str(k), _text(v)) for k, v in request.headers.items())),
                is_truncated=is_truncated,
            )

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            session = requests.Session()
            session.trust_env = not self._is_loopback  # no proxy for this machine itself
            session.headers.update({"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"})
            self._local.session = session
        session = self._local.session
        assert isinstance(session, requests.Session)
        return session

    def _retry_wait(self, attempt: int, retry_after: str) -> float:
        if retry_after.isdigit():
            return min(float(retry_after), _LONGEST_RETRY_AFTER_SECONDS)
        return self._settings.retry_wait_seconds * 2**attempt


def normalize_url(url: str, *, base: str = "") -> str | None:
    """Normalize a URL: absolute, no fragment, lower-case host, no default port; None if it is not http(s)."""
    try:
        parts = urlsplit(urljoin(base, url.strip()))
        scheme, host, port = parts.scheme.lower(), (parts.hostname or "").lower(), parts.port
    except ValueError:
        return None
    if scheme not in ("http", "https") or not host:
        return None
    host = f"[{host}]" if ":" in host else host
    netloc = host if port in (None, {"http": 80, "https": 443}[scheme]) else f"{host}:{port}"
    return requote_uri(urlunsplit((scheme, netloc, parts.path or "/", parts.query, "")))


def links_of(page: Page) -> list[str]:
    """List the links of an HTML page that robots may follow, in order, as normalized URLs."""
    if not page.is_html or not page.body.strip():
        return []
    try:
        tree = html.document_fromstring(_decoded(page))
    except (etree.ParserError, ValueError):
        return []
    robots = " ".join(tree.xpath("//meta[translate(@name, 'ROBTS', 'robts')='robots']/@content")).lower()
    if "nofollow" in robots or "none" in robots.replace(",", " ").split():
        return []
    base = urljoin(page.url, next(iter(tree.xpath("//base/@href")), ""))
    found = [
        normalize_url(anchor.get("href"), base=base)
        for anchor in tree.iter("a", "area")
        if anchor.get("href") and "nofollow" not in (anchor.get("rel") or "").lower().split()
    ]
    return list(dict.fromkeys(url for url in found if url is not None))


def _decoded(page: Page) -> bytes:
    """Return the body without gzip or deflate; any other content coding gives nothing to parse."""
    coding = page.header("content-encoding").lower()
    if coding in ("", "identity"):
        return page.body
    try:
        return zlib.decompressobj(wbits=47).decompress(page.body)
    except zlib.error:
        return b""


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
