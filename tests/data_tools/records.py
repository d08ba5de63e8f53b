"""Put bytes into input files and take documents out of them, with the ledger balanced each time."""

import io
from pathlib import Path
from typing import Any

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from data_tools.config.filtering import CleaningConfig
from data_tools.config.schema import DataPrepConfig, SourceConfig
from data_tools.document import Document
from data_tools.inputs.files import open_input, resolve_inputs
from data_tools.ledger import Ledger
from data_tools.readers.open import read_documents
from data_tools.stages.steps import FilterChain

LONG = "The quick brown fox jumps over the lazy dog, and the dog sleeps on in the warm sun of a long summer afternoon. "


def read_raw(path: Path, kind: Any, *, source: dict[str, Any] | None = None, **config: Any):
    """Documents as the reader hands them over, and its ledger."""
    settings = SourceConfig(name="test", kind=kind, paths=[str(path)], **(source or {}))
    preparation = DataPrepConfig(output_dir="unused", sources=[settings], **config)
    files, violations = resolve_inputs([settings])
    assert not violations
    ledger = Ledger()
    with open_input(files[0]) as stream:
        documents = list(read_documents(files[0], stream=stream, ledger=ledger, config=preparation))
    assert ledger.read == len(documents) + ledger.dropped.total() + ledger.failed.total()
    return documents, ledger, preparation


def read_clean(path: Path, kind: Any, *, min_characters: int = 1, **options: Any) -> tuple[list[Document], Ledger]:
    """Documents with their cleaned text, and the ledger of reader and filters together."""
    cleaning = options.pop("cleaning", None) or CleaningConfig(min_characters=min_characters)
    documents, ledger, config = read_raw(path, kind, cleaning=cleaning, **options)
    kept = list(FilterChain(config).apply(documents, ledger))
    ledger.kept = len(kept)
    assert ledger.read == ledger.accounted
    return kept, ledger


def http_record(
    writer: WARCWriter, body: bytes, *, url: str = "http://example.com/", status: str = "200 OK", **headers: str
) -> None:
    """Append a response; header names are written with _ for -."""
    names = [(name.replace("_", "-"), value) for name, value in ({"Content_Type": "text/html"} | headers).items()]
    http = StatusAndHeaders(status, names, protocol="HTTP/1.1")
    writer.write_record(writer.create_warc_record(url, "response", payload=io.BytesIO(body), http_headers=http))


def page(text: str, *, head: str = "") -> str:
    """A small web page with main content."""
    return f"<html><head>{head}<title>Title</title></head><body><main><p>{text}</p></main></body></html>"
