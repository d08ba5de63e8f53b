"""Generate text from prompts with a trained model; a single text streams to the terminal.

    trireme generate outputs/quickstart --prompt "The history of"
    trireme generate outputs/quickstart --input prompts.jsonl --output texts.jsonl
    echo "The history of" | trireme generate outputs/quickstart --prompt -
    torchrun --nproc-per-node 2 -m trainer.generate PATH --tensor-model-parallel-size 2 --prompt "The history of"

PATH is a run directory, whose latest valid checkpoint is loaded, an import, or a checkpoint. It may have been saved
under any parallel layout, and is loaded into the one that the options describe, with the tokenizer that it contains. A
line of --input is {"prompt": "..."} or, for a chat model, {"messages": [{"role": "user", "content": "..."}]}; further
keys are passed on to the output. Exit codes: 0 done, 1 the model's output is not finite, 2 invalid input, 130
interrupted.
"""

import argparse
import sys
from pathlib import Path

from trainer.inference.command import run_on_ranks
from trainer.inference.files import STDIN, name_of, open_input, open_output, read_stdin, show_progress
from trainer.inference.options import (
    add_model_options,
    add_sampling_options,
    check_model_options,
    check_sampling_options,
    model_options,
)
from trainer.inference.valid_text import is_text
from trireme.command import allow_any_text, write_output
from trireme.errors import EXIT_OK, Violation, raise_if_any
from trireme.processes import global_rank


def main() -> int:
    """Run the command."""
    allow_any_text()
    return run_on_ranks(lambda: run(_parse()))


def run(arguments: argparse.Namespace) -> int:
    """Load the latest valid checkpoint and write what the model makes of the prompts.

    Raises:
        ConfigError: the arguments, the input, the checkpoint or the tokenizer are invalid.
        RunStopped: the model's logits are not finite.
    """
    raise_if_any(_check(arguments))
    # Late: arguments are checked first, and the shim must be installed before Megatron-Core is imported.
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see above

    cpu_shim.install()
    from trainer.inference.loading import load_model  # noqa: PLC0415 - see above
    from trainer.inference.prompt_file import Prompt, read_prompts  # noqa: PLC0415 - see above
    from trainer.inference.texts import complete_prompts, stream_texts  # noqa: PLC0415 - see above
    from trainer.parallel.world import stop_world  # noqa: PLC0415 - see above

    is_driver = global_rank() == 0
    prompts: list[Prompt] = []
    if is_driver and arguments.input is not None:
        with open_input(arguments.input) as stream:
            prompts = read_prompts(stream, name=name_of(arguments.input))
    prompt = read_stdin(name="--prompt") if is_driver and arguments.prompt == STDIN else arguments.prompt
    model = load_model(model_options(arguments))
    if not model.is_driver:
        model.runner.follow()
        stop_world()
        return EXIT_OK
    try:
        if arguments.input is None:
            stream_texts(model, prompt, arguments)
        else:
            name, total = name_of(arguments.input), len(prompts) * arguments.num_samples
            with (
                open_output(arguments.output) as write,
                show_progress("Generate", total, unit="texts", is_shown=write != write_output) as show,
            ):
                complete_prompts(model, prompts, arguments, name=name, write=write, show=show)
    finally:
        model.runner.stop()
    stop_world()
    return EXIT_OK


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trireme generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser)
    group = parser.add_argument_group("texts")
    group.add_argument(
        "--prompt", default="", help="text to continue, or - for that of stdin (default: start a new document)"
    )
    group.add_argument("--input", metavar="FILE", help="prompts, one JSON object a line; - is stdin")
    group.add_argument("--output", type=Path, metavar="FILE", help="JSON lines of the texts (default: stdout)")
    group.add_argument(
        "--max-new-tokens", type=int, default=128, help="maximum number of generated tokens (default: %(default)s)"
    )
    group.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be repeated"
    )
    group.add_argument(
        "--num-samples",
        type=int,
        default=1,
        help="number of texts of each prompt, with consecutive seeds (default: %(default)s)",
    )
    group.add_argument(
        "--logprobs", action="store_true", help="with --input: write the log-probability of each generated token"
    )
    add_sampling_options(parser)
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> list[Violation]:
    """Return the errors of all arguments."""
    found = check_model_options(arguments) + check_sampling_options(arguments, num_seeds=arguments.num_samples)
    if arguments.max_new_tokens < (0 if arguments.input is None else 1):
        least = 0 if arguments.input is None else 1
        found.append(_violation("--max-new-tokens", arguments.max_new_tokens, f"must be at least {least}"))
    if arguments.num_samples < 1:
        found.append(_violation("--num-samples", arguments.num_samples, "must be at least 1"))
    if not is_text(arguments.prompt):
        found.append(_violation("--prompt", ascii(arguments.prompt), "must be valid UTF-8"))
    found += [_violation("--stop", ascii(stop), "must be valid UTF-8") for stop in arguments.stop if not is_text(stop)]
    if "" in arguments.stop:
        found.append(_violation("--stop", "", "must not be empty"))
    if arguments.input is not None and arguments.prompt:
        found.append(_violation("--prompt", arguments.prompt, "cannot be combined with --input", "Give one of them."))
    if arguments.input is None:
        for name in ("output", "logprobs"):
            if getattr(arguments, name):
                message = "is for prompts of a file"
                found.append(_violation(f"--{name}", getattr(arguments, name), message, "Give --input too."))
    elif arguments.input != STDIN and not Path(arguments.input).expanduser().is_file():
        found.append(_violation("--input", arguments.input, "is not a file", "Give a file of JSON lines, or -."))
    if arguments.output is not None and arguments.output.expanduser().exists():
        found.append(_violation("--output", arguments.output, "exists", "Remove it, or give another name."))
    elif arguments.output is not None and not arguments.output.expanduser().parent.is_dir():
        fix = "Create it, or give another name."
        found.append(_violation("--output", arguments.output, "has no directory", fix))
    return found


def _violation(path: str, value: object, message: str, fix: str = "") -> Violation:
    return Violation(path=path, value=value, message=message, fix=fix)


if __name__ == "__main__":
    sys.exit(main())
