"""Show which documents a step of a run was trained on, or which steps were trained on a document.

    trireme lineage RUN --step 12
    trireme lineage RUN --document data/train:5

RUN is a run directory, or a checkpoint in one. Nothing is guessed from the order of the data alone: the samples of a
step follow from what the run has recorded, so that resumes, other layouts and batch sizes, changed blends and samples
that rollbacks skipped count as they happened. Steps before a fork are those of the other run. SHARD:NUMBER is a shard
of the training data, by its prefix or, if it is the only one, by its name, and a document in it, counted from 0. The
shards must be those that the run read.

Prints a table, or with --json one line of JSON. Exit codes: 0 done, 2 invalid input.
"""

import argparse
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trireme.command import allow_any_text, run_command, write_output
from trireme.errors import EXIT_OK, ConfigError, Violation, raise_if_any
from trireme.logging import configure_logging
from trireme.strict_json import to_json

if TYPE_CHECKING:
    from trainer.history import RunHistory
    from trireme.shards.document_table import DocumentOrigin

_LOGGER = logging.getLogger(__name__)


def main() -> int:
    """Run the command."""
    configure_logging(rank=0)
    allow_any_text()
    return run_command(lambda: run(_parse()))


def run(arguments: argparse.Namespace) -> int:
    """Print the documents of a step, or the steps of a document.

    Raises:
        ConfigError: an argument is invalid, or the run's files or data sets cannot be used.
    """
    raise_if_any(_check(arguments))
    from trainer.history import read_history  # noqa: PLC0415 - imports PyTorch; arguments are checked first

    history = read_history(_find_run(arguments.path))
    if history.missing:
        _LOGGER.warning("%s", history.missing)
    if arguments.step is not None:
        record = describe_step(history, arguments.step)
        text = _step_table(record)
    else:
        shard, _, number = arguments.document.rpartition(":")
        record = describe_document(history, shard, int(number))
        text = _document_table(record)
    write_output(to_json(record) + "\n" if arguments.json else text)
    return EXIT_OK


def describe_step(history: "RunHistory", step: int) -> dict[str, Any]:
    """Return the samples of a step with their documents, as plain values; docs/training/lineage.md lists them.

    Raises:
        ConfigError: the run has no such step, or its data sets cannot be used.
    """
    from trireme.shards.document_table import read_origins  # noqa: PLC0415 - see run

    stretch = history.stretch_of(step)
    if stretch is None:
        if history.missing and step < (history.stretches[0].first_step if history.stretches else step + 1):
            message, fix = f"is not known: {history.missing}", "Restore that run's directory."
        elif 1 <= step <= history.last_step:
            message, fix = "is not among the records of metrics.jsonl", "Choose another step."
        else:
            message, fix = f"must be between 1 and {history.last_step}, the steps of the run", "Choose one of them."
        raise ConfigError([Violation(path="--step", value=step, message=message, fix=fix)])
    samples = stretch.samples_of(step)
    places = stretch.data.order.locate(samples)
    rows = list(
        zip(samples.tolist(), *(part.tolist() for part in (places.dataset, places.epoch, places.window)), strict=True)
    )
    parts = [stretch.data.datasets[dataset].documents_of(window) for _, dataset, _, window in rows]
    origins = read_origins((str(part.shard), part.number) for documents in parts for part in documents)
    return {
        "run": str(stretch.run_directory),
        "step": step,
        "last_step": history.last_step,
        "seq_length": stretch.config.model.seq_length,
        "samples": [
            {
                "sample": sample,
                "dataset": dataset,
                "epoch": epoch,
                "window": window,
                "documents": [
                    {
                        **asdict(part),
                        "shard": str(part.shard),
                        "origin": _describe(origins[str(part.shard), part.number]),
                    }
                    for part in documents
                ],
            }
            for (sample, dataset, epoch, window), documents in zip(rows, parts, strict=True)
        ],
    }


def describe_document(history: "RunHistory", name: str, number: int) -> dict[str, Any]:
    """Return the steps that were trained on a document, as plain values; docs/training/lineage.md lists them.

    Args:
        name: of the shard: its prefix, or the end of its path.
        number: of the document, from 0.
    Raises:
        ConfigError: there is no such document, or data sets cannot be used.
    """
    from trireme.shards.document_table import read_origins  # noqa: PLC0415 - see run
    from trireme.shards.shard import ShardReader  # noqa: PLC0415 - see run

    shard = history.find_shard(name)
    if shard is None:
        known = ", ".join(map(str, history.list_shards()))
        message = f"names none or several of the shards that the run was trained on: {known}"
        fix = "Name one of them by its prefix."
        raise ConfigError([Violation(path="--document", value=f"{name}:{number}", message=message, fix=fix)])
    reader = ShardReader(shard)
    if number >= reader.num_documents:
        message = f"does not exist: the shard has {reader.num_documents:,} documents"
        fix = f"Use a number from 0 to {reader.num_documents - 1}."
        raise ConfigError([Violation(path="--document", value=f"{name}:{number}", message=message, fix=fix)])
    return {
        "run": str(history.run_directory),
        "shard": str(shard),
        "number": number,
        "num_tokens": len(reader.document(number)),
        "origin": _describe(read_origins([(str(shard), number)])[str(shard), number]),
        "last_step": history.last_step,
        "note": history.missing,
        "reads": [asdict(read) for read in history.find_reads(shard, number)],
    }


def _describe(origin: "DocumentOrigin | None") -> dict[str, Any] | None:
    return None if origin is None else origin.describe()


def _step_table(record: dict[str, Any]) -> str:
    samples = record["samples"]
    documents = {(part["shard"], part["number"]) for sample in samples for part in sample["documents"]}
    lines = [
        f"Step {record['step']} of {record['last_step']}: {len(samples)} samples of {record['seq_length']} tokens,"
        f" {len(documents)} documents."
    ]
    for sample in samples:
        lines.append(
            f"sample {sample['sample']}: data.train[{sample['dataset']}], epoch {sample['epoch']},"
            f" window {sample['window']}"
        )
        lines += [
            f"  {part['shard']}:{part['number']}  tokens {part['first']} to {part['end'] - 1} of {part['num_tokens']}"
            f"{_describe_origin(part['origin'])}"
            for part in sample["documents"]
        ]
    return "\n".join(lines) + "\n"


def _document_table(record: dict[str, Any]) -> str:
    reads = record["reads"]
    steps = sorted({read["step"] for read in reads})
    lines = [
        f"{record['shard']}:{record['number']}, {record['num_tokens']} tokens{_describe_origin(record['origin'])}",
        f"Read in {len(steps)} of {record['last_step']} steps."
        if steps
        else f"Not read in the {record['last_step']} steps of the run.",
    ]
    lines += [
        f"step {read['step']}: tokens {read['first']} to {read['end'] - 1}, sample {read['sample']}, data.train"
        f"[{read['dataset']}], epoch {read['epoch']}, window {read['window']}"
        for read in reads
    ]
    return "\n".join(lines) + "\n"


def _describe_origin(origin: dict[str, Any] | None) -> str:
    if origin is None:
        return ""
    named = origin["title"] or origin["url"] or origin["id"]
    name = f" ({named})" if named else ""
    return f"  {origin['source']}: record {origin['record']} of {origin['file']}{name}"


def _find_run(path: Path) -> Path:
    """Return the run directory at a path: the path itself, or that of a checkpoint."""
    from trainer.saved_run import run_directory_of  # noqa: PLC0415 - see run

    path = path.expanduser()
    inside = run_directory_of(path)
    return inside if inside is not None and path.is_dir() else path


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trireme lineage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, metavar="RUN", help="a run directory, or a checkpoint in one")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--step", type=int, metavar="N", help="show the documents that this step was trained on")
    asked.add_argument("--document", metavar="SHARD:NUMBER", help="show the steps that were trained on this document")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> list[Violation]:
    """Return the errors of all arguments that are known without the run."""
    found = []
    if not arguments.path.expanduser().is_dir():
        fix = "Give the directory of a run."
        found.append(Violation(path="RUN", value=arguments.path, message="is not a directory", fix=fix))
    if arguments.document is not None:
        shard, _, number = arguments.document.rpartition(":")
        if not shard or not (number.isascii() and number.isdigit()):
            message, fix = "must be a shard, a colon and the number of a document", "Use data/train:5, for example."
            found.append(Violation(path="--document", value=arguments.document, message=message, fix=fix))
    return found


if __name__ == "__main__":
    sys.exit(main())
