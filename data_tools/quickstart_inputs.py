"""Create real input for the quickstart without a network: a Wikipedia dump excerpt, and a crawl of Python's docs."""

import argparse
import contextlib
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import IO

from data_tools.crawl.crawler import CrawlSettings, crawl_with_progress
from trireme.errors import ConfigError, Violation, exit_code_of, raise_if_any
from trireme.files import nearest_existing_parent, written_whole
from trireme.progress import format_bytes

DUMP_DISTRIBUTION = "gensim"
DUMP_NAME = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
CRAWL_NAME = "python-docs.warc.gz"
MAX_CRAWL_PAGES = 400

# The server documents a module by importing it. Left out: modules that do something when imported (open a browser or a
# window, run tests, leave the process), private and test modules, encoding tables, and views of source files.
CRAWL_EXCLUDE = (
    r"/(_|antigravity|this\b|idlelib|lib2to3|test\b|tkinter|turtle|xx|encodings\.|distutils)"
    r"|\.(__main__|tests?\b)|getfile"
)

LICENSES = (
    "Wikipedia text: CC BY-SA 3.0 and GFDL, by the authors of the pages (the dump ships with gensim's tests)",
    "Python documentation: PSF License Version 2, by the Python Software Foundation",
)


@contextlib.contextmanager
def serve_python_docs(*, timeout_seconds: float = 30.0) -> Iterator[str]:
    """Run Python's documentation server on a free loopback port while the block runs; yield its URL.

    It documents the standard library only (no site-packages), and stops when its standard input closes, so also when
    this process is killed.
    """
    with tempfile.TemporaryDirectory(prefix="trireme-pydoc-") as empty:
        server = subprocess.Popen(
            [sys.executable, "-I", "-S", "-m", "pydoc", "-n", "localhost", "-p", "0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=empty,  # pydoc puts the current directory on its path
        )
        assert server.stdin is not None and server.stdout is not None
        lines: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=_drain, args=(server.stdout, lines), daemon=True)
        reader.start()
        try:
            yield _address(lines, timeout_seconds=timeout_seconds)
        finally:
            with contextlib.suppress(OSError):
                server.stdin.close()
            try:
                server.wait(timeout=5)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            reader.join(timeout=5)
            server.stdout.close()


def _drain(stream: IO[str], lines: "queue.Queue[str | None]") -> None:
    """Read to the end: what documented modules print must not fill the pipe. None marks the end."""
    for line in stream:
        lines.put(line)
    lines.put(None)


def _address(lines: "queue.Queue[str | None]", *, timeout_seconds: float) -> str:
    """Return the URL that the server prints on its first line."""
    try:
        line = lines.get(timeout=timeout_seconds)
    except queue.Empty:
        line = None
    if line is None or "http://" not in line:
        said = repr(line) if line else "nothing"
        raise RuntimeError(f"Python's documentation server did not start; its output was {said}")
    return line[line.index("http://") :].strip()


def find_dump() -> Path:
    """Find the Wikipedia dump in the installed gensim distribution; gensim is not imported."""
    try:
        files = metadata.distribution(DUMP_DISTRIBUTION).files or []
    except metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.name == DUMP_NAME]
    if not found or not found[0].is_file():
        raise ConfigError(
            [
                Violation(
                    path=DUMP_DISTRIBUTION,
                    value="",
                    message="not installed" if not files else f"{DUMP_NAME} not found in the installed package",
                    fix="Run `make setup`, or pip install -c constraints.txt -e '.[quickstart]'.",
                )
            ]
        )
    return found[0]


def copy_dump(output: Path) -> Path:
    """Copy the dump into `output`, unless it exists there."""
    source, target = find_dump(), output / DUMP_NAME
    if target.exists() and target.stat().st_size == source.stat().st_size:
        print(f"{target}: already exists")
        return target
    with written_whole(target) as partial:
        shutil.copyfile(source, partial)
    print(f"{target}: Wikipedia dump, {format_bytes(target.stat().st_size)}")
    return target


def crawl_python_docs(output: Path, *, max_pages: int = MAX_CRAWL_PAGES) -> Path:
    """Crawl Python's documentation server into a WARC file in `output`, unless it exists (it is only ever complete)."""
    target = output / CRAWL_NAME
    if target.exists():
        print(f"{target}: already exists")
        return target
    with serve_python_docs() as address:
        # No delay: the server is this machine's own, was started for this, and answers one request at a time.
        report = crawl_with_progress(
            CrawlSettings(
                start_url=address + "index.html",
                output=target,
                max_pages=max_pages,
                delay_seconds=0.0,
                exclude=CRAWL_EXCLUDE,
            )
        )
    if report.is_interrupted:
        target.unlink(missing_ok=True)
        raise KeyboardInterrupt
    print("\n".join([f"{target}: {report.lines()[0]}", *report.lines()[1:]]))
    return target


def _find_problems(output: Path) -> Iterator[Violation]:
    existing = nearest_existing_parent(output)
    if not existing.is_dir():
        rule = f"cannot create the directory: {existing} is a file"
        yield Violation(path="--output", value=output, message=rule, fix="Choose another directory.")
    elif not os.access(existing, os.W_OK | os.X_OK):
        rule, fix = f"no permission to write to {existing}", "Choose a directory that you can write to."
        yield Violation(path="--output", value=output, message=rule, fix=fix)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m data_tools.quickstart_inputs", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIRECTORY")
    parser.add_argument(
        "--max-pages", type=int, default=MAX_CRAWL_PAGES, help="maximum pages to crawl (default: %(default)s)"
    )
    args = parser.parse_args()

    def body() -> int:
        raise_if_any(_find_problems(args.output))
        args.output.mkdir(parents=True, exist_ok=True)
        copy_dump(args.output)
        crawl_python_docs(args.output, max_pages=args.max_pages)
        print("\n".join(f"  {line}" for line in ("Licenses of this material:", *LICENSES)))
        return 0

    return exit_code_of(body)


if __name__ == "__main__":
    sys.exit(main())
