"""Run the stages of a preparation (see `Stage`); each resumes from what earlier runs have finished."""

import errno
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from data_tools.dedup.corpus import Corpus
from data_tools.dedup.decide import Decision, Decisions, deduplicate_and_split
from data_tools.errors import NothingKeptError, PreparationError
from data_tools.filters.decontamination import EvaluationTexts, read_evaluations
from data_tools.inputs.files import InputFile
from data_tools.ledger import ledger_to_dict, sum_ledgers
from data_tools.output.publish import created_by, publish, record_files, write_json
from data_tools.output.stats import SplitResult, build_stats
from data_tools.report.page import write_report
from data_tools.stages.cache import Stage, create_run_id
from data_tools.stages.preparation import TIMINGS_FILE, Preparation, Share
from data_tools.stages.read import read_files
from data_tools.stages.read_state import join_files, load_states
from data_tools.stages.tokenize import TokenizeStage
from data_tools.stages.tokenize_worker import TokenizeSettings
from data_tools.stages.train_tokenizer import SampledBatch, train_tokenizer
from data_tools.tokenizer.files import SENTENCEPIECE_NAME, TOKENIZER_NAMES, find_tokenizer, install_tokenizer
from data_tools.tokenizer.sample import choose_sample
from data_tools.work.progress import StageTiming, sum_timings, write_timings
from data_tools.work.spool import raise_file_limit
from trireme.errors import ConfigError
from trireme.progress import format_number
from trireme.shards.manifest import ShardManifest, write_manifest
from trireme.shards.shard import token_dtype
from trireme.tokenizer.tokenizer import Tokenizer

_FINISHED = "finished"
"""Name of the file that a stage of one process writes last."""
_EVALUATIONS_NAME = "evaluations.json"
"""Counts of the evaluation texts, written when reading loads them."""
MAX_EXPLAINED_REASONS = 3
"""Reasons explained when no document is kept."""
_ADVICE = {
    "json_text_missing": "Set the source's text_field to the key of the text (content.text for one within an object).",
    "json_text_not_a_string": "Set the source's text_field to a key that holds text (content.text for one within an"
    " object).",
    "json_invalid": "Kind jsonl expects one JSON object per line, or an array of objects.",
    "parquet_column_missing": "Set the source's text_field to the column of the text.",
    "archive_without_records": "Kind warc reads WARC, WET, ARC and WACZ. Use kind text or jsonl for other files.",
    "too_short": "Lower data_prep.cleaning.min_characters.",
    "language_unsure": "Lower data_prep.language.min_score, or set data_prep.language.identify=false.",
}
"""Reason -> how to keep such documents."""

logger = logging.getLogger(__name__)


def run_stage(stage: Stage, preparation: Preparation, share: Share) -> None:
    """Run a stage, or one share of it.

    Raises:
        PreparationError: it cannot continue; the next run resumes from what it has finished.
    """
    limit = raise_file_limit()
    try:
        match stage:
            case Stage.READ:
                read(preparation, share)
            case Stage.DECIDE:
                decide(preparation)
            case Stage.TRAIN_TOKENIZER:
                make_tokenizer(preparation)
            case Stage.TOKENIZE:
                tokenize(preparation, share)
            case Stage.ASSEMBLE:
                assemble(preparation)
    except OSError as error:
        hint = ""
        if error.errno == errno.EMFILE:
            hint = (
                f" (this process may open {limit} files). Raise the limit (ulimit -Hn), or use fewer"
                " data_prep.num_workers."
            )
        path = error.filename or preparation.output
        raise PreparationError(f"{path}: {error.strerror or error}{hint}") from error


def read(preparation: Preparation, share: Share) -> None:
    """Read the files of a share into cleaned documents."""
    directories, config = preparation.directories, preparation.config
    if (directories.decide / _FINISHED).exists():
        return
    files = share_files(preparation.task.files, share)
    states = load_states(files, directories.read, file_keys=directories.file_keys, is_strict=config.strict)
    if all(state.is_finished for state in states):
        return
    read_files(
        states,
        config=config,
        evaluations=_read_evaluations(preparation),
        directory=directories.read,
        file_keys=directories.file_keys,
        run_id=create_run_id(),
        num_workers=preparation.num_workers,
        stages=preparation.progress,
    )


def decide(preparation: Preparation) -> None:
    """Deduplicate all documents, and split them into training and validation."""
    directories, config = preparation.directories, preparation.config
    if (directories.decide / _FINISHED).exists():
        return
    states = load_states(
        preparation.task.files, directories.read, file_keys=directories.file_keys, is_strict=config.strict
    )
    if unread := [state.file.path for state in states if not state.is_finished]:
        more = f" and {format_number(len(unread) - 1, 'other file')}" if len(unread) > 1 else ""
        raise PreparationError(f"Reading is not finished for {unread[0]}{more}. Rerun trireme prepare.")
    corpus = join_files(states)
    with preparation.progress.begin(Stage.DECIDE, total=len(corpus.hashes), unit="documents") as progress:
        decided = deduplicate_and_split(corpus, config=config, directory=directories.read)
        progress.update(len(corpus.hashes))
    if not (decided.decisions == Decision.TRAIN).any():
        raise NothingKeptError(_explain_nothing_kept(corpus))
    corpus.save(directories.decide)
    decided.save(directories.decide)
    _mark_finished(directories.decide)


def make_tokenizer(preparation: Preparation) -> None:
    """Train the tokenizer, or install the given one."""
    directories, settings = preparation.directories, preparation.config.tokenizer
    if (directories.train_tokenizer / _FINISHED).exists():
        return
    if settings.path is not None:
        install_tokenizer(settings.path, directories.train_tokenizer, eos_token=settings.eos_token)
    else:
        _train_tokenizer(preparation)
    _mark_finished(directories.train_tokenizer)


def _train_tokenizer(preparation: Preparation) -> None:
    directories, settings = preparation.directories, preparation.config.tokenizer
    corpus, decided = Corpus.load(directories.decide), Decisions.load(directories.decide)
    is_sampled = choose_sample(
        decided.decisions == Decision.TRAIN,
        corpus.num_characters,
        corpus.hashes,
        corpus.language_codes,
        sample_characters=settings.sample_characters,
        exponent=settings.sampling_exponent,
    )
    lines = decided.repeated_lines
    texts = [
        SampledBatch(batch.blob_ref, is_sampled[batch.documents], None if lines is None else lines.of_batch(number))
        for number, batch in enumerate(corpus.batches)
        if is_sampled[batch.documents].any()
    ]
    train_tokenizer(
        texts,
        config=settings,
        directory=directories.read,
        target=directories.train_tokenizer / SENTENCEPIECE_NAME,
        stages=preparation.progress,
    )


def tokenize(preparation: Preparation, share: Share) -> None:
    """Tokenize the documents of a share."""
    stage, corpus, _ = _open_tokenize_stage(preparation)
    count = len(corpus.batches)
    first, end = (count * number // share.count for number in (share.number, share.number + 1))
    stage.tokenize(range(first, end), num_workers=preparation.num_workers)


def assemble(preparation: Preparation) -> None:
    """Write the shards and every file next to them, and publish them all; batches not yet tokenized are tokenized."""
    directories, built = preparation.directories, preparation.directories.built
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir(parents=True)
    stage, corpus, tokenizer = _open_tokenize_stage(preparation)
    for name in TOKENIZER_NAMES:
        if (directories.train_tokenizer / name).exists():
            shutil.copyfile(directories.train_tokenizer / name, built / name)
    results = stage.write_shards(built, vocab_size=tokenizer.vocab_size, num_workers=preparation.num_workers)
    stats = build_stats(
        results,
        unknown_id=tokenizer.unknown_id,
        statistics={name: result.statistics for name, result in results.items()},
    )
    stats["validation_fraction"] = preparation.config.split.validation_fraction
    stats["tokenizer_sha256"] = tokenizer.sha256
    if preparation.task.evaluation_files:
        stats["evaluations"] = _load_evaluation_counts(preparation)
    write_json(built / "stats.json", stats)
    write_json(built / "ledger.json", ledger_to_dict(corpus.ledgers))
    write_manifests(results, preparation.description, built=built, tokenizer_sha256=tokenizer.sha256, stats=stats)
    num_bytes = sum(path.stat().st_size for path in built.iterdir())
    with preparation.progress.begin(Stage.ASSEMBLE, total=num_bytes, unit="bytes") as progress:
        timings_file = directories.read / TIMINGS_FILE
        record_files(preparation.output, preparation.description, on_bytes=progress.update)
    timings = sum_timings(timings_file)
    publish(preparation.output)
    write_report_best_effort(preparation.output, timings)


def share_files(files: list[InputFile], share: Share) -> list[InputFile]:
    """Select the files of a share: the largest come first, each goes to the share with the least bytes so far."""
    known = [file.bytes for file in files if file.bytes is not None]
    typical = sum(known) / len(known) if known else 1.0
    sizes = {file.index: typical if file.bytes is None else file.bytes for file in files}
    loads = [0.0] * share.count
    mine = []
    for file in sorted(files, key=lambda file: (-sizes[file.index], file.index)):
        least = loads.index(min(loads))
        loads[least] += 1 + sizes[file.index]
        if least == share.number:
            mine.append(file)
    return sorted(mine, key=lambda file: file.index)


def _open_tokenize_stage(preparation: Preparation) -> tuple[TokenizeStage, Corpus, Tokenizer]:
    directories, config = preparation.directories, preparation.config
    for directory in (directories.decide, directories.train_tokenizer):
        if not (directory / _FINISHED).exists():
            raise PreparationError(f"{directory}: an earlier stage is not finished. Rerun trireme prepare.")
    corpus = Corpus.load(directories.decide)
    path = find_tokenizer(directories.train_tokenizer)
    assert path is not None
    tokenizer = Tokenizer(path)
    settings = TokenizeSettings(
        tokenizer_path=tokenizer.path,
        dtype=token_dtype(tokenizer.vocab_size),
        min_characters=config.cleaning.min_characters,
        documents_directory=directories.read,
        directory=directories.tokenize,
        run_id=create_run_id(),
    )
    decisions = Decisions.load(directories.decide)
    return TokenizeStage(corpus, decisions, settings=settings, stages=preparation.progress), corpus, tokenizer


def _read_evaluations(preparation: Preparation) -> EvaluationTexts | None:
    """Read the evaluation texts, and keep their counts for `assemble`."""
    evaluations = read_evaluations(preparation.task.evaluation_files, preparation.config)
    if evaluations is not None:
        counts = {"num_texts": len(evaluations.origins), "num_short_texts": evaluations.num_short}
        write_json(preparation.directories.read / _EVALUATIONS_NAME, counts)
    return evaluations


def _load_evaluation_counts(preparation: Preparation) -> dict[str, Any]:
    path = preparation.directories.read / _EVALUATIONS_NAME
    counts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return counts


def _explain_nothing_kept(corpus: Corpus) -> str:
    total = sum_ledgers(corpus.ledgers)
    if len(corpus.hashes):
        return (
            f"All {len(corpus.hashes)} documents were held out for validation, so no training data is left. Lower"
            " data_prep.split.validation_fraction, or add documents."
        )
    reasons = (total.dropped + total.failed).most_common()
    counts = ", ".join(f"{reason} {count}" for reason, count in reasons)
    lines = [f"No document was kept ({format_number(total.read, 'record')} read): {counts or 'the input is empty'}"]
    for reason, _ in reasons[:MAX_EXPLAINED_REASONS]:
        found = ((file, each) for file in corpus.ledgers for each in file.counts.examples if each.reason == reason)
        if first := next(found, None):
            file, example = first
            lines.append(f"{reason}: {file.path}, record {example.record}: {example.detail or 'see the ledger'}")
        if reason in _ADVICE:
            lines.append(f"  {_ADVICE[reason]}")
    return "\n  ".join(lines)


def _mark_finished(directory: Path) -> None:
    """Mark a stage as finished once everything in its directory is durable."""
    for file in directory.iterdir():
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
    (directory / _FINISHED).touch()


def write_manifests(
    results: dict[str, SplitResult],
    description: dict[str, Any],
    *,
    built: Path,
    tokenizer_sha256: str,
    stats: dict[str, Any],
) -> None:
    """Write the manifest of each shard that has documents."""
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


def write_report_best_effort(output: Path, timings: list[StageTiming]) -> None:
    """Write the report; a failure is only a warning, since the shards are complete without it."""
    try:
        write_timings(output, timings)
        write_report(output)
    except (OSError, ConfigError) as error:
        logger.warning("warning: failed to write report.html: %s. Write it with: trireme data-report %s", error, output)
