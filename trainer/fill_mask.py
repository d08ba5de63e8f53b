"""Fill in the masks of texts with a masked language model: the most likely tokens, with their probabilities.

    trireme fill-mask outputs/bert_tiny_mlm --text "The capital of France is [MASK]."
    trireme fill-mask PATH --input texts.jsonl --output filled.jsonl --top-k 10
    torchrun --nproc-per-node 2 -m trainer.fill_mask PATH --tensor-model-parallel-size 2 --text "..."

PATH is a run directory, whose latest valid checkpoint is loaded, an import, or a checkpoint, of any parallel layout.
[MASK], or the spelling of the model's own mask token, stands for one hidden token; a text may have several, which are
filled in independently. A line of --input is {"text": "..."}; its other keys are passed on to the output, in which
"masks" has a list of candidates for each mask. Exit codes: 0 done, 1 the output cannot be written, 2 invalid input,
130 interrupted.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.inference.command import run_on_ranks
from trainer.inference.files import STDIN, check_output, name_of, open_input, open_output, show_progress
from trainer.inference.options import add_model_options, check_model_options, model_options
from trireme.command import allow_any_text
from trireme.errors import EXIT_OK, ConfigError, Violation, raise_if_any
from trireme.processes import global_rank

if TYPE_CHECKING:
    from trainer.inference.batch_model import InputRow
    from trainer.inference.mask_filler import Candidate, TextEncoder

_MAX_ERRORS = 20


def main() -> int:
    """Run the command."""
    allow_any_text()
    return run_on_ranks(lambda: run(_parse()))


def run(arguments: argparse.Namespace) -> int:
    """Load the latest valid checkpoint and fill in the masks.

    Raises:
        ConfigError: the arguments, the input, the checkpoint or the tokenizer are invalid.
        RunStopped: the output cannot be written.
    """
    raise_if_any(_check(arguments))
    # Late: arguments are checked first, and the shim must be installed before Megatron-Core is imported.
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see above

    cpu_shim.install()
    from trainer.inference.batch_model import (  # noqa: PLC0415 - see above
        broadcast_from_driver,
        load_batch_model,
        open_for_batches,
    )
    from trainer.inference.mask_filler import TextEncoder, fill_masks, name_candidates  # noqa: PLC0415 - see above
    from trainer.parallel.world import stop_world  # noqa: PLC0415 - see above
    from trireme.tokenizer.words import find_mask_token  # noqa: PLC0415 - see above

    options = model_options(arguments)
    saved, tokenizer = open_for_batches(options)
    model_config, mask_id = saved.state.model_config(), find_mask_token(tokenizer)
    if model_config.attention_mask != "bidirectional" or not model_config.has_output_layer:
        message = "is no masked language model"
        fix = "Give one that was trained with data.mask_prob, or an import such as BertForMaskedLM."
        raise ConfigError([Violation(path="PATH", value=saved.checkpoint, message=message, fix=fix)])
    if mask_id is None:
        message, fix = "has no mask token", "Give the model's tokenizer with --tokenizer."
        raise ConfigError([Violation(path="--tokenizer", value=tokenizer.path, message=message, fix=fix)])
    records: list[Mapping[str, Any]] = []
    rows: list[InputRow] = []
    if global_rank() == 0:
        encoder = TextEncoder(tokenizer, mask_id=mask_id, max_length=model_config.num_positions)
        records, rows = _read(arguments, encoder)
    loaded = load_batch_model(options, saved=saved, tokenizer=tokenizer, purpose="fill in masks")
    rows = broadcast_from_driver(rows)
    results: dict[int, list[list[tuple[int, float]]]] = {}
    with show_progress(
        "Fill in", len(rows), unit="texts", is_shown=bool(records) and arguments.output is not None
    ) as show:
        batches = fill_masks(loaded.model, rows, mask_id=mask_id, top_k=arguments.top_k, vocab_size=loaded.vocab_size)
        for found in batches:
            results |= found
            show(len(results))
    stop_world()
    if not loaded.model.is_driver:
        return EXIT_OK
    with open_output(arguments.output) as write:
        for number, record in enumerate(records):
            masks = [name_candidates(found, tokenizer=tokenizer) for found in results[number]]
            write(_to_json(record, masks) if arguments.json or arguments.input else _to_table(masks))
    return EXIT_OK


def _read(arguments: argparse.Namespace, encoder: "TextEncoder") -> tuple[list[Mapping[str, Any]], list["InputRow"]]:
    """Read and encode all texts.

    Raises:
        ConfigError: lines are invalid; the first ones are named.
    """
    from trainer.inference.mask_filler import MaskedText  # noqa: PLC0415 - see run

    if arguments.input is None:
        lines = [json.dumps({"text": text}) for text in arguments.text]
    else:
        with open_input(arguments.input) as stream:
            lines = list(stream)
    records: list[Mapping[str, Any]] = []
    rows: list[InputRow] = []
    found: list[Violation] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name = f"--text {number}" if arguments.input is None else f"{name_of(arguments.input)}:{number}"
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                raise MaskedText('must be an object with "text"')
            rows.append(encoder.encode(record["text"]))
            records.append(record)
        except json.JSONDecodeError as error:
            found.append(Violation(path=name, value="", message=f"must be JSON: {error}", fix="Correct the line."))
        except MaskedText as error:
            shown = record.get("text", "") if isinstance(record, dict) else ""
            found.append(Violation(path=name, value=shown, message=str(error), fix="Correct the text."))
        if len(found) == _MAX_ERRORS:
            break
    raise_if_any(found)
    return records, rows


def _to_json(record: Mapping[str, Any], masks: Sequence[Sequence["Candidate"]]) -> str:
    content = {**record, "masks": [[asdict(candidate) for candidate in mask] for mask in masks]}
    return json.dumps(content, ensure_ascii=False) + "\n"


def _to_table(masks: Sequence[Sequence["Candidate"]]) -> str:
    lines = []
    for number, mask in enumerate(masks, start=1):
        lines.append(f"mask {number}")
        lines += [f"  {candidate.probability:7.2%}  {candidate.token.strip()}" for candidate in mask]
    return "\n".join(lines) + "\n"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trireme fill-mask", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser, batch="texts that are read at once")
    group = parser.add_argument_group("texts")
    group.add_argument("--text", action="append", default=[], help="text with [MASK]; may be repeated")
    group.add_argument("--input", metavar="FILE", help="texts, one JSON object a line; - is stdin")
    group.add_argument("--output", type=Path, metavar="FILE", help="JSON lines of the results (default: stdout)")
    group.add_argument("--top-k", type=int, default=5, help="tokens for each mask (default: %(default)s)")
    group.add_argument("--json", action="store_true", help="write JSON lines also for --text")
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> list[Violation]:
    """Return the errors of all arguments."""
    found = check_model_options(arguments) + check_output(arguments.output)
    if arguments.top_k < 1:
        found.append(Violation(path="--top-k", value=arguments.top_k, message="must be at least 1", fix="Use 5."))
    if bool(arguments.text) == (arguments.input is not None):
        message = "must be given, one of them" if not arguments.text else "cannot be combined"
        found.append(Violation(path="--text, --input", value="", message=message, fix="Give a text, or a file."))
    elif arguments.input not in (None, STDIN) and not Path(arguments.input).expanduser().is_file():
        fix = "Give a file of JSON lines, or -."
        found.append(Violation(path="--input", value=arguments.input, message="is not a file", fix=fix))
    if arguments.output is not None and arguments.input is None and not arguments.json:
        fix = "Give --json too."
        found.append(Violation(path="--output", value=arguments.output, message="is for JSON lines", fix=fix))
    return found


if __name__ == "__main__":
    sys.exit(main())
