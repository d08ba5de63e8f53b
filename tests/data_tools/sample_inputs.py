"""Small inputs in the real formats, and the command that prepares them."""

import bz2
import io
import json
import random
import subprocess
from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from tests.data_tools.commands import REPOSITORY as REPOSITORY
from tests.data_tools.commands import command_line, run_command
from trireme.shards.manifest import hash_file

OF_THE_RUN = ("report.html", "timings.json")
"""They tell how long it took; no run gives the same again."""

_SYLLABLES = ["".join(pair) for pair in zip("bcdfghklmnprstvwz" * 5, sorted("aeiou" * 17), strict=True)]
_WORDS = [first + second for first in _SYLLABLES[::3] for second in _SYLLABLES[::5]] + ["the", "of", "is", "in"] * 20


def make_text(seed: int, *, num_sentences: int = 8) -> str:
    """Sentences in paragraphs; another text for each seed."""
    source = random.Random(seed)
    sentences = []
    for number in range(num_sentences):
        words = [source.choice(_WORDS) for _ in range(source.randint(6, 14))]
        sentences.append(" ".join(words).capitalize() + (".\n\n" if number % 4 == 3 else ". "))
    return "".join(sentences).strip() + f" Item {seed} ends here."


def write_jsonl(path: Path, records: Iterable[dict[str, object] | str]) -> Path:
    """Mappings are written as JSON, text as it is."""
    lines = (record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_warc(path: Path, texts: Iterable[str]) -> Path:
    """One HTML page per text."""
    with open(path, "wb") as stream:
        writer = WARCWriter(stream, gzip=True)
        for number, text in enumerate(texts):
            paragraphs = "".join(f"<p>{part}</p>" for part in text.split("\n\n"))
            html = f"<html><head><title>Page {number}</title></head><body><article>{paragraphs}</article></body></html>"
            headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
            url = f"https://example.org/{path.stem}/{number}"
            payload = io.BytesIO(html.encode())
            writer.write_record(writer.create_warc_record(url, "response", payload=payload, http_headers=headers))
    return path


def write_dump(path: Path, texts: Iterable[str]) -> Path:
    """A pages-articles dump with one article per text."""
    pages = "".join(
        f"<page><title>Article {number}</title><ns>0</ns><id>{number + 10}</id><revision><id>{number}</id>"
        "<model>wikitext</model><format>text/x-wiki</format>"
        f'<text bytes="{len(text)}" xml:space="preserve">{escape(text)}</text></revision></page>\n'
        for number, text in enumerate(texts)
    )
    info = (
        "<siteinfo><sitename>Wikipedia</sitename><dbname>enwiki</dbname><base>https://en.wikipedia.org/wiki/Main_Page"
        '</base><namespaces><namespace key="0" case="first-letter" /><namespace key="6" case="first-letter">File'
        '</namespace><namespace key="14" case="first-letter">Category</namespace></namespaces></siteinfo>'
    )
    head = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">'
    path.write_bytes(bz2.compress(f"{head}{info}\n{pages}</mediawiki>\n".encode()))
    return path


def sources_override(*sources: tuple[str, list[Path]]) -> str:
    """Sources in the notation of overrides: their kinds, and their files; each is named after its kind."""
    items = []
    for kind, paths in sources:
        quoted = ",".join(f'"{path}"' for path in paths)
        items.append(f"{{name:my-{kind},kind:{kind},paths:[{quoted}]}}")
    return f"data_prep.sources=[{','.join(items)}]"


def prepare_command(*overrides: str) -> list[str]:
    """The command line."""
    return command_line("data_tools.prepare", *overrides)


def run_prepare(*overrides: str) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end, in this process."""
    return run_command("data_tools.prepare", *overrides)


def hash_files(directory: Path) -> dict[str, str]:
    """Name and hash of every file that the command has left, but of those that no run gives again."""
    return {path.name: hash_file(path) for path in sorted(directory.iterdir()) if path.name not in OF_THE_RUN}


def run_inspect(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run data_tools.inspect in this process."""
    return run_command("data_tools.inspect", *arguments)
