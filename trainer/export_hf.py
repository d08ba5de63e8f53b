"""Export a checkpoint for Hugging Face transformers, vLLM and llama.cpp's converter, and prove it by its logits.

    trireme export-hf PATH OUTPUT_DIR

PATH is a run directory, whose latest valid checkpoint is exported, or a checkpoint; it may have been saved under any
layout and engine. OUTPUT_DIR gets config.json, safetensors files (with an index if there are several), the tokenizer's
files, generation_config.json and the chat template. The first family of transformers whose settings mean this very
model is chosen; of imported weights, the family that they came from, in the data types that they had.

Adapters (LoRA) are added to the weights of their base. With --adapter, OUTPUT_DIR gets the adapters alone, in peft's
format: adapter_config.json and adapter_model.safetensors, in fp32. --base-model says where peft finds the base: a name
on Hugging Face's hub, or the directory of its export.

Weights are copied in small parts: only the proof needs memory for the whole model, 4 bytes per parameter; --gate off
skips it. With 16-bit weights, the proof compares models with equally rounded weights.

Prints one line of JSON. Exit codes: 0 done, 1 the logits differ from those of transformers or the disk is full, 2
invalid input, 130 interrupted, 143 terminated. In every case but 0, OUTPUT_DIR stays as it was.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.huggingface.cli import add_base_option, add_gate_option, describe, interruptible
from trireme.command import run_command, write_output
from trireme.errors import EXIT_OK, Violation, raise_if_any
from trireme.extras import check_extra
from trireme.logging import configure_logging
from trireme.strict_json import to_json

if TYPE_CHECKING:
    from trainer.saved_run import SavedRun


def main() -> int:
    """Run the command."""
    configure_logging(rank=0)
    return run_command(lambda: run(_parse()))


def run(arguments: argparse.Namespace) -> int:
    """Export the checkpoint and print the result.

    Raises:
        ConfigError: the checkpoint cannot be exported, or the output directory cannot be used.
        RunStopped: the logits differ.
    """
    has_gate = arguments.gate == "on"
    proving = ["transformers", *(["peft"] if arguments.adapter else [])] if has_gate else []
    violations = check_extra("huggingface", ["safetensors", *proving])
    if arguments.adapter and arguments.dtype not in (None, "fp32"):
        message, fix = "cannot be combined with --adapter: adapters are written in fp32", "Remove one of them."
        violations.append(Violation(path="--dtype", value=arguments.dtype, message=message, fix=fix))
    if arguments.base_model is not None and not arguments.adapter:
        message, fix = "is written with --adapter only", "Add --adapter, or remove it."
        violations.append(Violation(path="--base-model", value=arguments.base_model, message=message, fix=fix))
    elif arguments.base_model is not None and not arguments.base_model.strip():
        message, fix = "must name the base model", "Give its name on the hub, or the directory of its export."
        violations.append(Violation(path="--base-model", value=arguments.base_model, message=message, fix=fix))
    if not 0 < arguments.max_shard_gb < math.inf:
        message, fix = "must be greater than 0 and finite", "Use 5, for example."
        violations.append(Violation(path="--max-shard-gb", value=arguments.max_shard_gb, message=message, fix=fix))
    raise_if_any(violations)
    # Late: arguments are checked first, and the shim must be installed before Megatron-Core is imported.
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see above

    cpu_shim.install()
    from trainer.huggingface.adapter_files import export_adapter  # noqa: PLC0415 - see above
    from trainer.huggingface.exporting import export_model  # noqa: PLC0415 - see above
    from trainer.saved_run import open_saved_run  # noqa: PLC0415 - see above

    with interruptible(arguments.output):
        saved, base = open_saved_run(arguments.path, verify=True), arguments.base
        if arguments.adapter:
            raise_if_any(_check_adapter(saved))
            adapter = export_adapter(
                saved, arguments.output, base=base, base_model=arguments.base_model, has_gate=has_gate
            )
            result = describe(adapter)
        else:
            exported = export_model(
                saved,
                arguments.output,
                dtype=arguments.dtype,
                max_shard_bytes=int(arguments.max_shard_gb * 1e9),
                has_gate=has_gate,
                base=base,
            )
            result = describe(exported)
    write_output(to_json(result) + "\n")
    return EXIT_OK


def _check_adapter(saved: "SavedRun") -> list[Violation]:
    if saved.state.base is not None:
        return []
    message, fix = "holds all weights and no adapters", "Remove --adapter."
    return [Violation(path="--adapter", value=saved.checkpoint, message=message, fix=fix)]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trireme export-hf", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a run directory or a checkpoint")
    parser.add_argument("output", type=Path, metavar="OUTPUT_DIR", help="a new or empty directory")
    parser.add_argument(
        "--dtype",
        choices=("fp32", "bf16", "fp16"),
        help="data type of the weights (default: that of the import they come from, else fp32)",
    )
    parser.add_argument(
        "--max-shard-gb", type=float, default=5.0, help="largest size of a weight file in GB (default: %(default)s)"
    )
    parser.add_argument("--adapter", action="store_true", help="write the adapters alone, in peft's format")
    parser.add_argument(
        "--base-model",
        metavar="NAME_OR_PATH",
        help="with --adapter: from where peft loads the base, for adapter_config.json (default: the name of what was "
        "imported)",
    )
    add_base_option(parser)
    add_gate_option(parser)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
