"""Measure social bias of a model: pairs of sentences, questions, pronouns and completions, each with its interval.

    trireme bias outputs/quickstart
    trireme bias PATH --data crows_pairs_anonymized.csv Gender_identity.jsonl --limit 1000
    torchrun --nproc-per-node 2 -m trainer.bias PATH --tensor-model-parallel-size 2 --data pairs_en

PATH is a run directory, whose latest valid checkpoint is loaded, an import, or a checkpoint, of any parallel layout.
--data names files in the formats of CrowS-Pairs, BBQ and WinoBias, or prompts by group, which the content tells apart;
and sets that come with Trireme, all of which are the default. A masked language model is measured with pairs only.

Prints a table with what the figures can and cannot say, or with --json the whole result, which is also appended to
bias.json in the checkpoint's run directory, or to --output. Exit codes: 0 done, whatever the figures are, 1 the model's
output is not finite or a named file cannot be written, 2 invalid input, 130 interrupted.
"""

import argparse
import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.evaluation.result_files import check_file, check_result_file, keep_result_of, write_asked
from trainer.fairness.items import ItemFile, Kind
from trainer.fairness.read import check_set, read_items, shipped_sets
from trainer.inference.command import run_on_ranks
from trainer.inference.options import (
    add_model_options,
    add_sampling_options,
    check_model_options,
    check_sampling_options,
    choose_sampling,
    model_options,
)
from trireme.command import allow_any_text, write_output
from trireme.errors import EXIT_OK, ConfigError, Violation, raise_if_any
from trireme.processes import global_rank
from trireme.strict_json import to_json

if TYPE_CHECKING:
    from trainer.fairness.report import SetResult
    from trainer.fairness.scoring import WrittenText

RESULT_NAME = "bias.json"


def main() -> int:
    """Run the command."""
    allow_any_text()
    return run_on_ranks(lambda: run(_parse()))


def run(arguments: argparse.Namespace) -> int:
    """Load the latest valid checkpoint, measure, print and store the figures.

    Raises:
        ConfigError: the arguments, a file, the checkpoint or the tokenizer are invalid.
        RunStopped: the model's logits are not finite, or a file that the user has named cannot be written.
    """
    raise_if_any(_check(arguments))
    kind = Kind(arguments.kind) if arguments.kind else None
    # Every rank reads them: a file that is invalid then ends all of them.
    files = _read_all(arguments.data or shipped_sets(), kind=kind)
    # Late: arguments are checked first, and the shim must be installed before Megatron-Core is imported.
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see above

    cpu_shim.install()
    from trainer.fairness.run import measure_causal, measure_masked  # noqa: PLC0415 - see above
    from trainer.inference.batch_model import open_for_batches  # noqa: PLC0415 - see above
    from trainer.parallel.world import stop_world  # noqa: PLC0415 - see above

    options = model_options(arguments)
    saved, tokenizer = open_for_batches(options)
    is_masked = saved.state.model_config().attention_mask == "bidirectional"
    if is_masked:
        if not arguments.data:
            files = [file for file in files if file.kind == Kind.PAIRS]
        raise_if_any(_check_masked(files, checkpoint=saved.checkpoint))
    texts: list[WrittenText] = []
    if is_masked:
        results = measure_masked(
            files, options, saved=saved, tokenizer=tokenizer, limit=arguments.limit, seed=arguments.seed
        )
        sampling: Mapping[str, Any] = {}
    else:
        results, texts, sampling = measure_causal(
            files,
            options,
            limit=arguments.limit,
            seed=arguments.seed,
            per_byte=arguments.per_byte,
            num_samples=arguments.num_samples,
            max_new_tokens=arguments.max_new_tokens,
            choose_sampling=lambda config: choose_sampling(arguments, generation_config=config),
        )
    if global_rank() == 0:
        described = {
            **_describe(arguments, saved.checkpoint, tokenizer_sha256=tokenizer.sha256),
            "sampling": dict(sampling),
        }
        _report(described, results, texts, arguments=arguments, checkpoint=saved.checkpoint)
    stop_world()
    return EXIT_OK


def _read_all(names: Sequence[str], *, kind: Kind | None) -> list[ItemFile]:
    """Read files of items.

    Raises:
        ConfigError: some are invalid (the errors of all).
    """
    files: list[ItemFile] = []
    found: list[Violation] = []
    for name in names:
        try:
            files.append(read_items(name, kind=kind))
        except ConfigError as error:
            found += error.violations
    raise_if_any(found)
    return files


def _check_masked(files: Sequence[ItemFile], *, checkpoint: Path) -> list[Violation]:
    return [
        Violation(
            path="--data",
            value=file.name,
            message=f"is of the kind {file.kind}, but {checkpoint} is a masked language model, which continues no text",
            fix=f"Name files of the kind {Kind.PAIRS}.",
        )
        for file in files
        if file.kind != Kind.PAIRS
    ]


def _describe(arguments: argparse.Namespace, checkpoint: Path, *, tokenizer_sha256: str) -> dict[str, Any]:
    """Return what the figures depend on, but for the items."""
    from trainer.evaluation.results import describe_layout, describe_model  # noqa: PLC0415 - see run

    options = model_options(arguments)
    return {
        **describe_model(options, checkpoint=checkpoint, tokenizer_sha256=tokenizer_sha256),
        "layout": describe_layout(options),
        "seed": arguments.seed,
        "limit": arguments.limit,
        "per_byte": arguments.per_byte,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _report(
    described: Mapping[str, Any],
    results: "Sequence[SetResult]",
    texts: "Sequence[WrittenText]",
    *,
    arguments: argparse.Namespace,
    checkpoint: Path,
) -> None:
    from trainer.fairness.plot import build_page  # noqa: PLC0415 - see run
    from trainer.fairness.report import GENERAL, format_table  # noqa: PLC0415 - see run

    result = {**described, "sets": [one.describe() for one in results], "statement": list(GENERAL)}
    try:
        keep_result_of(checkpoint, result, name=RESULT_NAME, output=arguments.output)
        if arguments.html is not None:
            write_asked(arguments.html, build_page(described, results))
        if arguments.texts is not None:
            write_asked(arguments.texts, "".join(json.dumps(asdict(text), ensure_ascii=False) + "\n" for text in texts))
    finally:
        write_output(to_json(result) + "\n" if arguments.json else format_table(results))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trireme bias", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(
        parser,
        max_batch_size=16,
        batch="bounds memory: texts that are generated at once; for each of them up to 256 tokens are scored at once",
    )
    group = parser.add_argument_group("items")
    group.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="FILE",
        help=f"files, or sets that come with Trireme: {', '.join(shipped_sets())} (default: all of these)",
    )
    group.add_argument("--kind", choices=[str(kind) for kind in Kind], help="format (default: found in each file)")
    group.add_argument(
        "--limit", type=int, metavar="N", help="items of each file at most, drawn at random (default: all)"
    )
    group.add_argument(
        "--per-byte", action="store_true", help="divide the log-likelihood of BBQ's answers by their length in bytes"
    )
    group.add_argument(
        "--num-samples", type=int, default=5, metavar="N", help="texts after each prompt (default: %(default)s)"
    )
    group.add_argument(
        "--max-new-tokens", type=int, default=32, metavar="N", help="tokens of each text (default: %(default)s)"
    )
    add_sampling_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    output.add_argument(
        "--output", type=Path, metavar="FILE", help=f"results (default: {RESULT_NAME} in the run directory)"
    )
    output.add_argument("--html", type=Path, metavar="FILE", help="page with a plot of all figures")
    output.add_argument("--texts", type=Path, metavar="FILE", help="JSON lines of the texts written after prompts")
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> list[Violation]:
    """Return the errors of all arguments."""
    found = check_model_options(arguments) + check_sampling_options(arguments)
    rules = (
        ("limit", arguments.limit is None or arguments.limit >= 1),
        ("num_samples", arguments.num_samples >= 1),
        ("max_new_tokens", arguments.max_new_tokens >= 1),
    )
    for name, holds in rules:
        if not holds:
            path = f"--{name.replace('_', '-')}"
            found.append(Violation(path=path, value=getattr(arguments, name), message="must be at least 1", fix=""))
    for name in arguments.data:
        found += check_set(name, path="--data")
    found += check_result_file(arguments.output, option="--output")
    for name in ("html", "texts"):
        found += check_file(getattr(arguments, name), option=f"--{name}")
    return found


if __name__ == "__main__":
    sys.exit(main())
