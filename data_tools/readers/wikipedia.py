"""Read the pages of a MediaWiki XML dump one by one, in constant memory, continuing after damaged pages.

expat instead of lxml: it passes on a page's text piece by piece, so that no page can fill the memory, reports the
offset of each page, and can reject the document types that entity bombs need. The elements read here are those of
schema 0.10 and 0.11: https://www.mediawiki.org/xml/export-0.11.xsd
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote
from xml.parsers.expat import ErrorString, ExpatError, ParserCreate

from data_tools.document import Document
from data_tools.errors import READ_ERRORS, explain_read_error
from data_tools.inputs.files import InputFile
from data_tools.inputs.streams import CountedStream, DamagedStreamError, decompress
from data_tools.ledger import Ledger

CHUNK_BYTES = 256 << 10
PAGE_START = b"<page>"
"""Cannot occur in a page's text, where < is written &lt;."""
ROOT_START = b"<mediawiki>"
MAX_NAME_CHARACTERS = 4096
"""Longer titles, names and numbers are cut; MediaWiki's own limit for a title is 255 bytes."""

_LANGUAGE_HOST = re.compile(r"https?://([a-z][a-z-]{1,15})\.wiki")

FILE_NAMESPACES = ("-2", "6", "14")
"""Media, File and Category: links to their pages show no text."""


class DoctypeError(Exception):
    """The XML declares a document type."""


@dataclass(slots=True)
class _Revision:
    """One version of a page."""

    timestamp: str = ""
    model: str = ""
    text: list[str] = field(default_factory=list)
    size: int = 0
    is_deleted: bool = False
    is_too_large: bool = False
    is_outdated: bool = False
    """Another one of the page is later."""


@dataclass(slots=True)
class _Page:
    """A page as far as it was read; of its revisions, the latest."""

    offset: int
    title: str = ""
    namespace: str = "0"
    id: str = ""
    is_redirect: bool = False
    num_revisions: int = 0
    revision: _Revision = field(default_factory=_Revision)


def read_wikipedia(
    file: InputFile, *, stream: CountedStream, ledger: Ledger, max_record_bytes: int, namespaces: list[int]
) -> Iterator[Document]:
    """Yield the pages of a dump that may hold text; every other page is counted with its reason.

    Of a page with several revisions the latest counts. A page that is no well-formed XML costs that page alone.
    """
    site = _Site()
    kept_namespaces = {str(namespace) for namespace in namespaces}
    for number, found in enumerate(_read_pages(stream, site, max_record_bytes)):
        ledger.read += 1
        if isinstance(found, _Damage):
            ledger.fail(found.reason, record=number, name=found.name, title=found.name, detail=found.detail)
            continue
        if found.num_revisions > 1:
            ledger.note("page_with_history")
        reason = _find_reason_to_drop(found, kept_namespaces)
        if reason:
            url = site.address_of(found.title)
            ledger.drop(reason, record=number, name=found.title, id=found.id, url=url, title=found.title)
            continue
        yield Document(
            record=number,
            media_type="wikitext",
            content="".join(found.revision.text).encode("utf-8", "replace"),
            offset=found.offset,
            id=found.id,
            url=site.address_of(found.title),
            title=found.title,
            link_prefixes=site.link_prefixes,
            wiki_language=site.find_language(),
        )


def _find_reason_to_drop(page: _Page, namespaces: set[str]) -> str | None:
    revision = page.revision
    if page.namespace not in namespaces:
        return f"namespace_{page.namespace}"
    if page.is_redirect:
        return "redirect"
    if revision.model not in ("", "wikitext"):
        return f"content_model_{revision.model}"
    if revision.is_deleted:
        return "text_deleted"
    if revision.is_too_large:
        return "record_too_large"
    if not any(piece.strip() for piece in revision.text):
        return "page_empty"
    return None


@dataclass(frozen=True, kw_only=True)
class _Damage:
    """A place that could not be read."""

    reason: str
    name: str
    detail: str


@dataclass
class _Site:
    """What the head of a dump tells about its wiki."""

    base: str = ""
    """Address of the main page."""
    link_prefixes: tuple[str, ...] = ()
    language: str = ""

    def find_language(self) -> str:
        """Return its language by MediaWiki's code: the one that the dump declares, else that of its URL."""
        host = _LANGUAGE_HOST.match(self.base)
        return self.language or (host[1] if host else "")

    def address_of(self, title: str) -> str:
        """Return a page's address; empty if the dump does not name its wiki."""
        if "/" not in self.base:
            return ""
        return f"{self.base.rpartition('/')[0]}/{quote(title.replace(' ', '_'), safe='/:(),;@!$*~')}"


class _Parser:
    """Collects the pages of one well-formed stretch of a dump."""

    def __init__(self, site: _Site, *, start: int, max_record_bytes: int) -> None:
        self.pages: list[_Page] = []
        """Whole pages that nobody took yet."""
        self.page: _Page | None = None
        """The page that is being read."""
        self._site, self._start, self._max_record_bytes = site, start, max_record_bytes
        self._path: list[str] = []
        self._namespace_key = ""
        self._collected: list[str] | None = None
        self._revision = _Revision()
        self._expat = ParserCreate()
        self._expat.buffer_text = True
        self._expat.buffer_size = 1 << 16
        self._expat.StartElementHandler = self._start_element
        self._expat.EndElementHandler = self._end_element
        self._expat.CharacterDataHandler = self._characters
        self._expat.StartDoctypeDeclHandler = self._refuse_doctype

    def parse(self, data: bytes, *, is_end: bool = False) -> None:
        """Read on."""
        self._expat.Parse(data, is_end)

    @property
    def error_offset(self) -> int:
        """Return the byte of the file at which the XML is not well-formed."""
        return self._start + self._expat.ErrorByteIndex

    def take_pages(self) -> list[_Page]:
        """Hand over the pages read so far."""
        pages, self.pages = self.pages, []
        return pages

    def _refuse_doctype(self, *_: Any) -> None:
        raise DoctypeError

    def _start_element(self, name: str, attributes: dict[str, str]) -> None:
        parent = self._path[-1] if self._path else ""
        self._path.append(name)
        if name == "mediawiki":
            self._site.language = attributes.get("xml:lang", self._site.language)
        elif name == "page":
            self.page = _Page(offset=self._start + self._expat.CurrentByteIndex)
        elif name == "revision":
            self._revision = _Revision()
        elif name == "redirect" and parent == "page" and self.page is not None:
            self.page.is_redirect = True
        elif name == "text" and parent == "revision":
            self._revision.is_deleted = "deleted" in attributes
            self._keep_one_text()
        elif name == "namespace":
            self._namespace_key = attributes.get("key", "")
            self._collected = []
        elif parent in ("page", "revision", "siteinfo"):
            self._collected = []

    def _keep_one_text(self) -> None:
        """Of a page's revision so far and the one that is being read, hold the text of the later only; the schema puts
        a revision's time before its text."""
        if self.page is not None and self.page.num_revisions:
            self._revision.is_outdated = self._revision.timestamp < self.page.revision.timestamp
            if not self._revision.is_outdated:
                self.page.revision.text.clear()

    def _characters(self, data: str) -> None:
        # Revisions hold no other element of that name; slots of later schemas have their own parent.
        if self._path[-1] == "text" and self._path[-2:-1] == ["revision"]:
            revision = self._revision
            revision.size += len(data) if data.isascii() else len(data.encode("utf-8", "replace"))
            if revision.is_outdated or revision.size > self._max_record_bytes:
                revision.is_too_large = revision.size > self._max_record_bytes
                revision.text.clear()
            else:
                revision.text.append(data)
        elif self._collected is not None and len(self._collected) < MAX_NAME_CHARACTERS:
            self._collected.append(data[:MAX_NAME_CHARACTERS])

    def _end_element(self, name: str) -> None:
        self._path.pop()
        parent = self._path[-1] if self._path else ""
        value = "".join(self._collected).strip() if self._collected is not None else ""
        self._collected = None
        if parent == "siteinfo" and name == "base":
            self._site.base = value
        elif name == "namespace" and self._namespace_key in FILE_NAMESPACES and value:
            self._site.link_prefixes += (value,)
        elif parent == "revision" and name == "timestamp":
            self._revision.timestamp = value
        elif parent == "revision" and name == "model":
            self._revision.model = value
        elif self.page is None:
            return
        elif parent == "page" and name == "title":
            self.page.title = value
        elif parent == "page" and name == "ns":
            self.page.namespace = value
        elif parent == "page" and name == "id":
            self.page.id = value
        elif parent == "page" and name == "revision":
            self.page.num_revisions += 1
            is_later = not self._revision.is_outdated and self._revision.timestamp >= self.page.revision.timestamp
            if self.page.num_revisions == 1 or is_later:
                self.page.revision = self._revision
        elif name == "page":
            self.pages.append(self.page)
            self.page = None


def _read_pages(stream: CountedStream, site: _Site, max_record_bytes: int) -> Iterator[_Page | _Damage]:
    reading = _Reading(site, max_record_bytes)
    try:
        data_stream = decompress(stream)
        is_end = False
        while not is_end:
            try:
                # One step of the decompression at a time, or the pages before a damaged place would be lost with it.
                chunk = data_stream.read1(CHUNK_BYTES)
            except DamagedStreamError as error:
                yield _Damage(reason="compressed_data_corrupt", name=reading.page_title, detail=str(error))
                reading.begin_anew()
                continue
            is_end = not chunk
            yield from reading.end() if is_end else reading.read_on(chunk)
    except READ_ERRORS as error:
        reason, detail = explain_read_error(error)
        yield _Damage(reason=reason, name=reading.page_title, detail=detail)
    except DoctypeError:
        detail = "dumps declare no document type; what follows in the file is lost"
        yield _Damage(reason="xml_doctype_refused", name="", detail=detail)


class _Reading:
    """Parses a dump, beginning anew at the next page where it is not well-formed."""

    def __init__(self, site: _Site, max_record_bytes: int) -> None:
        self._site, self._max_record_bytes = site, max_record_bytes
        self._position = 0
        """Byte of the file at which the next chunk begins."""
        self._parser: _Parser | None = _Parser(site, start=0, max_record_bytes=max_record_bytes)
        """None while the next page is being looked for."""
        self._kept = b""
        """End of the last chunk, in which the next page may begin."""

    @property
    def page_title(self) -> str:
        """Return the title of the page that is being read."""
        return self._parser.page.title if self._parser is not None and self._parser.page is not None else ""

    def read_on(self, chunk: bytes) -> Iterator[_Page | _Damage]:
        """Yield the pages that end in a chunk."""
        data, self._kept = self._kept + chunk, b""
        start = self._position - (len(data) - len(chunk))
        self._position += len(chunk)
        while data:
            if self._parser is None:
                at = data.find(PAGE_START)
                if at < 0:
                    self._kept = data[-len(PAGE_START) + 1 :]
                    return
                data, start = data[at:], start + at
                self._parser = _Parser(
                    self._site, start=start - len(ROOT_START), max_record_bytes=self._max_record_bytes
                )
                self._parser.parse(ROOT_START)
            try:
                self._parser.parse(data)
            except ExpatError as error:
                yield from self._parser.take_pages()
                yield self._describe(error, "xml_invalid")
                skipped = max(1, self._parser.error_offset - start)
                data, start = data[skipped:], start + skipped
                self._parser = None
            else:
                yield from self._parser.take_pages()
                return

    def begin_anew(self) -> None:
        """Look for the next page; what comes now does not continue what was read."""
        self._parser, self._kept = None, b""

    def end(self) -> Iterator[_Page | _Damage]:
        """Tell whether the dump is whole."""
        if self._parser is not None:
            try:
                self._parser.parse(b"", is_end=True)
            except ExpatError as error:
                yield self._describe(error, "xml_truncated")

    def _describe(self, error: ExpatError, reason: str) -> _Damage:
        assert self._parser is not None
        detail = f"{ErrorString(error.code)} at byte {self._parser.error_offset}"
        return _Damage(reason=reason, name=self.page_title, detail=detail)
