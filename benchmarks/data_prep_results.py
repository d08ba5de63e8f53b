"""Measure data preparation and extraction again, and put the figures into benchmarks/results.

Runs, one after the other: benchmarks.extraction; the parts of benchmarks.data_prep; and, with --before,
benchmarks.data_prep_before on an older commit of this repository. An entry of the same command is replaced, others
stay. Takes some eight minutes on two idle cores, and once two more to install the peers. trafilatura is installed under
--cache where it is missing.

Usage: python -m benchmarks.data_prep_results --samples DIRECTORY [--before COMMIT] [--only extraction,chain,...]
"""

import argparse
import datetime
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.data_prep_processes import ENVIRONMENT, REPOSITORY, find_peers_python

RESULTS = REPOSITORY / "benchmarks" / "results"
ARCHIVES = ("debian-docs-small.warc.gz", "commoncrawl-2020-34-16pages.warc.gz", "whirlwind.warc.gz")
TRAFILATURA = ("trafilatura>=2.0", "lxml_html_clean")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A command whose figures are published."""

    name: str
    file: str
    """Of RESULTS."""
    shown: str
    """The command as the results name it, with words for directories."""
    arguments: tuple[str, ...]


def list_measurements(samples: Path, *, before: str, checkout: Path) -> list[Measurement]:
    """Return what is measured, in this order; the comparison with a commit only if one is given."""
    parts = {
        "extraction": ("--rounds", "3"),
        "chain": ("--chain-copies", "4", "--rounds", "2"),
        "tokenize": ("--rounds", "3"),
        "memory": ("--rounds", "1"),
    }
    kept = Measurement(
        name="kept",
        file="extraction.json",
        shown=f"python -m benchmarks.extraction {' '.join(ARCHIVES)} --rounds 5",
        arguments=("benchmarks.extraction", *(str(samples / name) for name in ARCHIVES), "--rounds", "5"),
    )
    measurements = [kept]
    for part, options in parts.items():
        shown = " ".join(("--parts", part, *options))
        measurements.append(
            Measurement(
                name=part,
                file="data_prep.json",
                shown=f"python -m benchmarks.data_prep --samples DIRECTORY {shown}",
                arguments=("benchmarks.data_prep", "--samples", str(samples), "--parts", part, *options),
            )
        )
    if before:
        measurements.append(
            Measurement(
                name="before",
                file="data_prep.json",
                shown=f"python -m benchmarks.data_prep_before CHECKOUT_OF_{before} --samples DIRECTORY",
                arguments=("benchmarks.data_prep_before", str(checkout), "--samples", str(samples)),
            )
        )
    return measurements


def describe_machine() -> str:
    """Return what the figures depend on."""
    load = os.getloadavg()[0]
    python = ".".join(platform.python_version_tuple()[:2])
    return f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {python}, load average at the start {load:.1f}"


def write_entry(path: Path, entry: dict[str, Any]) -> None:
    """Put an entry in place of the one of the same command, or behind the others."""
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    commands = [each["command"] for each in entries]
    if entry["command"] in commands:
        entries[commands.index(entry["command"])] = entry
    else:
        entries.append(entry)
    path.write_text(f"{json.dumps(entries, indent=1, ensure_ascii=False)}\n", encoding="utf-8")


def _install_trafilatura(cache: Path) -> dict[str, str]:
    """Return the environment in which trafilatura can be imported."""
    paths = [str(REPOSITORY)]
    if importlib.util.find_spec("trafilatura") is None:
        target = cache / "trafilatura"
        if not target.exists():
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), *TRAFILATURA]
            subprocess.run(command, check=True, stdout=sys.stderr)
        # Behind what is installed already: only what is missing comes from there.
        sys.path.append(str(target))
        paths.append(str(target))
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)}


def _run(measurement: Measurement, environment: dict[str, str], *, cache: Path) -> dict[str, Any]:
    arguments = list(measurement.arguments)
    if arguments[0] == "benchmarks.data_prep":
        arguments += ["--cache", str(cache)]
    machine = describe_machine()
    start = time.perf_counter()
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    print(f"{measurement.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    entry: dict[str, Any] = {
        "command": measurement.shown,
        "machine": machine,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }
    if measurement.name == "kept":
        entry["versions"] = {name: metadata.version(name) for name in ("trafilatura", "resiliparse")}
        return {**entry, "figures": figures[0]}
    return {**entry, "figures": figures}


def _extract_commit(commit: str, directory: Path) -> None:
    archive = subprocess.run(["git", "archive", commit], cwd=REPOSITORY, stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(directory)], input=archive, check=True)


def main() -> None:
    """Parse arguments, and run and publish one measurement after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, required=True, help="directory of archives and text")
    parser.add_argument("--before", default="", metavar="COMMIT", help="compare with this one as well")
    parser.add_argument("--only", default="", help="of kept, extraction, chain, tokenize, memory, before")
    parser.add_argument("--cache", type=Path, default=Path("outputs/benchmarks/data_prep"), help="default: %(default)s")
    arguments = parser.parse_args()
    cache = arguments.cache.absolute()
    cache.mkdir(parents=True, exist_ok=True)
    find_peers_python(cache)
    environment = _install_trafilatura(cache)
    wanted = [name for name in arguments.only.split(",") if name]
    with tempfile.TemporaryDirectory() as directory:
        checkout = Path(directory)
        if arguments.before:
            _extract_commit(arguments.before, checkout)
        for measurement in list_measurements(arguments.samples.absolute(), before=arguments.before, checkout=checkout):
            if not wanted or measurement.name in wanted:
                write_entry(RESULTS / measurement.file, _run(measurement, environment, cache=cache))


if __name__ == "__main__":
    main()
