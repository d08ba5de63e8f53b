"""Quantize a model's weights to 8 or 4 bits, for our inference or as a GGUF file.

    trireme quantize PATH OUTPUT --bits 8
    trireme quantize PATH OUTPUT --bits 4 --calibration data/train --validation data/validation
    trireme quantize PATH model.gguf --gguf Q4_0

PATH is a run directory, whose latest valid checkpoint is quantized, an import or a checkpoint. OUTPUT becomes a run
directory with one checkpoint, quantized.safetensors: generate, chat, serve, evaluate and export-hf read it. With --gguf
it is a file for llama.cpp, which import-hf reads too. Weights are integers times a scale: --bits 8 has one scale for
each row of a matrix, --bits 4 one for each group of --group-size inputs. Norms, biases and routers stay as they are.

With --calibration, a token shard made with the model's tokenizer, weights are rounded so that the outputs of each layer
change least on its rows (--method gptq), and with --bits 4 the matrices that lose most get 8 bits, as far as --max-size
allows. --validation compares perplexities before and after, with 95 % intervals from a bootstrap over rows. The speed
of decoding before and after is measured on this machine (--decoding-rounds), in the threads that OMP_NUM_THREADS
allows; not that of a GGUF file, which is for another program.

Prints one line of JSON, and writes it to compression.json in OUTPUT if that is a directory. Exit codes: 0 done, 1 the
disk is full, 2 invalid input, 130 interrupted, 143 terminated. In every case but 0, OUTPUT stays as it was.
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

_GROUP_SIZE = 32
_GGUF_BITS = {"Q8_0": 8, "Q4_0": 4, "Q4_1": 4}


def main() -> int:
    """Run the command."""
    configure_logging(rank=0)
    return run_command(lambda: run(_parse()))


def run(arguments: argparse.Namespace) -> int:
    """Quantize the checkpoint and print the result.

    Raises:
        ConfigError: an argument is invalid, or the checkpoint, the rows or the output cannot be used.
        RunStopped: the disk is full.
    """
    raise_if_any(_check(arguments))
    # Late: arguments are checked first, and the shim must be installed before Megatron-Core is imported.
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see above

    cpu_shim.install()
    from trainer.compression.quantize_run import QuantizeOptions, quantize_run  # noqa: PLC0415 - see above
    from trainer.saved_run import open_saved_run  # noqa: PLC0415 - see above

    bits = arguments.bits or _GGUF_BITS[arguments.gguf]
    size = arguments.group_size or (_GROUP_SIZE if bits == 4 or arguments.gguf else None)
    options = QuantizeOptions(
        bits=bits,
        group_size=size,
        method=arguments.method or ("gptq" if arguments.calibration is not None else "round"),
        calibration=arguments.calibration,
        calibration_rows=arguments.calibration_rows,
        row_length=arguments.row_length,
        embedding_bits=arguments.embedding_bits,
        has_offsets=arguments.offsets,
        max_size=arguments.max_size,
        validation=arguments.validation,
        validation_rows=arguments.validation_rows,
        gguf=arguments.gguf,
        base=arguments.base,
        decoding_rounds=arguments.decoding_rounds,
    )
    with interruptible(arguments.output):
        result = quantize_run(open_saved_run(arguments.path, verify=True), arguments.output, options)
    write_output(to_json(result.to_record()) + "\n")
    return EXIT_OK


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trireme quantize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a run directory, an import or a checkpoint")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="a new run directory; with --gguf, a new file")
    parser.add_argument("--bits", type=int, choices=(8, 4), help="of a weight (default: those of --gguf)")
    parser.add_argument(
        "--group-size",
        type=int,
        metavar="N",
        help=f"inputs that share a scale (default: {_GROUP_SIZE} for 4 bits and GGUF files, all for 8 bits)",
    )
    parser.add_argument(
        "--method",
        choices=("round", "gptq"),
        help="round to the nearest, or feed errors back on calibration rows (default: gptq with --calibration)",
    )
    parser.add_argument(
        "--embedding-bits",
        type=int,
        choices=(4, 8, 32),
        help="of the tables of embeddings and output; 32 leaves them in fp32 (default: 8; with --bits 4, 4 where the "
        "tables have more than a third of the weights, but 8 in GGUF files)",
    )
    parser.add_argument(
        "--offsets",
        action="store_true",
        help="give each group of 4 bits an offset beside its scale, as Q4_1 has, for another half bit a weight",
    )
    parser.add_argument(
        "--max-size",
        type=float,
        metavar="SHARE",
        help="with --bits 4, give 8 bits to the matrices whose 4 bits cost most on the calibration rows, up to this "
        "share of fp32; 0 gives 4 bits to all (default: 0.18 where tables have 8 bits and groups no offsets)",
    )
    parser.add_argument("--gguf", choices=tuple(_GGUF_BITS), help="write a GGUF file with this type of its matrices")
    rows = parser.add_argument_group("rows of tokens")
    rows.add_argument("--calibration", type=Path, metavar="PREFIX", help="token shard for --method gptq")
    rows.add_argument("--calibration-rows", type=int, default=128, metavar="N", help="default: %(default)s")
    rows.add_argument("--validation", type=Path, metavar="PREFIX", help="token shard for perplexities before and after")
    rows.add_argument("--validation-rows", type=int, default=64, metavar="N", help="default: %(default)s")
    rows.add_argument(
        "--row-length", type=int, metavar="N", help="tokens of a row (default: the model's seq_length, at most 512)"
    )
    add_decoding_option(parser)
    add_base_option(parser)
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> list[Violation]:
    """Return the errors of all arguments."""
    found = check_extra("huggingface", ["safetensors"])
    if arguments.bits is None and arguments.gguf is None:
        found.append(Violation(path="--bits", value="", message="must be set without --gguf", fix="Use 8 or 4."))
    elif arguments.bits is not None and arguments.gguf is not None and arguments.bits != _GGUF_BITS[arguments.gguf]:
        message = f"contradicts --gguf {arguments.gguf}, which has {_GGUF_BITS[arguments.gguf]} bits"
        found.append(Violation(path="--bits", value=arguments.bits, message=message, fix="Remove it."))
    found += check_counts(arguments, ("group_size", "calibration_rows", "validation_rows", "row_length"))
    found += check_decoding_rounds(arguments)
    if arguments.gguf is not None and arguments.group_size is not None and arguments.group_size % 32:
        message, fix = "must be a multiple of 32, the weights of a GGUF file's block", "Use 32."
        found.append(Violation(path="--group-size", value=arguments.group_size, message=message, fix=fix))
    if arguments.gguf is not None and arguments.embedding_bits == 4:
        message, fix = "must be 8 or 32 in a GGUF file", "Remove it."
        found.append(Violation(path="--embedding-bits", value=4, message=message, fix=fix))
    if arguments.method == "gptq" and arguments.calibration is None:
        message, fix = "requires calibration rows", "Give a token shard with --calibration."
        found.append(Violation(path="--method", value="gptq", message=message, fix=fix))
    if arguments.method == "round" and arguments.calibration is not None:
        message, fix = "is read with --method gptq only", "Remove one of the two."
        found.append(Violation(path="--calibration", value=arguments.calibration, message=message, fix=fix))
    if arguments.offsets and (arguments.bits == 8 or arguments.gguf in ("Q8_0", "Q4_0")):
        message, fix = "requires groups of 4 bits that can have them", "Set --bits 4 or --gguf Q4_1."
        found.append(Violation(path="--offsets", value=True, message=message, fix=fix))
    size = arguments.max_size
    if size is not None and not 0 <= size <= 1:
        found.append(Violation(path="--max-size", value=size, message="must be between 0 and 1", fix="Use 0.18."))
    elif size and (arguments.bits != 4 or arguments.calibration is None or arguments.offsets or arguments.gguf):
        message = "requires 4 bits with calibration, without offsets, and no GGUF file"
        fix = "Remove it, or use --bits 4 and --calibration."
        found.append(Violation(path="--max-size", value=size, message=message, fix=fix))
    return found


if __name__ == "__main__":
    sys.exit(main())
