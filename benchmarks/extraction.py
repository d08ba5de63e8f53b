"""How much of a web page's text is kept, by element, and how fast: this project, trafilatura and resiliparse.

The pages are those of the archives that are named, and ones made for it (benchmarks/extraction_pages.py). Every text of
an element is cut into pieces of five words; the share of a row is that of the characters in pieces that stand in what a
program gives. Of menus the least is best; what the page has elsewhere too is not counted. All programs get the bytes of
a page, in turns of one run; their time is that of the thread. Prints one JSON line:

    {"num_pages": ..., "megabytes": ..., "real": {ROW: {PROGRAM: share, "characters": ...}}, "made": {...},
     "standing": {"real": {ROW: "ahead" | "equal at the best value" | "equal" | "behind"}, "made": {...}},
     "seconds": {PROGRAM: ...}, "times_as_fast": {"trafilatura precision": ..., ...}}

standing: beside the better of trafilatura's modes. A row in which that one keeps everything, or no menu, cannot be won.

Needs trafilatura: pip install -e '.[trafilatura]'.

Usage: python -m benchmarks.extraction [ARCHIVE...] [--rounds N]
"""

import argparse
import importlib
import json
import re
import time
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable

from fastwarc import ArchiveIterator, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text

from benchmarks.extraction_pages import ROWS, LabelledPage, label_page, make_pages
from data_tools.config.schema import HtmlConfig
from data_tools.extract.encoding import decode_text
from data_tools.extract.html.extractor import HtmlExtractor
from data_tools.ledger import Ledger

PIECE_WORDS = 5
MIN_PIECE = 3
"""Characters; shorter pieces are found anywhere."""
_NO_WORD = re.compile(r"\W+")


def read_pages(paths: Iterable[str]) -> list[LabelledPage]:
    """Label the pages of archives."""
    pages = []
    for path in paths:
        with open(path, "rb") as stream:
            for record in ArchiveIterator(stream, record_types=WarcRecordType.response):
                if record.http_headers.status_code == 200 and "html" in (record.http_content_type or ""):
                    content = record.reader.read()
                    pages.append(label_page(content, _decode(content)))
    return pages


def list_programs() -> dict[str, Callable[[bytes], str]]:
    """What is compared, by name; each takes a page's bytes."""
    # An optional dependency.
    trafilatura = importlib.import_module("trafilatura")
    extractor = HtmlExtractor(HtmlConfig())

    return {
        "trireme": lambda content: extractor.extract(_decode(content))[0],
        "trafilatura precision": lambda content: (
            trafilatura.extract(content, favor_precision=True, include_comments=False) or ""
        ),
        "trafilatura recall": lambda content: (
            trafilatura.extract(content, favor_recall=True, include_comments=False) or ""
        ),
        "resiliparse main content": lambda content: extract_plain_text(
            _decode(content), main_content=True, alt_texts=False, comments=False
        ),
        "resiliparse plain": lambda content: extract_plain_text(_decode(content)),
    }


def _decode(content: bytes) -> str:
    return decode_text(content, declared=None, is_html=True, ledger=Ledger())


def compare(pages: list[LabelledPage], texts: dict[str, list[str]]) -> dict[str, dict[str, float]]:
    """Share of each row's characters that each program keeps."""
    kept: dict[str, dict[str, int]] = {row: defaultdict(int) for row in ROWS}
    total: dict[str, int] = dict.fromkeys(ROWS, 0)
    for number, page in enumerate(pages):
        haystacks = {name: f" {_normalize(each[number])} " for name, each in texts.items()}
        rest = _normalize(page.rest).replace(" ", "")
        for row, text in page.texts:
            for piece in _cut(text):
                if row == "menus" and piece.replace(" ", "") in rest:
                    continue
                total[row] += len(piece)
                for name, haystack in haystacks.items():
                    kept[row][name] += len(piece) if f" {piece} " in haystack else 0
    return {
        row: {name: round(kept[row][name] / total[row], 4) for name in texts} | {"characters": total[row]}
        for row in ROWS
        if total[row]
    }


def _normalize(text: str) -> str:
    return _NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).lower()).strip()


def _cut(text: str) -> list[str]:
    words = _normalize(text).split()
    pieces = (" ".join(words[start : start + PIECE_WORDS]) for start in range(0, len(words), PIECE_WORDS))
    return [piece for piece in pieces if len(piece) >= MIN_PIECE]


def rank(row: str, shares: dict[str, float]) -> str:
    """Return how this project stands in a row beside the better of trafilatura's modes."""
    is_less_better = row == "menus"
    best = 0.0 if is_less_better else 1.0
    peers = [shares[name] for name in shares if name.startswith("trafilatura")]
    peer = min(peers) if is_less_better else max(peers)
    ours = shares["trireme"]
    if ours == peer:
        return "equal at the best value" if ours == best else "equal"
    return "ahead" if (ours < peer) == is_less_better else "behind"


def measure(pages: list[LabelledPage], *, num_rounds: int) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Texts of all pages by each program, and the least of its times."""
    programs = list_programs()
    texts: dict[str, list[str]] = {}
    seconds: dict[str, float] = dict.fromkeys(programs, float("inf"))
    for extract in programs.values():
        extract(pages[0].content)
    for _ in range(num_rounds):
        for name, extract in programs.items():
            start = time.thread_time()
            texts[name] = [extract(page.content) for page in pages]
            seconds[name] = min(seconds[name], time.thread_time() - start)
    return texts, seconds


def main() -> None:
    """Parse arguments and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archives", nargs="*", metavar="ARCHIVE")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    real, made = read_pages(arguments.archives), list(make_pages())
    texts, seconds = measure([*real, *made], num_rounds=arguments.rounds)
    rows = {
        "real": compare(real, {name: each[: len(real)] for name, each in texts.items()}),
        "made": compare(made, {name: each[len(real) :] for name, each in texts.items()}),
    }
    figures = {
        "num_pages": {"real": len(real), "made": len(made)},
        "megabytes": round(sum(len(page.content) for page in [*real, *made]) / 1e6, 2),
        **rows,
        "standing": {pages: {row: rank(row, each) for row, each in shares.items()} for pages, shares in rows.items()},
        "seconds": {name: round(each, 3) for name, each in seconds.items()},
        "times_as_fast": {
            name: round(each / seconds["trireme"], 1) for name, each in seconds.items() if name != "trireme"
        },
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
