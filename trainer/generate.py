"""Generate text from a prompt with a trained model; the text streams to the terminal.

    trireme generate outputs/quickstart --prompt "The history of"

PATH is a run directory, whose latest valid checkpoint is loaded, or a checkpoint. It may have been saved under any
parallel layout; one process loads it, with the tokenizer that it contains. Exit codes: 0 done, 1 the model's output is
not finite, 2 invalid input, 130 interrupted.
"""

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trireme.command import allow_any_text, run_command, write_output
from trireme.errors import ConfigError, Violation, raise_if_any
from trireme.logging import configure_logging

if TYPE_CHECKING:
    from trainer.saved_run import SavedRun
    from trireme.tokenizer.tokenizer import Tokenizer

MAX_SEED = 2**64 - 1
"""Largest seed of PyTorch's generators."""
_LOGGER = logging.getLogger(__name__)


def main() -> int:
    """Run the command."""
    configure_logging(rank=0)
    allow_any_text()
    return run_command(lambda: run(_parse()))


def run(arguments: argparse.Namespace) -> int:
    """Load the latest valid checkpoint and write the prompt and its continuation to stdout.

    Raises:
        ConfigError: the arguments, the checkpoint or the tokenizer are invalid.
        RunStopped: the model's logits are not finite.
    """
    raise_if_any(_check(arguments))
    # Late: arguments are checked first, and the shim must be installed before Megatron-Core is imported.
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see above

    cpu_shim.install()
    import torch  # noqa: PLC0415 - see above

    from trainer.build import wire_model  # noqa: PLC0415 - see above
    from trainer.checkpoint.load import load_weights  # noqa: PLC0415 - see above
    from trainer.config.optim import PrecisionConfig  # noqa: PLC0415 - see above
    from trainer.config.parallel import ParallelConfig  # noqa: PLC0415 - see above
    from trainer.model.finite import find_not_finite, join_first  # noqa: PLC0415 - see above
    from trainer.model.generation import SamplingConfig, generate_tokens  # noqa: PLC0415 - see above
    from trainer.parallel.world import start_world, stop_world  # noqa: PLC0415 - see above
    from trainer.saved_run import open_saved_run  # noqa: PLC0415 - see above
    from trireme.tokenizer.tokenizer import IncrementalDecoder  # noqa: PLC0415 - see above

    saved = open_saved_run(arguments.path, verify=True)
    tokenizer = _open_tokenizer(arguments.tokenizer, saved)
    state, checkpoint = saved.state, saved.checkpoint
    model_config = state.model_config()
    vocab_size = min(tokenizer.vocab_size, state.vocab_size or state.padded_vocab_size)
    world = start_world(ParallelConfig(), timeout_seconds=600, seed=arguments.seed)
    (model,) = wire_model(
        model_config,
        parallel=ParallelConfig(),
        precision=PrecisionConfig(params_dtype=arguments.params_dtype),
        padded_vocab_size=state.padded_vocab_size,
        vocab_size=state.vocab_size,
        world=world,
    )
    load_weights(checkpoint, chunks=[model])
    if damage := find_not_finite([model]):
        raise ConfigError([_describe_damage(checkpoint, join_first(damage))])
    model.eval()
    _LOGGER.info("%s, step %d", checkpoint, state.step)
    # A document begins after the end-of-document token of the one before it.
    eos_id = tokenizer.eos_id
    prompt = [*([] if eos_id is None else [eos_id]), *tokenizer.encode(arguments.prompt)]
    if (num_dropped := len(prompt) - model_config.seq_length) > 0:
        _LOGGER.warning(
            "The prompt has %d tokens, but the model's context is %d: dropping the first %d tokens.",
            len(prompt),
            model_config.seq_length,
            num_dropped,
        )
    for sample in range(arguments.num_samples):
        if arguments.num_samples > 1:
            write_output(f"--- {sample + 1} of {arguments.num_samples}\n")
        write_output(arguments.prompt)
        decoder = IncrementalDecoder(tokenizer, prompt=prompt)
        try:
            for token in generate_tokens(
                model,
                prompt or [0],
                max_new_tokens=arguments.max_new_tokens,
                max_length=model_config.seq_length,
                sampling=SamplingConfig(
                    temperature=arguments.temperature, top_k=arguments.top_k, top_p=arguments.top_p
                ),
                vocab_size=vocab_size,
                eos_id=eos_id,
                generator=torch.Generator().manual_seed(arguments.seed + sample),
                device=world.device,
            ):
                write_output(decoder.push(token))
        except KeyboardInterrupt:
            write_output(decoder.finish() + "\n")
            raise
        write_output(decoder.finish() + "\n")
    stop_world()
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trireme generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a run directory or a checkpoint")
    parser.add_argument("--prompt", default="", help="text to continue (default: start a new document)")
    parser.add_argument(
        "--max-new-tokens", type=int, default=128, help="maximum number of generated tokens (default: %(default)s)"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="sampling temperature; 0 is greedy (default: %(default)s)"
    )
    parser.add_argument(
        "--top-k", type=int, default=0, help="sample from the k most likely tokens; 0 from all (default: %(default)s)"
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=0.95,
        help="sample from the most likely tokens whose probabilities sum to p (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1234, help="random seed (default: %(default)s)")
    parser.add_argument(
        "--num-samples", type=int, default=1, help="number of texts, with consecutive seeds (default: %(default)s)"
    )
    parser.add_argument(
        "--params-dtype",
        choices=("fp32", "bf16"),
        default="fp32",
        help="data type of the weights (default: %(default)s)",
    )
    parser.add_argument(
        "--tokenizer", type=Path, help="tokenizer.model or tokenizer.json (default: the checkpoint's own)"
    )
    return parser.parse_args()


@dataclass(frozen=True)
class _Bound:
    name: str
    message: str
    fix: str
    is_good: bool


def _check(arguments: argparse.Namespace) -> list[Violation]:
    """Return the errors of all arguments."""
    last_seed = MAX_SEED - max(arguments.num_samples - 1, 0)
    bounds = (
        _Bound("temperature", "must be at least 0 and finite", "", 0 <= arguments.temperature < float("inf")),
        _Bound("top_k", "must be at least 0", "Use 0 to sample from all tokens.", arguments.top_k >= 0),
        _Bound("top_p", "must be greater than 0 and at most 1", "", 0 < arguments.top_p <= 1),
        _Bound("max_new_tokens", "must be at least 0", "", arguments.max_new_tokens >= 0),
        _Bound("num_samples", "must be at least 1", "", arguments.num_samples >= 1),
        _Bound("seed", f"must be between 0 and {last_seed}", "", 0 <= arguments.seed <= last_seed),
        _Bound("prompt", "must be valid UTF-8", "", _is_text(arguments.prompt)),
    )
    return [
        Violation(path=f"--{b.name.replace('_', '-')}", value=_show(arguments, b.name), message=b.message, fix=b.fix)
        for b in bounds
        if not b.is_good
    ]


def _is_text(prompt: str) -> bool:
    """Return whether a prompt is text: Python represents invalid bytes of the command line as lone surrogates."""
    try:
        prompt.encode()
    except UnicodeEncodeError:
        return False
    return True


def _show(arguments: argparse.Namespace, name: str) -> object:
    value = getattr(arguments, name)
    return ascii(value) if isinstance(value, str) else value


def _open_tokenizer(given: Path | None, saved: "SavedRun") -> "Tokenizer":
    """Open the given tokenizer, which must be the model's, or the checkpoint's own."""
    from trainer.saved_run import check_tokenizer  # noqa: PLC0415 - see run
    from trireme.tokenizer.tokenizer import Tokenizer  # noqa: PLC0415 - see run

    path = given.expanduser() if given is not None else saved.tokenizer_path
    if path is None:
        message = f"must be set: {saved.checkpoint} contains no tokenizer, and the one of its run does not exist"
        fix = "Give the tokenizer file."
        raise ConfigError([Violation(path="--tokenizer", value="", message=message, fix=fix)])
    tokenizer = Tokenizer(path)
    raise_if_any(check_tokenizer(tokenizer, saved=saved, path="--tokenizer"))
    return tokenizer


def _describe_damage(checkpoint: Path, damage: str) -> Violation:
    return Violation(
        path="PATH",
        value=checkpoint,
        message=f"cannot generate text: the checkpoint's weights contain {damage}",
        fix="Use an older checkpoint of the run.",
    )


if __name__ == "__main__":
    sys.exit(main())
