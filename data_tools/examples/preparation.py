"""Prepare examples: read and check all files, encode, pack into rows, verify the rows, and publish shards.

Files are read twice: first to find everything that is malformed, the names of classes and the range of numbers, before
any work is done; then to encode. All files are built in .PREFIX.preparing and then exchanged with those of a former
preparation (`data_tools.output.exchange`).
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.examples.columns import Columns
from data_tools.examples.encode import EncodedItem, EncodeSettings, Item, encode_all
from data_tools.examples.example import BadLine, FieldError, to_record
from data_tools.examples.packing import pack_best_fit
from data_tools.examples.padding import choose_padding
from data_tools.examples.question_spool import QuestionSpool, find_places
from data_tools.examples.read import find_columns
from data_tools.examples.report import Report, SplitReport, count_faults, describe_lengths
from data_tools.examples.spool import ExampleSpool
from data_tools.examples.survey import Preparation, check_labels, complete_settings, digest, read_known, survey
from data_tools.examples.write import SUFFIXES, RowWriter, build_rows
from data_tools.output.exchange import BUILT_NAME, finish_exchange, is_decided, list_exchange
from data_tools.tokenizer.files import find_tokenizer, install_tokenizer
from data_tools.work.progress import StageProgress
from trireme.cores import count_cores
from trireme.errors import EXIT_STOPPED, ConfigError, RunStopped, Violation, raise_if_any
from trireme.examples.document import REASONS, ExampleRefusal
from trireme.examples.frame import Frame
from trireme.examples.rows import CHECKS, RowFault
from trireme.progress import format_number
from trireme.shards.examples import (
    NO_LABEL,
    ExamplesRecord,
    TextSettings,
    record_settings,
)
from trireme.shards.manifest import MANIFEST_SUFFIX, ShardManifest, hash_file, write_manifest
from trireme.shards.questions import QUESTIONS_SUFFIX
from trireme.shards.shard import shard_file
from trireme.tokenizer.tokenizer import Tokenizer

VALIDATION_SUFFIX = ".validation"
REPORT_SUFFIX = ".report.json"
REJECTED_SUFFIX = ".rejected.jsonl"
MIN_PARALLEL_EXAMPLES = 4096
"""Fewer are encoded by this process: starting others takes longer."""
MAX_WORKERS = 8
_LOGGER = logging.getLogger(__name__)
_WARNING_CHECKS = ("targets_spell_the_answer",)
"""Checks that a template or tokenizer may fail which changes texts; a failure is reported and does not stop."""


def prepare_examples(preparation: Preparation) -> Report:
    """Prepare examples, and publish all files of them or none.

    Raises:
        ConfigError: files are malformed (unless `skip_invalid`), the output exists, or no example is left.
        RunStopped: rows failed a check: a defect of this program.
    """
    _finish_former(preparation.output)
    raise_if_any(_check_output(preparation))
    contents = survey(preparation)
    raise_if_any([*contents.bad, *check_labels(contents, preparation)])
    encoding = complete_settings(preparation.encoding, contents)
    report = Report(task=encoding.task, seq_length=encoding.seq_length, num_duplicates=contents.num_duplicates)
    output = preparation.output
    output.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        work = stack.enter_context(_work_directory(output))
        (work / BUILT_NAME).mkdir()
        spools = {name: _new_spool(work, name) for name in ("train", "validation")}
        rejected = work / "rejected.jsonl"
        total = contents.num_examples + contents.num_bad
        asks = encoding.task == "qa"
        questions = {name: QuestionSpool(work / f"{name}.questions") for name in spools if asks}
        label_counts = _encode(
            preparation, encoding, report, spools=spools, questions=questions, rejected=rejected, total=total
        )
        _check_spools(preparation, report, spools)
        tokenizer = Tokenizer(encoding.tokenizer)
        ends = _find_end_tokens(spools, tokenizer) if encoding.task in ("sft", "dpo") else frozenset()
        padding = choose_padding(tokenizer, end_tokens=ends)
        report.padding = padding.reason
        columns = _columns_of_files(preparation)
        report.notes = [*_describe_method(encoding, tokenizer), *_describe_columns(columns)]
        filled = {name: spool for name, spool in spools.items() if spool.num_units}
        writers: list[tuple[Path, ExamplesRecord, RowWriter]] = []
        texts = _describe_texts(preparation, encoding, columns_of_files=columns)
        for name, spool in filled.items():
            record = _record_of(encoding, pad_token_id=padding.token, num_examples=spool.num_units, texts=texts)
            prefix = output if name == "train" else shard_file(output, VALIDATION_SUFFIX)
            built = work / BUILT_NAME / prefix.name
            writer = stack.enter_context(
                RowWriter(built, record=record, tokenizer=tokenizer, has_token_types=spool.has_token_types)
            )
            packed = _pack(preparation, spool)
            report.splits[name] = _write_split(preparation, spool, writer, packed=packed, prefix=prefix, record=record)
            if name in questions:
                places = find_places(packed, lengths=spool.unit_lengths.tolist())
                questions[name].write(shard_file(built, QUESTIONS_SUFFIX), places=places)
            report.splits[name].label_counts = _name_counts(label_counts[name], encoding)
            writers.append((built, record, writer))
        if find_tokenizer(output.parent) is None:
            install_tokenizer(encoding.tokenizer, work / BUILT_NAME)
        settings = _describe_settings(preparation, encoding)
        for built, record, writer in writers:
            _complete(built, record, writer, tokenizer=tokenizer, settings=settings)
        text = json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n"
        shard_file(work / BUILT_NAME / output.name, REPORT_SUFFIX).write_text(text, encoding="utf-8")
        rejected.replace(shard_file(work / BUILT_NAME / output.name, REJECTED_SUFFIX))
        _exchange(work, output)
    return report


def _exchange(work: Path, output: Path) -> None:
    """Replace all files of a former preparation by the built ones; a reader never sees some of each as complete."""
    prefixes = (output, shard_file(output, VALIDATION_SUFFIX))
    former = [shard_file(prefix.name, suffix).name for suffix in reversed(SUFFIXES) for prefix in prefixes]
    built = {path.name for path in (work / BUILT_NAME).iterdir()}
    list_exchange(work, remove=former, publish=sorted(built, key=lambda name: (name.endswith(MANIFEST_SUFFIX), name)))
    finish_exchange(work, output.parent)


def _finish_former(output: Path) -> None:
    """Finish a preparation of this prefix that was stopped after all of its files were complete."""
    if is_decided(_work_path(output)):
        with _work_directory(output):
            _LOGGER.info("%s: the exchange of a former preparation's files was finished.", output)


def _work_path(output: Path) -> Path:
    return output.with_name(f".{output.name}.preparing")


@contextmanager
def _work_directory(output: Path) -> Iterator[Path]:
    """Hold an empty directory for temporary files, which no other preparation of this prefix uses.

    A killed command leaves it without the lock; what it had decided to publish is published first.

    Raises:
        ConfigError: another command is preparing this prefix.
    """
    work = _work_path(output)
    while True:
        work.mkdir(exist_ok=True)
        descriptor = os.open(work, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            message, fix = "another command is preparing it", "Wait for it to finish, or choose another prefix."
            raise ConfigError([Violation(path="--output", value=output, message=message, fix=fix)]) from None
        # The former owner may have removed it before the lock was free.
        if work.exists() and os.path.samestat(os.fstat(descriptor), work.stat()):
            break
        os.close(descriptor)
    try:
        if is_decided(work):
            finish_exchange(work, output.parent)
        for entry in work.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        yield work
    finally:
        if not is_decided(work):  # else the next start goes on
            shutil.rmtree(work, ignore_errors=True)
        os.close(descriptor)


def _check_output(preparation: Preparation) -> Iterator[Violation]:
    output = preparation.output
    prefixes = (output, shard_file(output, VALIDATION_SUFFIX))
    taken = [str(path) for prefix in prefixes for suffix in SUFFIXES if (path := shard_file(prefix, suffix)).exists()]
    if taken and not preparation.overwrite:
        fix = "Choose another prefix, or replace it with --overwrite."
        yield Violation(path="--output", value=output, message=f"{taken[0]} already exists", fix=fix)
    beside = find_tokenizer(output.parent)
    if beside is not None and hash_file(beside) != hash_file(preparation.encoding.tokenizer):
        message = f"another tokenizer is in the directory: {beside}"
        fix = "Choose another directory: the tokenizer is kept beside the shards that it made."
        yield Violation(path="--output", value=output, message=message, fix=fix)


def _new_spool(work: Path, name: str) -> ExampleSpool:
    (work / name).mkdir()
    return ExampleSpool(work / name)


def _encode(
    preparation: Preparation,
    encoding: EncodeSettings,
    report: Report,
    *,
    spools: dict[str, ExampleSpool],
    questions: dict[str, QuestionSpool],
    rejected: Path,
    total: int,
) -> dict[str, Counter[int]]:
    """Encode all examples into the spools; return the number of each label, by split."""
    num_workers = preparation.num_workers
    if num_workers is None:
        num_workers = 1 if total < MIN_PARALLEL_EXAMPLES else min(count_cores(), MAX_WORKERS)
    counts: dict[str, Counter[int]] = {name: Counter() for name in spools}
    items = _list_items(preparation)
    progress = StageProgress("encode", total=total, unit="examples", mode=preparation.mode)
    with progress, rejected.open("w", encoding="utf-8") as stream:
        for item in encode_all(items, encoding, num_workers=num_workers):
            report.num_read += 1
            name = "validation" if item.is_validation else "train"
            if item.refusal is not None:
                stream.write(json.dumps(_note_refusal(item, item.refusal, report), ensure_ascii=False) + "\n")
            for unit in item.units:
                spools[name].add(unit)
                if encoding.task in ("classify", "tag", "qa"):
                    counts[name].update(_count_labels(unit[0].labels, encoding))
            if item.question is not None:
                questions[name].add(item.question, item.units)
            progress.update(report.num_read)
    for spool in spools.values():
        spool.finish()
    for asked in questions.values():
        asked.finish()
    return counts


def _list_items(preparation: Preparation) -> Iterator[Item]:
    given = set(preparation.encoding.labels)
    firsts: dict[bytes, str] = {}
    """Contents of the examples so far -> place of the first one."""
    sources = [(path, False) for path in preparation.inputs] + [(path, True) for path in preparation.validation]
    for path, is_validation in sources:
        for found in read_known(path, preparation, given):
            if isinstance(found, BadLine):
                yield Item(str(path), found.line, is_validation, found)
            else:
                line, example = found
                is_held_out = is_validation or _draw(example.key, seed=preparation.seed) < preparation.validation_share
                place = f"{path}, line {line}"
                content = digest(to_record(example)) if preparation.drop_duplicates else None
                if content is not None and content in firsts:
                    yield Item(str(path), line, is_held_out, ExampleRefusal("duplicate", f"equal to {firsts[content]}"))
                    continue
                if content is not None:
                    firsts[content] = place
                yield Item(str(path), line, is_held_out, example)


def _draw(key: Any, *, seed: int) -> float:
    """Return a number in [0, 1) that depends on the key and the seed alone."""
    return int.from_bytes(digest([seed, key]), "big") / 2**64


def _note_refusal(item: EncodedItem, refusal: ExampleRefusal, report: Report) -> dict[str, Any]:
    reason = refusal.reason
    report.rejected[reason] = report.rejected.get(reason, 0) + 1
    entry = {"file": item.file, "line": item.line, "reason": reason, "detail": refusal.detail}
    if report.rejected[reason] <= 10:
        report.first_rejected.append(entry)
    return {**entry, "message": REASONS[reason]}


def _count_labels(labels: np.ndarray, encoding: EncodeSettings) -> list[int]:
    found = labels[labels != NO_LABEL].tolist()
    if encoding.task == "qa":
        return [int(found[1] > 0)]
    if encoding.target_kind == "multi":
        return [number for number in range(len(encoding.labels)) if found[0] >> number & 1]
    return [] if encoding.target_kind == "value" else found


def _name_counts(counts: Counter[int], encoding: EncodeSettings) -> dict[str, int]:
    if encoding.task == "qa":
        return {"answer": counts[1], "no answer": counts[0]}
    return {name: counts[number] for number, name in enumerate(encoding.labels)}


def _check_spools(preparation: Preparation, report: Report, spools: dict[str, ExampleSpool]) -> None:
    if spools["train"].num_units:
        return
    if spools["validation"].num_units:
        message = f"every example that can be used is held out ({spools['validation'].num_units}), none is for training"
        fix = "Lower --validation-share, or give more examples."
        raise ConfigError([Violation(path="--input", value=preparation.inputs[0], message=message, fix=fix)])
    found = ", ".join(f"{reason} {number}" for reason, number in report.rejected.items())
    first = "; ".join(f"{e['file']}, line {e['line']}: {e['detail']}" for e in report.first_rejected[:3])
    message = f"no example is left to train on{f': {found} ({first})' if found else ''}"
    fix = "Change --seq-length or --truncate, or correct the files."
    raise ConfigError([Violation(path="--input", value=preparation.inputs[0], message=message, fix=fix)])


def _find_end_tokens(spools: dict[str, ExampleSpool], tokenizer: Tokenizer) -> frozenset[int]:
    """Return the special tokens that are targets."""
    specials = np.array(sorted(tokenizer.special_tokens.values()), np.int64)
    found = [np.intersect1d(chunk, specials) for spool in spools.values() for chunk in spool.label_chunks()]
    return frozenset(int(token) for tokens in found for token in tokens)


def _describe_method(encoding: EncodeSettings, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield what a reader of the report should know about the tokens."""
    if encoding.task in ("sft", "dpo"):
        if tokenizer.eos_id is None:
            yield "the tokenizer has no eos_token: a completion ends with its last word"
        return
    frame = Frame(tokenizer, num_texts=2 if encoding.task == "qa" else 1)
    yield f"each text has {format_number(frame.num_special, 'special token')} around it" + (
        f"; {tokenizer.token_name(tokenizer.eos_id)} is added at the end, as the tokenizer adds nothing there"
        if frame.adds_eos and tokenizer.eos_id is not None
        else ""
    )


def _columns_of_files(preparation: Preparation) -> dict[Path, Columns]:
    """Return the columns of each file that has them; the others are skipped."""
    found: dict[Path, Columns] = {}
    for path in preparation.inputs:
        with suppress(FieldError):
            found[path] = find_columns(path, preparation.reading)
    return found


def _describe_columns(columns: Mapping[Path, Columns]) -> Iterator[str]:
    """Yield which files hold single texts where the first holds pairs, or pairs where it holds single texts."""
    first = next(iter(columns), None)
    for path, others in columns.items():
        if first is None or (others.second is None) == (columns[first].second is None):
            continue
        kinds = [f"pairs (column {one.second})" if one.second else "single texts" for one in (others, columns[first])]
        yield f"{path} holds {kinds[0]}, and {first} {kinds[1]}, which predictions will expect"


def _describe_texts(
    preparation: Preparation, encoding: EncodeSettings, *, columns_of_files: Mapping[Path, Columns]
) -> TextSettings:
    """Describe how texts became tokens; columns are those of the first file that has them."""
    columns = next(iter(columns_of_files.values()), preparation.reading.columns)
    is_table, is_text = encoding.task in ("classify", "tag"), encoding.task == "classify"
    return TextSettings(
        truncation=encoding.truncation,
        stride=encoding.stride if encoding.task == "qa" else None,
        text_column=columns.text if is_table else None,
        second_column=columns.second if is_text else None,
        label_column=columns.label if is_table else None,
        label_separator=columns.separator,
        chat_template=encoding.chat_template,
    )


def _record_of(
    encoding: EncodeSettings, *, pad_token_id: int, num_examples: int, texts: TextSettings
) -> ExamplesRecord:
    return ExamplesRecord(
        task=encoding.task,
        seq_length=encoding.seq_length,
        pad_token_id=pad_token_id,
        num_examples=num_examples,
        labels=encoding.labels,
        target_kind=encoding.target_kind,
        value_range=encoding.value_range,
        texts=texts,
    )


def _pack(preparation: Preparation, spool: ExampleSpool) -> Sequence[Sequence[int]]:
    """Return the units of each row."""
    if not preparation.pack:
        return [[number] for number in range(spool.num_units)]
    return pack_best_fit(spool.unit_lengths, seq_length=preparation.encoding.seq_length)


def _write_split(
    preparation: Preparation,
    spool: ExampleSpool,
    writer: RowWriter,
    *,
    packed: Sequence[Sequence[int]],
    prefix: Path,
    record: ExamplesRecord,
) -> SplitReport:
    lengths, seq_length = spool.unit_lengths, record.seq_length
    faults: list[RowFault] = []
    with StageProgress("write", total=len(packed), unit="rows", mode=preparation.mode) as progress:
        for rows in build_rows(spool, packed, seq_length=seq_length, pad_token_id=record.pad_token_id):
            faults += writer.add(rows)
            progress.update(writer.num_rows)
    fatal = [fault for fault in faults if fault.check not in _WARNING_CHECKS]
    if fatal:
        shown = "\n".join(f"  {fault}" for fault in fatal[:10])
        named = ", ".join(f"{check} ({CHECKS[check]})" for check in dict.fromkeys(fault.check for fault in fatal))
        message = f"{len(fatal)} faults in the rows; nothing was written. Failed checks: {named}\n{shown}"
        raise RunStopped(message, exit_code=EXIT_STOPPED)
    num_tokens = int(lengths.sum())
    num_targets = int(spool.count_targets().sum())
    return SplitReport(
        prefix=str(prefix),
        num_examples=spool.num_units,
        num_truncated=spool.num_truncated,
        num_rows=len(packed),
        num_tokens=num_tokens,
        packing_efficiency=num_tokens / (len(packed) * seq_length),
        packing_gain=spool.num_units / len(packed),
        num_targets=num_targets,
        target_share=num_targets / num_tokens,
        length_percentiles=describe_lengths(spool.document_lengths),
        longest=int(spool.document_lengths.max()),
        mean_answer_tokens=_mean_answer_tokens(spool) if record.task == "dpo" else {},
        num_compared_answers=spool.num_kept_texts,
        faults=count_faults(faults),
        first_faults=[str(fault) for fault in faults[:5]],
    )


def _mean_answer_tokens(spool: ExampleSpool) -> dict[str, float]:
    """Return the mean number of targets of chosen and rejected answers; they are in turn."""
    counts = spool.count_targets()
    return {"chosen": float(counts[::2].mean()), "rejected": float(counts[1::2].mean())}


def _describe_settings(preparation: Preparation, encoding: EncodeSettings) -> dict[str, Any]:
    """Describe what determined the rows, for the manifest."""
    template = encoding.chat_template
    files = (*preparation.inputs, *preparation.validation)
    return {
        "inputs": [{"path": str(path), "sha256": hash_file(path)} for path in files],
        "format": preparation.reading.format,
        "truncation": encoding.truncation,
        "pack": preparation.pack,
        "validation_share": preparation.validation_share,
        "seed": preparation.seed,
        "drop_duplicates": preparation.drop_duplicates,
        "only_last": encoding.only_last,
        "stride": encoding.stride,
        "chat_template_sha256": None if template is None else hashlib.sha256(template.encode()).hexdigest(),
    }


def _complete(
    prefix: Path, record: ExamplesRecord, writer: RowWriter, *, tokenizer: Tokenizer, settings: dict[str, Any]
) -> None:
    """Write the index and the manifest of a built shard."""
    files = writer.commit()
    questions = shard_file(prefix, QUESTIONS_SUFFIX)
    if questions.exists():
        files[QUESTIONS_SUFFIX] = {"bytes": questions.stat().st_size, "sha256": hash_file(questions)}
    manifest = ShardManifest(
        num_documents=writer.num_rows,
        num_tokens=writer.num_tokens,
        dtype=writer.dtype.name,
        files=files,
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        settings={**record_settings(record), "prepare_examples": settings},
        created_by=f"data_tools.prepare_examples {metadata.version('trireme')}",
    )
    write_manifest(prefix, manifest)
