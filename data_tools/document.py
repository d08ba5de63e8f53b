"""What flows through a preparation, and how a step treats one document at a time."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
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
    """A raw record with its origin; the steps turn `content` into `text`."""

    record: int
    """Number of the record in its file, from 0."""
    media_type: MediaType
    """How to read content."""
    content: bytes
    """The record as it was stored; emptied once text is taken out of it."""
    text: str = ""
    offset: int | None = None
    """First byte of the record in its file, where the format tells."""
    id: str = ""
    url: str = ""
    title: str = ""
    language: str = ""
    """fastText's code, such as en or zh; empty when nothing identified it."""
    language_score: float = 0.0
    """How sure the language is, from 0 to 1."""
    is_from_web: bool = False
    """Whether a server declared media_type and charset, which may be wrong."""
    charset: str | None = None
    """Encoding that the record declares."""
    codings: tuple[str, ...] = ()
    """Encodings of the payload as a whole, outermost first: chunked, gzip, ..."""
    link_prefixes: tuple[str, ...] = ()
    """wikitext: the wiki's own names of its file and category namespaces."""
    wiki_language: str = ""
    """wikitext: the wiki's language by MediaWiki's code; empty where the dump does not tell."""
    keep_whitespace: bool = False
    """Whether spaces, line ends and composed characters stay as they are."""
    json_keys: JsonKeys | None = None
    """json: where its parts stand."""

    @property
    def name(self) -> str:
        """What a person would look it up by."""
        return self.url or self.title or self.id

    @property
    def origin(self) -> dict[str, Any]:
        """What the ledger records of it."""
        return {
            "record": self.record,
            "name": self.name,
            "id": self.id,
            "url": self.url,
            "title": self.title,
            "language": self.language,
        }


Step = Callable[[Iterable[Document]], Iterator[Document]]


class DroppedError(Exception):
    """Raised by a step to leave a document out, with a reason that the ledger counts."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class FailedError(Exception):
    """Raised by a step for a document that cannot be read, with a reason that the ledger counts."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def build_step(change: Callable[[Document, Ledger], None], *, name: str, ledger: Ledger) -> Step:
    """Make a step of a function that changes one document in place.

    A document for which it raises is left out and counted: as dropped for `DroppedError`, as failed for `FailedError`
    and for anything else, since one bad record never ends a run.
    """
    return partial(_change_each, change=change, name=name, ledger=ledger)


def _change_each(
    documents: Iterable[Document], *, change: Callable[[Document, Ledger], None], name: str, ledger: Ledger
) -> Iterator[Document]:
    for document in documents:
        try:
            change(document, ledger)
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
