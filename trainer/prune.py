"""Remove the layers, attention heads or channels of MLPs of a model that matter least.

    trireme prune PATH OUTPUT_DIR --layers 4 --data data/train
    trireme prune PATH OUTPUT_DIR --heads 2 --data data/train
    trireme prune PATH OUTPUT_DIR --channels 256 --data data/train

PATH is a run directory, whose latest valid checkpoint is pruned, an import or a checkpoint. OUTPUT_DIR becomes a run
directory with the smaller model: runs start from it with pretrained_checkpoint=OUTPUT_DIR, and generate, evaluate,
distill, quantize and export-hf read it. Every layer or head is left out in turn and the loss on rows of --data, a token
shard made with the model's tokenizer, is measured: --layers removes one layer after another, --heads as many query
heads in every layer, together with the keys and values that they share. --channels removes channels of the MLP in every
layer, those that write least into the hidden states on these rows. Train or distill the model afterwards: pruning alone
costs quality.

Prints one line of JSON with perplexities and the speed of decoding before and after, and writes it to compression.json
in OUTPUT_DIR. Exit codes: 0 done, 1 the disk is full, 2 invalid input,
130 interrupted, 143 terminated. In every case but 0, OUTPUT_DIR has no new checkpoint.
"""

import argparse
import sys
from pathlib import Path

from trainer.compression.options import check_counts
from trainer.compression.report import add_decoding_option, check_decoding_rounds
from trainer.huggingface.cli import add_base_option, interruptible
from trireme.command import run_command, write_output
from trireme.errors import EXIT_OK, Violation, raise_if_any
from trireme.extras import check_extra
from trireme.logging import configure_logging
from trireme.strict_json import to_json


def main() -> int:
    """Run the command."""
    configure_logging(rank=0)
    return run_command(lambda: run(_parse()))


def run(arguments: argparse.Namespace) -> int:
    """Prune the checkpoint and print the result.

    Raises:
        ConfigError: an argument is invalid, or the checkpoint, the rows or the output cannot be used.
        RunStopped: the disk is full.
    """
    raise_if_any(_check(arguments))
    # Late: arguments are checked first, and the shim must be installed before Megatron-Core is imported.
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see above

    cpu_shim.install()
    from trainer.compression.prune_run import PruneOptions, prune_run  # noqa: PLC0415 - see above
    from trainer.saved_run import open_saved_run  # noqa: PLC0415 - see above

    options = PruneOptions(
        data=arguments.data,
        num_rows=arguments.rows,
        row_length=arguments.row_length,
        layers=arguments.layers,
        heads=arguments.heads,
        channels=arguments.channels,
        validation=arguments.validation,
        validation_rows=arguments.validation_rows,
        base=arguments.base,
        decoding_rounds=arguments.decoding_rounds,
    )
    with interruptible(arguments.output):
        result = prune_run(open_saved_run(arguments.path, verify=True), arguments.output, options)
    write_output(to_json(result.to_record()) + "\n")
    return EXIT_OK


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trireme prune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a run directory, an import or a checkpoint")
    parser.add_argument("output", type=Path, metavar="OUTPUT_DIR", help="run directory that gets the smaller model")
    parts = parser.add_mutually_exclusive_group(required=True)
    parts.add_argument("--layers", type=int, metavar="N", help="layers to remove")
    parts.add_argument("--heads", type=int, metavar="N", help="query heads to remove in each layer")
    parts.add_argument("--channels", type=int, metavar="N", help="channels of the MLP to remove in each layer")
    rows = parser.add_argument_group("rows of tokens")
    rows.add_argument("--data", type=Path, required=True, metavar="PREFIX", help="token shard that measures the loss")
    rows.add_argument("--rows", type=int, default=16, metavar="N", help="its random rows (default: %(default)s)")
    rows.add_argument(
        "--validation", type=Path, metavar="PREFIX", help="token shard for perplexities (default: that of --data)"
    )
    rows.add_argument("--validation-rows", type=int, default=64, metavar="N", help="default: %(default)s")
    rows.add_argument(
        "--row-length", type=int, metavar="N", help="tokens of a row (default: the model's seq_length, at most 512)"
    )
    add_decoding_option(parser)
    add_base_option(parser)
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> list[Violation]:
    """Return the errors of all arguments that need no model."""
    counts = ("rows", "validation_rows", "row_length")
    found = check_extra("huggingface", ["safetensors"]) + check_counts(arguments, counts)
    return found + check_decoding_rounds(arguments)


if __name__ == "__main__":
    sys.exit(main())
