"""Predict classes, numbers, tags or answers with a fine-tuned model, and score them where labels are there.

    trireme predict outputs/reviews --input reviews.csv --output predictions.jsonl
    trireme predict outputs/names --input sentences.jsonl --output tagged.jsonl
    trireme predict outputs/answers --input dev-v2.0.json --output answers.jsonl
    torchrun --nproc-per-node 2 -m trainer.predict PATH --tensor-model-parallel-size 2 --input ... --output ...

PATH is a run directory, whose latest valid checkpoint is loaded, an import, or a checkpoint, of any parallel layout, of
a model with a head for classification, token classification or question answering. --input is JSON lines, a JSON
array, CSV, TSV or Parquet, for tags also CoNLL, for questions also SQuAD's JSON. A line of --output has all fields of
its record, "prediction", and the probabilities; a record that cannot be encoded has a null prediction and "error". The
last line on stdout is a summary in JSON, with scores if the records have labels. Exit codes: 0 done, 1 the output
cannot be written, 2 invalid input, 130 interrupted.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.inference.command import run_on_ranks
from trainer.inference.files import check_output, open_output, show_progress
from trainer.inference.options import add_model_options, check_model_options, model_options
from trireme.command import allow_any_text, write_output
from trireme.errors import EXIT_OK, ConfigError, Violation, raise_if_any
from trireme.processes import global_rank
from trireme.strict_json import to_json

if TYPE_CHECKING:
    from trainer.inference.predict_file import Predictions


def main() -> int:
    """Run the command."""
    allow_any_text()
    return run_on_ranks(lambda: run(_parse()))


def run(arguments: argparse.Namespace) -> int:
    """Load the latest valid checkpoint and predict all records.

    Raises:
        ConfigError: the arguments, the input, the checkpoint or the tokenizer are invalid.
        RunStopped: the output cannot be written.
    """
    raise_if_any(_check(arguments))
    # Late: arguments are checked first, and the shim must be installed before Megatron-Core is imported.
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see above

    cpu_shim.install()
    from trainer.huggingface.record import read_record  # noqa: PLC0415 - see above
    from trainer.inference.batch_model import load_batch_model, open_for_batches  # noqa: PLC0415 - see above
    from trainer.inference.predict_file import build_predictor, find_task, predict_all  # noqa: PLC0415 - see above
    from trainer.inference.prediction_input import Given, read_records  # noqa: PLC0415 - see above
    from trainer.parallel.world import stop_world  # noqa: PLC0415 - see above

    options = model_options(arguments)
    saved, tokenizer = open_for_batches(options)
    imported = read_record(saved.checkpoint)
    origin: dict[str, Any] = (
        {} if imported is None else {"labels": imported.labels, "problem_type": imported.problem_type}
    )
    task = find_task(saved, **origin)
    records: list[Mapping[str, Any]] = []
    fields = predictor = None
    if global_rank() == 0:
        given = Given(text=arguments.text_column, second=arguments.pair_column, label=arguments.label_column)
        try:
            records, fields = read_records(arguments.input.expanduser(), task, given)
        except OSError as error:
            message, fix = f"cannot be read: {error.strerror}", "Give a file that can be read."
            raise ConfigError([Violation(path="--input", value=arguments.input, message=message, fix=fix)]) from error
        predictor = build_predictor(saved, tokenizer, task=task, fields=fields, truncation=arguments.truncate)
    loaded = load_batch_model(options, saved=saved, tokenizer=tokenizer, purpose="predict")
    with show_progress("Predict", len(records), unit="records", is_shown=bool(records)) as show:
        predictions = predict_all(loaded.model, records, predictor, show=show)
    stop_world()
    if not loaded.model.is_driver:
        return EXIT_OK
    assert fields is not None
    _write(records, predictions, output=arguments.output)
    from trainer.inference.predict_file import score_all  # noqa: PLC0415 - see above

    summary = {
        "checkpoint": str(saved.checkpoint),
        "task": task.task,
        "num_records": len(records),
        "num_refused": sum(one is None for one in predictions.found),
        **score_all(records, predictions, task=task, fields=fields),
    }
    write_output(to_json(summary) + "\n")
    return EXIT_OK


def _write(records: Sequence[Mapping[str, Any]], predictions: "Predictions", *, output: Path) -> None:
    with open_output(output) as write:
        for record, found, error in zip(records, predictions.found, predictions.errors, strict=True):
            result = {"prediction": None, "error": error} if found is None else found.fields
            # A Parquet file may have dates and bytes.
            write(to_json({**record, **result}, default=str) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trireme predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser, max_batch_size=16, batch="texts that are read at once")
    group = parser.add_argument_group("records")
    group.add_argument("--input", type=Path, required=True, metavar="FILE", help="records to predict")
    group.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON lines of the predictions")
    group.add_argument(
        "--text-column",
        metavar="NAME",
        help="field with the text, the words or the question (default of fields: those of the examples that the model"
        " was fine-tuned on, or a usual name)",
    )
    group.add_argument("--pair-column", metavar="NAME", help="field with a second text, or with that which answers")
    group.add_argument("--label-column", metavar="NAME", help="field with the label, if there is one")
    group.add_argument(
        "--truncate",
        choices=("right", "left"),
        help="side on which long texts are cut (default: as in the examples that the model was fine-tuned on, else"
        " right)",
    )
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> list[Violation]:
    """Return the errors of all arguments."""
    found = check_model_options(arguments) + check_output(arguments.output)
    if not arguments.input.expanduser().is_file():
        fix = "Give a file of records."
        found.append(Violation(path="--input", value=arguments.input, message="is not a file", fix=fix))
    return found


if __name__ == "__main__":
    sys.exit(main())
