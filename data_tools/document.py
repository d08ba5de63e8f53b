"""The document that flows through a preparation, and how a filter is applied to one document at a time."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from data_tools.ledger import Ledger

MediaType = Literal["html", "plain", "wikitext", "json", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonKeys:
    """Keys under which a JSON object holds the parts of a document."""

    text: str
    id: str
    url: str
    title: str


@dataclass(slots=True, kw_only=True)
class Document:
    """A raw record with its origin; extraction and filters turn `content` into `text`."""

    record: int
    """Number of the record in its file, from 0."""
    media_type: MediaType
    """How to parse content."""
    content: bytes
    """The record as stored; emptied once its text has been extracted."""
    text: str = ""
    offset: int | None = None
    """First byte of the record in its file, where the format reports it."""
    id: str = ""
    url: str = ""
    title: str = ""
    language: str = ""
    """fastText's code, such as en or zh; empty when the language was not identified."""
    language_score: float = 0.0
    """Confidence in the language, from 0 to 1."""
    is_from_web: bool = False
    """Whether a server declared media_type and charset, which may be wrong."""
    charset: str | None = None
    """Encoding that the record declares."""
    codings: tuple[str, ...] = ()
    """Encodings of the payload as a whole, outermost first: chunked, gzip, ..."""
    link_prefixes: tuple[str, ...] = ()
    """wikitext: the wiki's own names of its file and category namespaces."""
    wiki_language: str = ""
    """wikitext: the wiki's language by MediaWiki's code; empty where the dump does not declare one."""
    keep_whitespace: bool = False
    """Whether spaces, line ends and composed characters are preserved."""
    json_keys: JsonKeys | None = None
    """json: the keys of its parts."""

    @property
    def name(self) -> str:
        """Return the best name for messages: URL, title or identifier."""
        return self.url or self.title or self.id

    @property
    def origin(self) -> dict[str, Any]:
        """Return what the ledger records of the document."""
        return {
            "record": self.record,
            "name": self.name,
            "id": self.id,
            "url": self.url,
            "title": self.title,
            "language": self.language,
        }


Filter = Callable[[Document, Ledger], None]
"""Changes one document in place, or raises `DroppedError` or `FailedError` to exclude it."""


class DroppedError(Exception):
    """Raised by a filter to drop a document, with the reason that the ledger counts."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class FailedError(Exception):
    """Raised by a filter for a document that cannot be parsed, with the reason that the ledger counts."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def apply_filter(apply: Filter, documents: Iterable[Document], *, name: str, ledger: Ledger) -> Iterator[Document]:
    """Yield the documents that a filter keeps, and count the others in the ledger.

    A document counts as dropped for `DroppedError`, and as failed for `FailedError` and for any other exception: one
    bad record never ends a run.

    Args:
        name: of the filter; an unexpected exception counts under `NAME_error`.
    """
    for document in documents:
        try:
            apply(document, ledger)
        except DroppedError as error:
            ledger.drop(error.reason, detail=error.detail, **document.origin)
        except FailedError as error:
            ledger.fail(error.reason, detail=error.detail, **document.origin)
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # a panic inside a Rust extension derives from BaseException only
            detail = f"{type(error).__name__}: {error}"
            ledger.fail(f"{name}_error", detail=detail, **document.origin)
        else:
            yield document
