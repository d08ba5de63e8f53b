"""Clean prose to try the rules of quality on: out of sample files, or a few short texts of our own.

A page also has headings, lists, code, menus and paragraphs that nobody translated. Its prose is taken to be its long
lines in the page's language that begin with a letter or a quotation mark, have a full stop somewhere, and none of the
signs of code.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from data_tools.config.filtering import LanguageConfig
from data_tools.config.schema import DataPrepConfig, SourceConfig
from data_tools.document import Document
from data_tools.filters.language import LanguageIdentifier
from data_tools.inputs.files import open_input, resolve_inputs
from data_tools.ledger import Ledger
from data_tools.readers.open import read_documents
from data_tools.stages.steps import FilterChain

KINDS = {".warc.gz": "warc", ".wet.gz": "warc", ".xml.bz2": "wikipedia", ".jsonl.gz": "jsonl"}
"""Ending of a sample file -> kind of source."""
MIN_LINES = 5
MIN_LINE_CHARACTERS = 60
MIN_LINE_CHARACTERS_DENSE = 25
"""The same for Chinese, Japanese and Korean, which say as much with fewer signs."""
QUOTES = "\"'“‘«「『《（("
CODE_SIGNS = frozenset("{}<>\\|=$#_@~^`")
_FULL_STOP = re.compile(r"[.!?؟](?:\s|$)|[。！？]")
DENSE = ("zh", "ja", "ko")


def read_prose(samples: Path, *, languages: tuple[str, ...], max_documents: int) -> dict[str, list[str]]:
    """Take prose out of all sample files of a directory.

    Returns:
        Language -> different documents, at most so many of each.
    """
    identifier = LanguageIdentifier(LanguageConfig(identify=True))
    prose: dict[str, dict[str, None]] = defaultdict(dict)
    for path in sorted(samples.iterdir()):
        kind = find_kind(path)
        for document in _read_texts(path, kind) if kind else ():
            language, _ = identifier.identify(document.text)
            if language not in languages or len(prose[language]) >= max_documents:
                continue
            minimum = MIN_LINE_CHARACTERS_DENSE if language in DENSE else MIN_LINE_CHARACTERS
            lines = [line.strip() for line in document.text.split("\n") if len(line) >= minimum]
            # Each once: what a page says again is its frame.
            lines = list(dict.fromkeys(lines))
            lines = [line for line in lines if _is_prose(line) and identifier.identify(line)[0] == language]
            text = "\n\n".join(lines)
            if len(lines) >= MIN_LINES and len(text) >= MIN_LINES * 2 * minimum:
                prose[language][text] = None
    return {language: list(texts) for language, texts in prose.items()}


def read_texts(directory: Path, *, max_documents: int) -> dict[str, list[str]]:
    """Read text files that lie in a directory for each language.

    Returns:
        Name of the directory -> its texts, at most so many, from all parts of the list of its files.
    """
    found = {}
    for place in sorted(path for path in directory.iterdir() if path.is_dir()):
        files = sorted(path for path in place.rglob("*") if path.is_file())
        step = max(1.0, len(files) / max_documents)
        chosen = [files[int(number * step)] for number in range(min(len(files), max_documents))]
        found[place.name] = [path.read_text(encoding="utf-8") for path in chosen]
    return found


def read_pages(samples: Path, *, language: str, max_documents: int) -> list[str]:
    """Whole texts of one language out of all sample files of a directory, from each file in turn."""
    identifier = LanguageIdentifier(LanguageConfig(identify=True))
    files = [(path, kind) for path in sorted(samples.iterdir()) if (kind := find_kind(path))]
    found: list[list[str]] = []
    for path, kind in files:
        texts = (document.text for document in _read_texts(path, kind))
        wanted = (text for text in texts if identifier.identify(text)[0] == language)
        found.append(list(itertools.islice(wanted, max_documents)))
    turns = itertools.zip_longest(*found)
    return [text for turn in turns for text in turn if text is not None][:max_documents]


def find_kind(path: Path) -> str | None:
    """Return the kind of source that a sample file is; None for other files."""
    return next((kind for ending, kind in KINDS.items() if path.name.endswith(ending)), None)


def _is_prose(line: str) -> bool:
    begins_well = line[0].isalpha() or line[0] in QUOTES
    return begins_well and bool(_FULL_STOP.search(line)) and not CODE_SIGNS.intersection(line)


def _read_texts(path: Path, kind: str) -> Iterator[Document]:
    source = SourceConfig(name="samples", kind=kind, paths=[str(path)])  # type: ignore[arg-type]
    config = DataPrepConfig(output_dir="", sources=[source])
    files, _ = resolve_inputs([source])
    ledger = Ledger()
    for file in files:
        with open_input(file) as stream:
            documents = read_documents(file, stream=stream, ledger=ledger, config=config)
            yield from FilterChain(config).apply(documents, ledger)
