"""Chat with a trained model in the terminal.

    trireme chat outputs/smollm2

PATH is a run directory, whose latest valid checkpoint is loaded, an import, or a checkpoint. A model with a chat
template answers; one without it continues the text that you write. Answers stream, Ctrl-C stops one, /help shows
commands. Without a terminal each line of stdin is a message. Exit codes: 0 done, 1 the model's output is not finite, 2
invalid input, 130 interrupted.
"""

import argparse
import sys

from trainer.inference.options import (
    add_model_options,
    add_sampling_options,
    check_model_options,
    check_sampling_options,
    choose_sampling,
    model_options,
)
from trainer.inference.valid_text import is_text
from trireme.command import allow_any_text, run_command, write_output
from trireme.errors import EXIT_OK, Violation, raise_if_any
from trireme.logging import configure_logging
from trireme.processes import world_size

PROMPT, CONTINUED = "> ", ". "


def main() -> int:
    """Run the command."""
    configure_logging(rank=0)
    allow_any_text()
    return run_command(lambda: run(_parse()))


def run(arguments: argparse.Namespace) -> int:
    """Load the latest valid checkpoint and answer until the input ends.

    Raises:
        ConfigError: the arguments, the checkpoint or the tokenizer are invalid.
        RunStopped: the model's logits are not finite.
    """
    raise_if_any(_check(arguments))
    # Late: arguments are checked first, and the shim must be installed before Megatron-Core is imported.
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see above

    cpu_shim.install()
    from trainer.inference.loading import load_model  # noqa: PLC0415 - see above
    from trainer.inference.sampling import SamplingConfig  # noqa: PLC0415 - see above
    from trainer.inference.terminal_chat import TerminalChat  # noqa: PLC0415 - see above
    from trainer.parallel.world import stop_world  # noqa: PLC0415 - see above

    model = load_model(model_options(arguments), purpose="chat")
    chat = TerminalChat(
        model,
        sampling=SamplingConfig(**choose_sampling(arguments, generation_config=model.generation_config)),
        seed=arguments.seed,
        max_new_tokens=arguments.max_new_tokens,
        system=arguments.system,
        write=write_output,
        note=lambda text: print(text, file=sys.stderr, flush=True),
    )
    chat.introduce()
    reader = _Reader()
    while True:
        try:
            line = reader.read()
            if line is None or not chat.handle(line):
                break
        except KeyboardInterrupt:
            if not reader.is_terminal:
                raise
            reader.forget()
            write_output("\n")
            print("Press Ctrl-D to exit.", file=sys.stderr, flush=True)
    stop_world()
    return EXIT_OK


class _Reader:
    """Read messages: from a terminal with editing and history, otherwise the lines of stdin."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdin.isatty()
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="surrogateescape")  # a line that is not UTF-8 is refused on its own
        self._held: list[str] = []
        if self.is_terminal:
            import readline  # noqa: F401, PLC0415 - makes `input` edit lines and recall earlier ones

    def read(self) -> str | None:
        """Return the next message; None at the end of the input."""
        while True:
            try:
                line = input((CONTINUED if self._held else PROMPT) if self.is_terminal else "")
            except EOFError:
                if self.is_terminal:
                    write_output("\n")
                return self._take() if self._held else None
            if not line.endswith("\\"):
                self._held.append(line)
                return self._take()
            self._held.append(line[:-1])

    def forget(self) -> None:
        """Drop the lines of a message that is not complete."""
        self._held = []

    def _take(self) -> str:
        text, self._held = "\n".join(self._held), []
        return text


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trireme chat", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser, max_batch_size=1, has_layout=False)
    group = parser.add_argument_group("conversation")
    group.add_argument("--system", default="", metavar="TEXT", help="system message (default: the template's own)")
    group.add_argument(
        "--max-new-tokens", type=int, default=512, help="maximum number of tokens of an answer (default: %(default)s)"
    )
    add_sampling_options(parser)
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> list[Violation]:
    """Return the errors of all arguments."""
    found = check_model_options(arguments) + check_sampling_options(arguments)
    if arguments.max_new_tokens < 1:
        message = "must be at least 1"
        found.append(Violation(path="--max-new-tokens", value=arguments.max_new_tokens, message=message, fix=""))
    if not is_text(arguments.system):
        found.append(Violation(path="--system", value=ascii(arguments.system), message="must be valid UTF-8", fix=""))
    if world_size() > 1:
        message = "must be one process"
        fix = "Use `torchrun ... -m trainer.serve` for a model on several devices."
        found.append(Violation(path="WORLD_SIZE", value=world_size(), message=message, fix=fix))
    return found


if __name__ == "__main__":
    sys.exit(main())
