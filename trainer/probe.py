"""Show what a model does with a prompt, in one HTML page: probabilities, attention, layers, attribution, neurons.

    trireme probe outputs/quickstart "The capital of France is" --output probe.html
    trireme probe PATH "2 + 2 =" --target " 4" --layers 10-15 --json probe.json
    torchrun --nproc-per-node 2 -m trainer.probe PATH --tensor-model-parallel-size 2 "Once upon a time"

PATH is a run directory, whose latest valid checkpoint is loaded, an import, or a checkpoint, of any parallel layout.
PROMPT begins a document, as in `trireme generate`; - reads stdin. The page needs no other file and no network; --json
has the same content (docs/inference/probe.md describes its fields). Prints each token with its surprisal and what it
contributes to the next one. Exit codes: 0 done, 1 a file cannot be written or the output is not finite, 2 invalid
input, 130 interrupted.
"""

import argparse
import logging
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.inference.command import run_on_ranks
from trainer.inference.files import STDIN, open_output, read_stdin
from trainer.inference.options import add_model_options, check_model_options, model_options
from trainer.inference.valid_text import is_text
from trainer.interpret.options import ProbeOptions, parse_layers
from trireme.command import allow_any_text, write_output
from trireme.errors import EXIT_OK, EXIT_STOPPED, ConfigError, RunStopped, Violation, raise_if_any
from trireme.processes import global_rank
from trireme.strict_json import to_json

if TYPE_CHECKING:
    from trainer.inference.loading import LoadedModel
    from trainer.interpret.documents import NearDocuments
    from trainer.saved_run import SavedRun

_LOGGER = logging.getLogger(__name__)
DEFAULT_PAGE = Path("probe.html")
MAX_PROBABILITIES = 1 << 26
"""Attention probabilities of all layers and heads, at most: 256 MiB."""


def main() -> int:
    """Run the command."""
    allow_any_text()
    return run_on_ranks(lambda: run(_parse()))


def run(arguments: argparse.Namespace) -> int:
    """Load the latest valid checkpoint, look at the prompt, write the page.

    Raises:
        ConfigError: the arguments, the checkpoint, the tokenizer or a shard are invalid.
        RunStopped: a file cannot be written, or the model's output is not finite.
    """
    raise_if_any(_check(arguments))
    # Late: arguments are checked first, and the shim must be installed before Megatron-Core is imported.
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see above

    cpu_shim.install()
    from trainer.inference.batch_model import broadcast_from_driver  # noqa: PLC0415 - see above
    from trainer.inference.loading import load_model  # noqa: PLC0415 - see above
    from trainer.interpret.probe import probe  # noqa: PLC0415 - see above
    from trainer.interpret.shards import check_shards  # noqa: PLC0415 - see above
    from trainer.parallel.world import stop_world  # noqa: PLC0415 - see above

    prompt = arguments.prompt
    if prompt == STDIN:
        prompt = read_stdin(name="PROMPT") if global_rank() == 0 else ""
    loaded = load_model(model_options(arguments), purpose="be probed", packs_weights=False)
    prompt = broadcast_from_driver(prompt)
    tokens = loaded.encode_prompt(prompt)
    options = _choose_options(arguments, loaded, num_tokens=len(tokens))
    target = _find_target(arguments, loaded)
    raise_if_any(check_shards(arguments.data, tokenizer=loaded.tokenizer))
    found = probe(
        loaded.model,
        world=loaded.world,
        tokens=tokens,
        target=target,
        vocab_size=loaded.vocab_size,
        options=options,
    )
    stop_world()
    if found is None:
        return EXIT_OK
    if not all(math.isfinite(here.entropy) for here in found.output):
        raise RunStopped("The model's output is not finite.", exit_code=EXIT_STOPPED)
    from trainer.interpret.record import to_record  # noqa: PLC0415 - see above

    documents, note = _search(arguments, loaded, tokens=(*tokens, found.target), options=options)
    record = to_record(
        found,
        tokenizer=loaded.tokenizer,
        model=_describe_model(arguments, loaded),
        prompt=prompt,
        documents=documents,
        documents_note=note,
    )
    _write(record, arguments)
    return EXIT_OK


def _choose_options(arguments: argparse.Namespace, loaded: "LoadedModel", *, num_tokens: int) -> ProbeOptions:
    """Complete the options by what the model has.

    Raises:
        ConfigError: on every rank: a layer does not exist, or the prompt is too long.
    """
    found: list[Violation] = []
    num_layers, num_heads = loaded.config.num_layers, loaded.config.num_attention_heads
    layers: tuple[int, ...] = ()
    try:
        layers = parse_layers(arguments.layers, num_layers=num_layers)
    except ValueError as error:
        found.append(Violation(path="--layers", value=arguments.layers, message=str(error), fix="Use all."))
    if num_tokens > loaded.context_length:
        message = f"has {num_tokens} tokens, but the model's context is {loaded.context_length}"
        found.append(Violation(path="PROMPT", value="", message=message, fix="Shorten it."))
    elif len(layers) * num_heads * num_tokens**2 > MAX_PROBABILITIES:
        count = f"{num_tokens} tokens, {len(layers)} layers and {num_heads} heads"
        message = f"has too many attention probabilities: {count}"
        fix = "Shorten the prompt, or show fewer layers with --layers."
        found.append(Violation(path="PROMPT", value="", message=message, fix=fix))
    raise_if_any(found)
    return ProbeOptions(
        layers=layers,
        top_k=arguments.top_k,
        num_neurons=arguments.num_neurons,
        num_steps=arguments.attribution_steps,
        baseline=arguments.baseline,
        batch_size=arguments.max_batch_size,
        ngram=arguments.ngram,
        num_documents=arguments.num_documents,
        max_search_tokens=arguments.max_search_tokens,
    )


def _find_target(arguments: argparse.Namespace, loaded: "LoadedModel") -> int | None:
    """Return the token that is attributed; None for the most likely one.

    Raises:
        ConfigError: on every rank: there is no such token.
    """
    if arguments.target_id is not None:
        if not 0 <= arguments.target_id < loaded.vocab_size:
            message, fix = f"must be between 0 and {loaded.vocab_size - 1}", "Give a token of the model."
            raise ConfigError([Violation(path="--target-id", value=arguments.target_id, message=message, fix=fix)])
        return int(arguments.target_id)
    if arguments.target is None:
        return None
    ids = loaded.tokenizer.encode(arguments.target)
    if len(ids) != 1:
        pieces = ", ".join(f"{token} ({loaded.tokenizer.token_name(token)})" for token in ids)
        message = "must be one token of the model, and " + (f"is {len(ids)}: {pieces}" if ids else "has none")
        fix = "Mind the space before a word, or give the first one with --target-id."
        raise ConfigError([Violation(path="--target", value=repr(arguments.target), message=message, fix=fix)])
    return ids[0]


def _search(
    arguments: argparse.Namespace, loaded: "LoadedModel", *, tokens: tuple[int, ...], options: ProbeOptions
) -> tuple["NearDocuments | None", str]:
    """Search training documents; return them, and what was searched or why nothing was."""
    from trainer.interpret.documents import find_near_documents  # noqa: PLC0415 - see run
    from trainer.interpret.shards import add_steps, find_training_shards  # noqa: PLC0415 - see run
    from trainer.saved_run import open_saved_run  # noqa: PLC0415 - see run

    if not options.num_documents:
        return None, "Not searched: --num-documents is 0."
    saved: SavedRun = open_saved_run(loaded.checkpoint, verify=False)
    if arguments.data:
        prefixes, note = list(arguments.data), "Searched: the shards of --data"
    else:
        prefixes, note = find_training_shards(saved)
    if not prefixes:
        return None, note
    start = len(loaded.document_start)
    found = find_near_documents(
        prefixes,
        tokens[start:] or tokens,
        ngram=options.ngram,
        num_documents=options.num_documents,
        max_tokens=options.max_search_tokens,
    )
    found, steps_note = add_steps(found, saved)
    counts = f"{found.num_documents:,} documents, {found.num_tokens:,} tokens"
    rest = "" if found.is_complete else " --max-search-tokens ended the search before the last shard."
    if not found.documents:
        return found, (
            f"{note}, {counts}.{rest} None has {found.ngram} tokens in a row in common with the prompt and the next"
            " token. Try a longer prompt, or a smaller --ngram."
        )
    return found, (
        f"{note}, {counts}.{rest} Documents are ranked by the {found.ngram}-grams of tokens that they share with the"
        " prompt and the next token, rare ones counting more. This compares spelling, not meaning; a near document"
        f" need not be why the model answers so. {steps_note}"
    )


def _describe_model(arguments: argparse.Namespace, loaded: "LoadedModel") -> Mapping[str, Any]:
    from trainer.checkpoint.trainer_state import read_state  # noqa: PLC0415 - see run

    names = ("tensor", "pipeline", "expert")
    return {
        "name": loaded.name,
        "checkpoint": str(loaded.checkpoint),
        "step": read_state(loaded.checkpoint).step,
        "params_dtype": arguments.params_dtype,
        "num_layers": loaded.config.num_layers,
        "num_attention_heads": loaded.config.num_attention_heads,
        "layout": {f"{name}_model_parallel_size": getattr(arguments, f"{name}_model_parallel_size") for name in names},
    }


def _write(record: dict[str, Any], arguments: argparse.Namespace) -> None:
    from trainer.interpret.page import render_page  # noqa: PLC0415 - see run

    page = arguments.output or (None if arguments.json else DEFAULT_PAGE)
    for path, content in (
        (page, lambda: render_page(record)),
        (arguments.json, lambda: to_json(record) + "\n"),
    ):
        if path is not None:
            with open_output(path) as write:
                write(content())
            _LOGGER.info("Wrote %s", path)
    write_output(_to_table(record))


def _to_table(record: Mapping[str, Any]) -> str:
    """Return the tokens with their surprisal, and with attribution and occlusion where they were computed."""
    attribution = record["attribution"]
    lines = ["place   bits" + ("  gradients  occlusion" if attribution else "") + "  token"]
    for place, token in enumerate([*record["tokens"], record["target"]]):
        bits = f"{record['predictions'][place - 1]['surprisal']:6.2f}" if place else "     -"
        is_target = place == len(record["tokens"])
        cells = ""
        if attribution:
            values = ("scores", "occlusion")
            cells = "" if not is_target else f"{'':11}{'':11}"
            cells = cells or "".join(f"{_number(attribution[name][place]):>11}" for name in values)
        lines.append(f"{'next' if is_target else place:>5} {bits}{cells}  {token['text']!r}")
    if attribution:
        change = attribution["value"] - attribution["baseline_value"]
        gap = _number(attribution["completeness_gap"])
        lines.append(f"Completeness gap of the integrated gradients: {gap}, of a change of {change:.3f}.")
        if attribution["completeness_gap"] is None or abs(attribution["completeness_gap"]) > 0.1 * abs(change):
            lines.append("It exceeds a tenth of this change: do not rely on the integrated gradients.")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trireme probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser, batch="copies of the prompt that attribution computes at once")
    parser.add_argument("prompt", metavar="PROMPT", help="a text, or - for stdin")
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output", type=Path, metavar="FILE", help=f"the page (default: {DEFAULT_PAGE}, unless --json is given)"
    )
    group.add_argument("--json", type=Path, metavar="FILE", help="the same content as JSON")
    group.add_argument("--top-k", type=int, default=8, help="tokens of each prediction (default: %(default)s)")
    group.add_argument(
        "--layers",
        default="all",
        metavar="LIST",
        help="of attention and neurons, such as 1,3,5-8 (default: %(default)s)",
    )
    group.add_argument("--num-neurons", type=int, default=8, metavar="N", help="of each layer (default: %(default)s)")
    group = parser.add_argument_group("attribution")
    chosen = group.add_mutually_exclusive_group()
    chosen.add_argument("--target", metavar="TOKEN", help="next token to explain (default: the most likely one)")
    chosen.add_argument("--target-id", type=int, metavar="ID", help="the same by its number")
    group.add_argument(
        "--attribution-steps",
        type=int,
        default=50,
        metavar="N",
        help="points of the path of integrated gradients; 0 leaves attribution out (default: %(default)s)",
    )
    group.add_argument(
        "--baseline",
        choices=("mean", "zero"),
        default="mean",
        help="the mean of the vocabulary's word embeddings, or zeros (default: %(default)s)",
    )
    group = parser.add_argument_group("training documents")
    group.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="PREFIX",
        help="shard to search; may be repeated (default: the run's training shards)",
    )
    group.add_argument("--num-documents", type=int, default=8, metavar="N", help="0 for none (default: %(default)s)")
    group.add_argument(
        "--ngram", type=int, default=3, metavar="N", help="tokens that are compared (default: %(default)s)"
    )
    group.add_argument(
        "--max-search-tokens",
        type=int,
        default=1_000_000_000,
        metavar="N",
        help="of shards that are read (default: %(default)s)",
    )
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> list[Violation]:
    """Return the errors of all arguments that are known without the model."""
    found = check_model_options(arguments)
    for name, lowest in (
        ("top_k", 1),
        ("num_neurons", 1),
        ("attribution_steps", 0),
        ("num_documents", 0),
        ("ngram", 1),
        ("max_search_tokens", 1),
    ):
        if (value := getattr(arguments, name)) < lowest:
            path = f"--{name.replace('_', '-')}"
            found.append(Violation(path=path, value=value, message=f"must be at least {lowest}", fix=""))
    if not is_text(arguments.prompt):
        found.append(Violation(path="PROMPT", value=ascii(arguments.prompt), message="must be valid UTF-8", fix=""))
    for name in ("output", "json"):
        path = getattr(arguments, name)
        if path is not None and not path.expanduser().parent.is_dir():
            fix = "Create it, or give another name."
            found.append(Violation(path=f"--{name}", value=path, message="has no directory", fix=fix))
    return found


if __name__ == "__main__":
    sys.exit(main())
