"""The processor time of data preparation now, and of an older checkout, in alternating rounds of one run.

Extraction: a process per checkout extracts all HTML pages of the samples in turn. Of each page counts the least time of
all rounds, so that what else the machine does counts for neither. Chain: `data_tools.prepare` with
data_prep=common_crawl on the same pages, from archives to shards; the time is that of all its processes. Prints one
JSON line:

    {"num_pages": ..., "extraction": {"now": seconds, "before": seconds, "ratio": ...},
     "chain": {"now": seconds, "before": seconds, "ratio": ..., "ratios": [...]}}

Usage: python -m benchmarks.data_prep_before CHECKOUT --samples DIRECTORY [--rounds N] [--chain-rounds N]
"""

import argparse
import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.data_prep import VOCAB_SIZE, chain_overrides
from benchmarks.data_prep_inputs import read_english, read_web_pages, train_sentencepiece, write_archives
from benchmarks.data_prep_processes import ENVIRONMENT, REPOSITORY

NUM_WORKERS = 2
_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of Linux's prctl."""
# Before data_tools had rooms, the modules had other names.
EXTRACTION = """
import json, struct, sys, time
from pathlib import Path
import data_tools
if not Path(data_tools.__file__).is_relative_to(sys.argv[2]):
    sys.exit(f"{sys.argv[2]} has no data_tools")
try:
    from data_tools.config.schema import HtmlConfig
    from data_tools.extract.html.extractor import HtmlExtractor
except ModuleNotFoundError:
    from data_tools.config import HtmlConfig
    from data_tools.extract_html import HtmlExtractor
from data_tools.document import DroppedError
from data_tools.ledger import Ledger

class Page:
    charset, title, text = None, "", ""

def extract(content):
    page = Page()
    page.content = content
    start = time.thread_time_ns()
    try:
        extractor(page, Ledger())
    except DroppedError:
        pass
    return time.thread_time_ns() - start

extractor = HtmlExtractor(HtmlConfig())
data = open(sys.argv[1], "rb").read()
pages, place = [], 0
while place < len(data):
    size, = struct.unpack_from("<q", data, place)
    pages.append(data[place + 8 : place + 8 + size])
    place += 8 + size
for line in sys.stdin:
    print(json.dumps([extract(page) for page in pages]), flush=True)
"""


def compare_extraction(contents: Sequence[bytes], checkouts: dict[str, Path], *, num_rounds: int) -> dict[str, float]:
    """Return the seconds of each checkout, and the first one's divided by the second's."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(len(content).to_bytes(8, "little") + content for content in contents))
        file.flush()
        processes = {
            name: subprocess.Popen(
                [sys.executable, "-c", EXTRACTION, file.name, str(path)],
                cwd=path,
                env=_environment(path),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name, path in checkouts.items()
        }
        least: dict[str, list[int]] = {}
        for number in range(num_rounds):
            for name in list(processes)[:: 1 if number % 2 == 0 else -1]:
                times = _ask(processes[name])
                least[name] = list(map(min, times, least.get(name, times)))
        for process in processes.values():
            process.communicate()
    seconds = {name: sum(times) / 1e9 for name, times in least.items()}
    return _summarize(seconds)


def _ask(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write("\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:
        raise RuntimeError(f"the extraction of a checkout ended with {process.wait()}; see its message above")
    return list(json.loads(answer))


def compare_chains(
    archives: Path, model: Path, work: Path, checkouts: dict[str, Path], *, num_rounds: int
) -> dict[str, Any]:
    """Return the medians of the seconds of each checkout, and of the rounds' ratios."""
    output = work / "output"
    found: dict[str, list[float]] = {name: [] for name in checkouts}
    for number in range(num_rounds):
        for name in list(checkouts)[:: 1 if number % 2 == 0 else -1]:
            shutil.rmtree(output, ignore_errors=True)
            overrides = chain_overrides(archives, output, model, num_workers=NUM_WORKERS)
            found[name].append(_measure_all_processes(["-m", "data_tools.prepare", *overrides], checkouts[name]))
    now, before = found.values()
    ratios = [mine / older for mine, older in zip(now, before, strict=True)]
    seconds = {name: statistics.median(each) for name, each in found.items()}
    return {
        **_summarize(seconds),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def _measure_all_processes(arguments: list[str], checkout: Path) -> float:
    """Run Python; processor seconds of it and of all processes below it, also of those whose parent has ended."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=checkout,
        env=_environment(checkout),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(f"data_tools.prepare in {checkout} ended with {process.returncode}:\n{said[-3000:]}")
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _environment(checkout: Path) -> dict[str, str]:
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(checkout)}


def _summarize(seconds: dict[str, float]) -> dict[str, float]:
    now, before = seconds.values()
    return {**{name: round(each, 3) for name, each in seconds.items()}, "ratio": round(now / before, 3)}


def main() -> None:
    """Parse arguments and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="of an older commit")
    parser.add_argument("--samples", type=Path, required=True, help="directory of archives")
    parser.add_argument("--rounds", type=int, default=7, help="of extraction; default: %(default)s")
    parser.add_argument("--chain-rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--chain-copies", type=int, default=2, help="of every page; default: %(default)s")
    arguments = parser.parse_args()
    # Workers outlive the server that they were forked from: their times count here only if they become our children.
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    checkouts = {"now": REPOSITORY, "before": arguments.checkout.absolute()}
    pages = read_web_pages(arguments.samples)
    figures: dict[str, Any] = {
        "num_pages": len(pages),
        "extraction": compare_extraction([page.content for page in pages], checkouts, num_rounds=arguments.rounds),
    }
    if arguments.chain_rounds:
        with tempfile.TemporaryDirectory() as directory:
            work = Path(directory)
            write_archives(pages, work / "archives", num_copies=arguments.chain_copies)
            texts = read_english(arguments.samples)
            model = train_sentencepiece(texts, work / "model.model", model_type="unigram", vocab_size=VOCAB_SIZE)
            figures["chain"] = compare_chains(
                work / "archives", model, work, checkouts, num_rounds=arguments.chain_rounds
            )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
