"""Choose the reader for an input file."""

from collections.abc import Iterator

from data_tools.config.schema import DataPrepConfig
from data_tools.document import Document
from data_tools.inputs.files import InputFile
from data_tools.inputs.streams import CountedStream
from data_tools.ledger import Ledger
from data_tools.readers.parquet import read_parquet
from data_tools.readers.text import read_jsonl, read_text
from data_tools.readers.warc import read_archive
from data_tools.readers.wikipedia import read_wikipedia


def read_documents(
    file: InputFile, *, stream: CountedStream, ledger: Ledger, config: DataPrepConfig
) -> Iterator[Document]:
    """Yield the raw documents of an input file, counting in the ledger what was read and what is none."""
    limit = config.cleaning.max_record_bytes
    match file.source.kind:
        case "warc":
            return read_archive(file, stream=stream, ledger=ledger, max_record_bytes=limit)
        case "wikipedia":
            namespaces = config.wikipedia.namespaces
            return read_wikipedia(file, stream=stream, ledger=ledger, max_record_bytes=limit, namespaces=namespaces)
        case "jsonl":
            return read_jsonl(file, stream=stream, ledger=ledger, max_record_bytes=limit)
        case "parquet":
            return read_parquet(file, stream=stream, ledger=ledger, max_record_bytes=limit)
        case "text":
            return read_text(file, stream=stream, ledger=ledger, max_record_bytes=limit)
