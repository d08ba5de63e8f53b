"""Raw files to token shards: python -m data_tools.prepare data_prep=OPTION [data_prep.FIELD=VALUE ...]"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from data_tools.collection import Collection, collect_documents
from data_tools.config import DataPrepConfig
from data_tools.decontamination import read_evaluations
from data_tools.ledger import ledger_to_dict, sum_ledgers
from data_tools.load import Task, load_task
from data_tools.packing import SplitResult, pack_documents
from data_tools.preparation import (
    created_by,
    describe_preparation,
    discard_unfinished,
    find_finished,
    finish_work,
    locked,
    start_work,
    write_json,
)
from data_tools.selection import Fate, choose_fates, choose_firsts, choose_sample
from data_tools.statistics import build_stats, find_warnings, summarize
from data_tools.train_tokenizer import find_unknown_id, train_tokenizer
from data_tools.workers import PreparationError
from trainer.common.errors import exit_code_of
from trainer.data.manifest import ShardManifest, write_manifest
from trainer.data.tokenizer import Tokenizer

EXIT_STOPPED = 1
EXIT_INTERRUPTED = 130

USAGE = """\
usage: python -m data_tools.prepare data_prep=OPTION [data_prep.FIELD=VALUE ...]

Options: files in conf/data_prep/. Fields: docs/data_prep_reference.md. How to: docs/data_preparation.md. For example
  python -m data_tools.prepare 'data_prep.sources=[{name:notes,kind:text,paths:["notes/*.txt"]}]' \\
    data_prep.output_dir=outputs/notes data_prep.tokenizer.vocab_size=8192
"""


def prepare(task: Task) -> bool:
    """Run a preparation to its end.

    Returns:
        Whether there was anything to do; not when it is finished already.
    Raises:
        ConfigError: the output directory cannot be used.
        PreparationError: it cannot go on; nothing of it is left in the output directory.
    """
    output = Path(task.config.output_dir)
    with locked(output):
        description = describe_preparation(task.config, task.files, evaluation_files=task.evaluation_files)
        if find_finished(output, description, overwrite=task.config.overwrite):
            return False
        built, spool = start_work(output)
        try:
            _build(task, description, built=built, spool=spool)
            finish_work(output, description)
        except OSError as error:
            place = error.filename or output
            raise PreparationError(f"{place}: {error.strerror or error}") from error
        finally:
            discard_unfinished(output)
    return True


def _build(task: Task, description: dict[str, Any], *, built: Path, spool: Path) -> None:
    """Everything between input and output; the files in `built` are those that will be published."""
    config = task.config
    num_workers = config.num_workers or count_cpus()
    evaluations = read_evaluations(task.evaluation_files, config)
    collection = collect_documents(
        task.files, config=config, evaluations=evaluations, directory=spool, num_workers=num_workers
    )
    firsts = choose_firsts(collection, config=config.near_duplicates, directory=spool)
    fates = choose_fates(collection, drop_duplicates=config.cleaning.drop_duplicates, firsts=firsts)
    if not (fates == Fate.TRAIN).any():
        raise PreparationError(_explain_nothing_kept(collection))
    model = built / "tokenizer.model"
    if config.tokenizer.path is not None:
        shutil.copyfile(config.tokenizer.path, model)
    else:
        sample = choose_sample(collection, fates, sample_characters=config.tokenizer.sample_characters)
        train_tokenizer(
            collection.batches,
            sample,
            config=config.tokenizer,
            directory=spool,
            target=model,
            mode=config.progress,
        )
    tokenizer = Tokenizer(model)
    results = pack_documents(
        collection,
        fates,
        firsts=firsts,
        tokenizer_path=model,
        vocab_size=tokenizer.vocab_size,
        spool_directory=spool,
        output=built,
        num_workers=num_workers,
        mode=config.progress,
    )
    stats = build_stats(results, unknown_id=find_unknown_id(model))
    stats["validation_fraction"] = config.split.validation_fraction
    stats["tokenizer_sha256"] = tokenizer.sha256
    if evaluations is not None:
        stats["evaluations"] = {"num_texts": len(evaluations.origins), "num_short_texts": evaluations.num_short}
    write_json(built / "stats.json", stats)
    write_json(built / "ledger.json", ledger_to_dict(collection.ledgers))
    _write_manifests(results, description, built=built, tokenizer_sha256=tokenizer.sha256, stats=stats)


def _write_manifests(
    results: dict[str, SplitResult],
    description: dict[str, Any],
    *,
    built: Path,
    tokenizer_sha256: str,
    stats: dict[str, Any],
) -> None:
    for name, result in results.items():
        if result.files:
            manifest = ShardManifest(
                num_documents=result.num_documents,
                num_tokens=result.num_tokens,
                dtype=result.dtype,
                files=result.files,
                tokenizer_sha256=tokenizer_sha256,
                vocab_size=stats["vocab_size"],
                settings={**description, "split": name, "unigram_entropy_nats": stats[name]["unigram_entropy_nats"]},
                created_by=created_by(),
            )
            write_manifest(built / name, manifest)


def _explain_nothing_kept(collection: Collection) -> str:
    total = sum_ledgers(collection.ledgers)
    if len(collection.hashes):
        return (
            f"all {len(collection.hashes)} documents were held out for validation; lower"
            " data_prep.split.validation_fraction, or add documents"
        )
    reasons = ", ".join(f"{reason} {count}" for reason, count in (total.dropped + total.failed).most_common())
    return f"no document is left of {total.read} records read: {reasons or 'the input is empty'}"


def count_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def _print_summary(config: DataPrepConfig, *, is_new: bool) -> None:
    output = Path(config.output_dir)
    stats = json.loads((output / "stats.json").read_text(encoding="utf-8"))
    ledger = json.loads((output / "ledger.json").read_text(encoding="utf-8"))
    if not is_new:
        print("finished before with the same inputs and settings; nothing to do")
    print("\n".join(summarize(output, stats=stats, ledger=ledger)))
    for warning in find_warnings(stats=stats, ledger=ledger):
        print(warning if warning.startswith(" ") else f"warning: {warning}", file=sys.stderr)


def main() -> int:
    """The command."""
    overrides = sys.argv[1:]
    if not overrides or {"-h", "--help"} & set(overrides):
        print(USAGE, end="")
        return 0 if overrides else 2

    def body() -> int:
        task = load_task(overrides)
        try:
            is_new = prepare(task)
        except PreparationError as error:
            print(f"the preparation stopped, and {task.config.output_dir} is as it was:\n  {error}", file=sys.stderr)
            return EXIT_STOPPED
        except KeyboardInterrupt:
            print(f"interrupted; {task.config.output_dir} is as it was", file=sys.stderr)
            return EXIT_INTERRUPTED
        _print_summary(task.config, is_new=is_new)
        return 0

    return exit_code_of(body)


if __name__ == "__main__":
    sys.exit(main())
