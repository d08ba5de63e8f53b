"""Add adapters (LoRA) to the weights of their base, and prove the merged model by its logits.

    trireme merge-adapter PATH OUTPUT_DIR

PATH is a run directory, whose latest valid checkpoint is merged, or a checkpoint of adapters, saved under any layout
and engine. OUTPUT_DIR becomes a run directory with one checkpoint of all weights: generate, evaluate and export read
it, and runs start from it with pretrained_checkpoint=OUTPUT_DIR. Nothing is written unless the merged model computes
the logits of base and adapters.

Weights are merged in small parts, in fp32; the proof needs 4 bytes of memory per parameter, and 8 where
rounding must be measured.

Prints one line of JSON. Exit codes: 0 done, 1 the logits differ or the disk is full, 2 invalid input, 130 interrupted,
143 terminated. In every case but 0, OUTPUT_DIR has no new checkpoint.
"""

import argparse
import sys
from pathlib import Path

from trainer.huggingface.cli import add_base_option, describe, interruptible
from trireme.command import run_command, write_output
from trireme.errors import EXIT_OK, raise_if_any
from trireme.extras import check_extra
from trireme.logging import configure_logging
from trireme.strict_json import to_json


def main() -> int:
    """Run the command."""
    configure_logging(rank=0)
    return run_command(lambda: run(_parse()))


def run(arguments: argparse.Namespace) -> int:
    """Merge the adapters and print the result.

    Raises:
        ConfigError: there are no adapters, or the output directory cannot be used.
        RunStopped: the logits differ.
    """
    raise_if_any(check_extra("huggingface", ["safetensors"]))
    # Late: arguments are checked first, and the shim must be installed before Megatron-Core is imported.
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see above

    cpu_shim.install()
    from trainer.huggingface.adapter_files import merge_adapter  # noqa: PLC0415 - see above
    from trainer.saved_run import open_saved_run  # noqa: PLC0415 - see above

    with interruptible(arguments.output):
        result = merge_adapter(open_saved_run(arguments.path, verify=True), arguments.output, base=arguments.base)
    write_output(to_json(describe(result)) + "\n")
    return EXIT_OK


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trireme merge-adapter", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a run directory or a checkpoint of adapters")
    parser.add_argument("output", type=Path, metavar="OUTPUT_DIR", help="run directory that gets the checkpoint")
    add_base_option(parser)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
