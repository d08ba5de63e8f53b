"""The stages of a preparation: read, decide, tokenize, assemble; each resumes where an earlier run stopped."""

import errno
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from data_tools.dedup.corpus import Corpus
from data_tools.dedup.decide import Decision, Decisions, deduplicate_and_split
from data_tools.errors import PreparationError
from data_tools.filters.decontamination import EvaluationTexts, read_evaluations
from data_tools.inputs.files import InputFile
from data_tools.ledger import ledger_to_dict, sum_ledgers
from data_tools.output.publish import created_by, finish_work, write_json
from data_tools.output.stats import SplitResult, build_stats
from data_tools.report.page import write_report
from data_tools.stages.cache import name_run
from data_tools.stages.preparation import TIMINGS_FILE, Preparation, Share, Stage
from data_tools.stages.read import read_files
from data_tools.stages.read_state import join_files, load_states
from data_tools.stages.tokenize import TokenizeStage
from data_tools.stages.tokenize_worker import PackSettings
from data_tools.stages.train_tokenizer import SampledBatch, train_tokenizer
from data_tools.tokenizer.files import SENTENCEPIECE_NAME, TOKENIZER_NAMES, find_tokenizer, install_tokenizer
from data_tools.tokenizer.sample import choose_sample
from data_tools.work.progress import StageTiming, sum_timings, write_timings
from data_tools.work.spool import raise_file_limit
from trireme.errors import ConfigError
from trireme.shards.manifest import ShardManifest, write_manifest
from trireme.shards.shard import token_dtype
from trireme.tokenizer.tokenizer import Tokenizer

_FINISHED = "finished"
"""Name of the file that a stage of one process writes last."""
MAX_EXPLAINED_REASONS = 3
"""Of those for which nothing was kept."""
_ADVICE = {
    "json_text_missing": "name the key of the text: the source's text_field (content.text for one within an object)",
    "json_text_not_a_string": "name the key of a text: the source's text_field (content.text for one within an object)",
    "json_invalid": "kind jsonl reads one JSON object a line, or an array of objects",
    "parquet_column_missing": "name the column of the text: the source's text_field",
    "archive_without_records": "kind warc reads WARC, WET, ARC and WACZ; take kind text or jsonl for other files",
    "too_short": "lower data_prep.cleaning.min_characters",
    "language_unsure": "lower data_prep.language.min_score, or set data_prep.language.identify=false",
}
"""Reason -> what may keep such documents."""

logger = logging.getLogger(__name__)


def run_stage(stage: Stage, preparation: Preparation, share: Share) -> None:
    """Run a stage, or one share of it, to its end.

    Raises:
        PreparationError: it cannot go on; what it has done so far is there for the next run.
    """
    limit = raise_file_limit()
    try:
        match stage:
            case Stage.READ:
                read(preparation, share)
            case Stage.CHOOSE:
                choose_documents(preparation)
            case Stage.PACK:
                tokenize(preparation, share)
            case Stage.ASSEMBLE:
                assemble(preparation)
    except OSError as error:
        hint = ""
        if error.errno == errno.EMFILE:
            hint = f"; this process may open {limit} files: raise the limit (ulimit -Hn), or use fewer num_workers"
        place = error.filename or preparation.output
        raise PreparationError(f"{place}: {error.strerror or error}{hint}") from error


def read(preparation: Preparation, share: Share) -> None:
    """Take the documents out of the files of a share."""
    place, config = preparation.place, preparation.config
    if (place.choose / _FINISHED).exists():
        return
    files = share_files(preparation.task.files, share)
    states = load_states(files, place.read, file_keys=place.file_keys, is_strict=config.strict)
    if all(state.is_finished for state in states):
        return
    read_files(
        states,
        config=config,
        evaluations=_read_evaluations(preparation),
        directory=place.read,
        file_keys=place.file_keys,
        run=name_run(),
        num_workers=preparation.num_workers,
        stages=preparation.progress,
    )


def choose_documents(preparation: Preparation) -> None:
    """Decide about all documents, and train the tokenizer."""
    place, config = preparation.place, preparation.config
    if not (place.choose / _FINISHED).exists():
        states = load_states(preparation.task.files, place.read, file_keys=place.file_keys, is_strict=config.strict)
        if unread := [state.file.path for state in states if not state.is_finished]:
            more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
            raise PreparationError(f"{unread[0]}{more} was not read to its end; run the preparation again")
        collection = join_files(states)
        with preparation.progress.begin("choose", total=len(collection.hashes), unit="documents") as progress:
            choice = deduplicate_and_split(collection, config=config, directory=place.read)
            progress.update(len(collection.hashes))
        if not (choice.fates == Decision.TRAIN).any():
            raise PreparationError(_explain_nothing_kept(collection))
        collection.save(place.choose)
        choice.save(place.choose)
        _write_durably(place.choose / _FINISHED)
    if not (place.pack / _FINISHED).exists():
        _make_tokenizer(preparation)
        _write_durably(place.pack / _FINISHED)


def _make_tokenizer(preparation: Preparation) -> None:
    place, settings = preparation.place, preparation.config.tokenizer
    if settings.path is not None:
        install_tokenizer(settings.path, place.pack, eos_token=settings.eos_token)
        return
    collection, choice = Corpus.load(place.choose), Decisions.load(place.choose)
    is_sampled = choose_sample(
        choice.fates == Decision.TRAIN,
        collection.num_characters,
        collection.hashes,
        collection.language_codes,
        sample_characters=settings.sample_characters,
        exponent=settings.sampling_exponent,
    )
    lines = choice.repeated_lines
    texts = [
        SampledBatch(batch.place, is_sampled[batch.documents], None if lines is None else lines.of_batch(number))
        for number, batch in enumerate(collection.batches)
        if is_sampled[batch.documents].any()
    ]
    train_tokenizer(
        texts,
        config=settings,
        directory=place.read,
        target=place.pack / SENTENCEPIECE_NAME,
        stages=preparation.progress,
    )


def tokenize(preparation: Preparation, share: Share) -> None:
    """Tokenize the documents of a share."""
    packing, collection, _ = _open_packing(preparation)
    count = len(collection.batches)
    first, end = (count * number // share.count for number in (share.number, share.number + 1))
    packing.tokenize(range(first, end), num_workers=preparation.num_workers)


def assemble(preparation: Preparation) -> None:
    """Write the shards, tokenizing what is not yet, and everything that lies beside them; publish it all."""
    place, built = preparation.place, preparation.place.built
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir(parents=True)
    packing, collection, tokenizer = _open_packing(preparation)
    for name in TOKENIZER_NAMES:
        if (place.pack / name).exists():
            shutil.copyfile(place.pack / name, built / name)
    results = packing.write_shards(built, vocab_size=tokenizer.vocab_size, num_workers=preparation.num_workers)
    stats = build_stats(
        results,
        unknown_id=tokenizer.unknown_id,
        statistics={name: result.statistics for name, result in results.items()},
    )
    stats["validation_fraction"] = preparation.config.split.validation_fraction
    stats["tokenizer_sha256"] = tokenizer.sha256
    if (evaluations := _read_evaluations(preparation)) is not None:
        stats["evaluations"] = {"num_texts": len(evaluations.origins), "num_short_texts": evaluations.num_short}
    write_json(built / "stats.json", stats)
    write_json(built / "ledger.json", ledger_to_dict(collection.ledgers))
    write_manifests(results, preparation.description, built=built, tokenizer_sha256=tokenizer.sha256, stats=stats)
    timings = sum_timings(place.read / TIMINGS_FILE)
    finish_work(preparation.output, preparation.description)
    write_report_best_effort(preparation.output, timings)


def share_files(files: list[InputFile], share: Share) -> list[InputFile]:
    """The files of a share: the largest first, each to the share that has least so far."""
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


def _open_packing(preparation: Preparation) -> tuple[TokenizeStage, Corpus, Tokenizer]:
    place, config = preparation.place, preparation.config
    for directory in (place.choose, place.pack):
        if not (directory / _FINISHED).exists():
            raise PreparationError("the documents were not chosen yet; run the preparation again")
    collection = Corpus.load(place.choose)
    path = find_tokenizer(place.pack)
    assert path is not None
    tokenizer = Tokenizer(path)
    settings = PackSettings(
        tokenizer_path=tokenizer.path,
        dtype=token_dtype(tokenizer.vocab_size),
        min_characters=config.cleaning.min_characters,
        documents_directory=place.read,
        directory=place.pack,
        run=name_run(),
    )
    packing = TokenizeStage(collection, Decisions.load(place.choose), settings=settings, stages=preparation.progress)
    return packing, collection, tokenizer


def _read_evaluations(preparation: Preparation) -> EvaluationTexts | None:
    return read_evaluations(preparation.task.evaluation_files, preparation.config)


def _explain_nothing_kept(collection: Corpus) -> str:
    total = sum_ledgers(collection.ledgers)
    if len(collection.hashes):
        return (
            f"all {len(collection.hashes)} documents were held out for validation; lower"
            " data_prep.split.validation_fraction, or add documents"
        )
    reasons = (total.dropped + total.failed).most_common()
    counts = ", ".join(f"{reason} {count}" for reason, count in reasons)
    lines = [f"no document is left of {total.read} records read: {counts or 'the input is empty'}"]
    for reason, _ in reasons[:MAX_EXPLAINED_REASONS]:
        found = ((file, each) for file in collection.ledgers for each in file.counts.examples if each.reason == reason)
        if first := next(found, None):
            file, example = first
            lines.append(f"{reason}: {file.path}, record {example.record}: {example.detail or 'see the ledger'}")
        if reason in _ADVICE:
            lines.append(f"  {_ADVICE[reason]}")
    return "\n  ".join(lines)


def _write_durably(path: Path) -> None:
    """Make a mark behind everything that its directory holds."""
    for file in path.parent.iterdir():
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
    path.touch()


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
    """Draw what was prepared; shards without a picture are whole all the same."""
    try:
        write_timings(output, timings)
        write_report(output)
    except (OSError, ConfigError) as error:
        logger.warning(
            "warning: report.html could not be written: %s; try python -m data_tools.report %s", error, output
        )
