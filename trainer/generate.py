"""Continue a prompt with a trained model; the text streams to the terminal.

    python -m trainer.generate outputs/quickstart --prompt "The history of"

The checkpoint may have been saved under any layout; one process loads it. Exit codes: 0 done, 2 bad input.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from trainer.common.errors import ConfigError, Violation, exit_code_of, raise_if_any
from trainer.common.logging import configure_logging
from trainer.config.load import load_config_file


def main() -> int:
    """The command."""
    arguments = _parse()
    configure_logging(rank=0)
    return exit_code_of(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """Load the newest good checkpoint and write the prompt and its continuation to stdout.

    Raises:
        ConfigError: the arguments, the checkpoint or the tokenizer cannot be used.
    """
    raise_if_any(_check(arguments))
    # Late: wrong arguments are answered at once, and the shim must stand before Megatron-Core is imported.
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see above

    cpu_shim.install()
    import torch  # noqa: PLC0415 - see above

    from trainer.build import build_chunks  # noqa: PLC0415 - see above
    from trainer.checkpoint.discovery import choose_checkpoint  # noqa: PLC0415 - see above
    from trainer.checkpoint.load import load_weights  # noqa: PLC0415 - see above
    from trainer.checkpoint.state import read_state  # noqa: PLC0415 - see above
    from trainer.config.optim import PrecisionConfig  # noqa: PLC0415 - see above
    from trainer.config.parallel import ParallelConfig  # noqa: PLC0415 - see above
    from trainer.data.tokenizer import IncrementalDecoder, Tokenizer  # noqa: PLC0415 - see above
    from trainer.model.decode import generate_tokens  # noqa: PLC0415 - see above
    from trainer.model.sampling import SamplingConfig  # noqa: PLC0415 - see above
    from trainer.parallel.world import start_world, stop_world  # noqa: PLC0415 - see above

    checkpoint = choose_checkpoint(str(arguments.path), run_directory=arguments.path, verify=True)
    assert checkpoint is not None
    tokenizer = Tokenizer(_find_tokenizer(arguments, checkpoint))
    state = read_state(checkpoint)
    model_config = state.model_config()
    world = start_world(ParallelConfig(), timeout_seconds=600, seed=arguments.seed)
    (model,) = build_chunks(
        model_config,
        parallel=ParallelConfig(),
        precision=PrecisionConfig(params_dtype=arguments.params_dtype),
        padded_vocab_size=state.padded_vocab_size,
        world=world,
    )
    load_weights(checkpoint, chunks=[model])
    model.eval()
    print(f"{checkpoint}, step {state.step}", file=sys.stderr, flush=True)
    # A document begins behind the mark that ends the one before it.
    eos_id = tokenizer.eos_id
    prompt = [*([] if eos_id is None else [eos_id]), *tokenizer.encode(arguments.prompt)]
    for sample in range(arguments.num_samples):
        if arguments.num_samples > 1:
            _write(f"--- {sample + 1} of {arguments.num_samples}\n")
        _write(arguments.prompt)
        decoder = IncrementalDecoder(tokenizer, prompt=prompt)
        for token in generate_tokens(
            model,
            prompt or [0],
            max_new_tokens=arguments.max_new_tokens,
            max_length=model_config.seq_length,
            sampling=SamplingConfig(temperature=arguments.temperature, top_k=arguments.top_k, top_p=arguments.top_p),
            vocab_size=tokenizer.vocab_size,
            eos_id=eos_id,
            generator=torch.Generator().manual_seed(arguments.seed + sample),
            device=world.device,
        ):
            _write(decoder.push(token))
        _write(decoder.finish() + "\n")
    stop_world()
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a run directory, or a checkpoint in one")
    parser.add_argument("--prompt", default="", help="text to continue; none starts a new document")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="at most this many (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=0, help="draw from the k likeliest; 0 from all")
    parser.add_argument("--top-p", type=float, default=0.95, help="draw from the likeliest that sum to p (%(default)s)")
    parser.add_argument("--seed", type=int, default=1234, help="same seed, same text (default: %(default)s)")
    parser.add_argument("--num-samples", type=int, default=1, help="texts, with seeds one apart (%(default)s)")
    parser.add_argument("--params-dtype", choices=("fp32", "bf16"), default="fp32", help="(default: %(default)s)")
    parser.add_argument(
        "--tokenizer", type=Path, help="tokenizer.model or tokenizer.json; default: the one that the run names"
    )
    return parser.parse_args()


@dataclass(frozen=True)
class _Bound:
    name: str
    rule: str
    fix: str
    is_good: bool


def _check(arguments: argparse.Namespace) -> list[Violation]:
    """Every argument that cannot be used."""
    bounds = (
        _Bound("temperature", "is negative or not finite", "use 0 or more", 0 <= arguments.temperature < float("inf")),
        _Bound("top_k", "is negative", "use 0 for no limit, or 1 or more", arguments.top_k >= 0),
        _Bound("top_p", "is no share of the probability", "use more than 0, at most 1", 0 < arguments.top_p <= 1),
        _Bound("max_new_tokens", "is negative", "use 0 or more", arguments.max_new_tokens >= 0),
        _Bound("num_samples", "is not positive", "use 1 or more", arguments.num_samples >= 1),
        _Bound("seed", "is negative", "use 0 or more", arguments.seed >= 0),
    )
    return [
        Violation(path=f"--{b.name.replace('_', '-')}", value=getattr(arguments, b.name), rule=b.rule, fix=b.fix)
        for b in bounds
        if not b.is_good
    ]


def _find_tokenizer(arguments: argparse.Namespace, checkpoint: Path) -> Path:
    """The tokenizer that was named, or the one in the config.yaml of the checkpoint's run."""
    if arguments.tokenizer is not None:
        return Path(arguments.tokenizer)
    saved = checkpoint.parent.parent / "config.yaml"
    path = load_config_file(saved).tokenizer.path if saved.is_file() else None
    if path is None:
        rule = "is not known: the run was trained on token ids" if saved.is_file() else f"is not known: no {saved}"
        raise ConfigError([Violation(path="--tokenizer", value=None, rule=rule, fix="name its file")])
    return Path(path)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
