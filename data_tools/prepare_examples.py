"""Prepare examples for fine-tuning: rows of one length with a label beside each token.

    trireme prepare-examples --task sft --input chats.jsonl --checkpoint outputs/smollm2 --seq-length 1024 \\
        --output data/chats --validation-share 0.05
    trireme prepare-examples --task classify --input reviews.csv --checkpoint outputs/minilm --seq-length 256 \\
        --output data/reviews

Tasks and their files, which are recognized by content:
  sft       conversations (OpenAI's messages, ShareGPT, Alpaca), or prompt and completion: JSON lines or array, Parquet
  classify  a column of texts, or two, and one of labels: CSV, TSV, JSON lines, Parquet
  tag       CoNLL columns with BIO tags, or JSON lines with tokens and tags
  qa        SQuAD 1.1 or 2.0 (JSON)
  dpo       prompt, chosen and rejected, as texts or messages: JSON lines, JSON array, Parquet

Written are PREFIX.bin, .idx, .labels.bin, .labels.idx and .manifest.json, the same for PREFIX.validation,
PREFIX.report.json, PREFIX.rejected.jsonl with each rejected example's file, line and reason, and the tokenizer. Show a
row with `trireme inspect PREFIX --example N`. Exit codes: 0 done, 1 failed, 2 invalid input, 130 interrupted,
143 terminated.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from data_tools.examples.columns import Columns
from data_tools.examples.encode import EncodeSettings
from data_tools.examples.preparation import prepare_examples
from data_tools.examples.read import AUTO, FORMATS, ReadOptions
from data_tools.examples.report import format_report
from data_tools.examples.survey import Preparation
from trireme.command import run_command
from trireme.errors import EXIT_OK, EXIT_STOPPED, ConfigError, RunStopped, Violation, raise_if_any
from trireme.examples.document import Truncation
from trireme.examples.questions import default_stride
from trireme.stop_signals import unwinding_on_signals
from trireme.tokenizer.chat_template import ChatTemplate, TemplateRefusal
from trireme.tokenizer.model_files import find_model_directory, find_tokenizer_file, read_chat_template
from trireme.tokenizer.tokenizer import Tokenizer

DEFAULT_TRUNCATION: dict[str, Truncation] = {
    "sft": "drop",
    "classify": "right",
    "tag": "right",
    "qa": "drop",
    "dpo": "drop",
}
MIN_SEQ_LENGTH = 8


def main() -> int:
    """Run the command."""
    return run_command(lambda: run(_parse()))


def run(arguments: argparse.Namespace) -> int:
    """Prepare the examples and print the report.

    Raises:
        ConfigError: the arguments or files are invalid.
        RunStopped: the output cannot be written.
    """
    raise_if_any(_check(arguments))
    tokenizer, chat_template = _find_model(arguments)
    task = arguments.task
    preparation = Preparation(
        inputs=tuple(arguments.input),
        output=arguments.output,
        validation=tuple(arguments.validation or ()),
        validation_share=arguments.validation_share,
        reading=ReadOptions(
            task=task,
            format=arguments.format,
            has_template=chat_template is not None,
            columns=Columns(
                text=arguments.text_column,
                second=arguments.pair_column,
                label=arguments.label_column,
                kind=arguments.target,
                separator=arguments.label_separator,
            ),
        ),
        encoding=EncodeSettings(
            task=task,
            seq_length=arguments.seq_length,
            truncation=_truncation_of(arguments),
            tokenizer=tokenizer,
            chat_template=chat_template if task in ("sft", "dpo") else None,
            only_last=arguments.only_last_answer,
            labels=tuple(arguments.labels or ()),
            target_kind=arguments.target,
            stride=arguments.stride if arguments.stride is not None else default_stride(arguments.seq_length),
        ),
        pack=arguments.pack,
        skip_invalid=arguments.skip_invalid,
        drop_duplicates=arguments.drop_duplicates,
        overwrite=arguments.overwrite,
        num_workers=arguments.num_workers,
        seed=arguments.seed,
        mode="auto",
    )
    try:
        with unwinding_on_signals():
            report = prepare_examples(preparation)
    except OSError as error:
        message = f"{error.filename or arguments.output}: cannot be written: {error.strerror or error}."
        raise RunStopped(f"{message} Free disk space, or write elsewhere.", exit_code=EXIT_STOPPED) from error
    print("\n".join(format_report(report)))
    return EXIT_OK


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trireme prepare-examples", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", required=True, choices=list(FORMATS), help="what the model learns")
    parser.add_argument("--input", required=True, nargs="+", type=Path, metavar="FILE", help="files with examples")
    parser.add_argument("--output", required=True, type=Path, metavar="PREFIX", help="path of the shard, without .bin")
    parser.add_argument("--seq-length", required=True, type=int, metavar="N", help="tokens of a row")
    model = parser.add_argument_group("model")
    chosen = model.add_mutually_exclusive_group(required=True)
    chosen.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="import or run whose tokenizer and chat template are used"
    )
    chosen.add_argument("--tokenizer", type=Path, metavar="PATH", help="tokenizer.json, .model, or their directory")
    model.add_argument(
        "--chat-template", type=Path, metavar="FILE", help="Jinja template (default: that beside the tokenizer)"
    )
    files = parser.add_argument_group("files")
    formats = [name for names in FORMATS.values() for name in names]
    files.add_argument("--format", default=AUTO, choices=[AUTO, *formats], help="format (default: by content)")
    files.add_argument("--text-column", metavar="NAME", help="column of the text (classify, tag)")
    files.add_argument("--pair-column", metavar="NAME", help="column of a second text (classify)")
    files.add_argument("--label-column", metavar="NAME", help="column of the label (classify, tag)")
    files.add_argument(
        "--target",
        default="single",
        choices=["single", "multi", "value"],
        help="one class (default), several classes, or a number (classify)",
    )
    files.add_argument("--labels", nargs="+", metavar="NAME", help="classes in order (default: those found, sorted)")
    files.add_argument(
        "--label-separator", default=",", metavar="TEXT", help="between classes of --target multi (default: comma)"
    )
    files.add_argument("--skip-invalid", action="store_true", help="count malformed lines instead of refusing the file")
    files.add_argument("--drop-duplicates", action="store_true", help="keep the first of equal examples only")
    rows = parser.add_argument_group("rows")
    rows.add_argument(
        "--pack", action=argparse.BooleanOptionalAction, default=True, help="several examples a row (default), or one"
    )
    rows.add_argument(
        "--truncate",
        choices=["left", "right", "drop"],
        help="what happens to an example longer than a row: its beginning or its end is cut, or it is dropped"
        " (default: right for classify and tag, drop for sft and dpo; qa makes windows)",
    )
    rows.add_argument("--stride", type=int, metavar="N", help="tokens that two windows share (qa; default: up to 128)")
    rows.add_argument(
        "--only-last-answer", action="store_true", help="learn only the last answer of a conversation (sft)"
    )
    held_out = parser.add_argument_group("validation")
    either = held_out.add_mutually_exclusive_group()
    either.add_argument("--validation-share", type=float, default=0.0, metavar="X", help="share that is held out")
    either.add_argument("--validation", nargs="+", type=Path, metavar="FILE", help="files that are held out")
    held_out.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice (default: 0)")
    parser.add_argument("--num-workers", type=int, metavar="N", help="processes (default: by the number of examples)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing shard")
    return parser.parse_args()


def _truncation_of(arguments: argparse.Namespace) -> Truncation:
    given: Truncation | None = arguments.truncate
    return given or DEFAULT_TRUNCATION[arguments.task]


def _check(arguments: argparse.Namespace) -> Iterator[Violation]:
    allowed = FORMATS[arguments.task]
    if arguments.format not in (AUTO, *allowed):
        fix = f"Use {', '.join((AUTO, *allowed))}."
        message = f"is no format of task {arguments.task}"
        yield Violation(path="--format", value=arguments.format, message=message, fix=fix)
    if arguments.seq_length < MIN_SEQ_LENGTH:
        fix = "Use the length of the rows that the model is trained with."
        message = f"must be at least {MIN_SEQ_LENGTH}"
        yield Violation(path="--seq-length", value=arguments.seq_length, message=message, fix=fix)
    if not 0 <= arguments.validation_share < 1:
        fix = "Use a share such as 0.05."
        message = "must be at least 0 and less than 1"
        yield Violation(path="--validation-share", value=arguments.validation_share, message=message, fix=fix)
    if arguments.stride is not None and not 0 <= arguments.stride < arguments.seq_length:
        fix = "Use about a third of --seq-length."
        yield Violation(path="--stride", value=arguments.stride, message="must be less than a row", fix=fix)
    if arguments.num_workers is not None and arguments.num_workers < 1:
        yield Violation(path="--num-workers", value=arguments.num_workers, message="must be at least 1", fix="Use 1.")
    if arguments.task == "qa" and arguments.truncate is not None:
        fix = "Leave it out: long texts are cut into windows."
        yield Violation(path="--truncate", value=arguments.truncate, message="has no effect for task qa", fix=fix)
    if len(set(arguments.labels or ())) != len(arguments.labels or ()):
        yield Violation(path="--labels", value="", message="names a class twice", fix="Name each class once.")
    yield from _check_paths(arguments)


def _check_paths(arguments: argparse.Namespace) -> Iterator[Violation]:
    named = {"--input": arguments.input, "--validation": arguments.validation or []}
    for option, paths in named.items():
        for path in paths:
            if not path.is_file():
                message = "must be a file, not a directory" if path.is_dir() else "no such file"
                yield Violation(path=option, value=path, message=message, fix="Name files with examples.")
    if arguments.chat_template is not None and not arguments.chat_template.is_file():
        fix = "Name a file with a Jinja template."
        yield Violation(path="--chat-template", value=arguments.chat_template, message="no such file", fix=fix)


def _find_model(arguments: argparse.Namespace) -> tuple[Path, str | None]:
    """Return the tokenizer's file and the chat template, checked.

    Raises:
        ConfigError: there is no tokenizer, or one of them is invalid.
    """
    option = "--checkpoint" if arguments.checkpoint is not None else "--tokenizer"
    path = (arguments.checkpoint or arguments.tokenizer).expanduser()
    if path.is_file():
        file, directory = path, path.parent
    else:
        found = find_model_directory(path)
        file_found = None if found is None else find_tokenizer_file(found)
        if found is None or file_found is None:
            fix = "Name an import, a run whose checkpoints hold a tokenizer, or a tokenizer.json or .model file."
            raise ConfigError([Violation(path=option, value=path, message="there is no tokenizer", fix=fix)])
        file, directory = file_found, found
    try:
        tokenizer = Tokenizer(file)
    except ConfigError as error:
        message = error.violations[0].message
        fix = error.violations[0].fix
        raise ConfigError([Violation(path=option, value=file, message=message, fix=fix)]) from error
    given = arguments.chat_template
    template = read_chat_template(directory) if given is None else given.read_text(encoding="utf-8")
    if template is not None:
        try:
            ChatTemplate(template, tokenizer=tokenizer)
        except TemplateRefusal as error:
            place = "--chat-template" if given is not None else option
            fix = "Set --chat-template to a valid template."
            raise ConfigError([Violation(path=place, value="", message=str(error), fix=fix)]) from error
    return file, template


if __name__ == "__main__":
    sys.exit(main())
