"""Import a model of Hugging Face transformers, or a GGUF file, and prove it by its logits.

    trireme import-hf SOURCE OUTPUT_DIR

SOURCE is a directory with config.json and safetensors files, or a .gguf file, whose quantized weights are converted to
fp32. OUTPUT_DIR becomes a run directory with one checkpoint of weights: generate, evaluate and export read it, and a
run continues the training of its weights with pretrained_checkpoint=OUTPUT_DIR, under any layout and engine.

With --base, SOURCE is an adapter that peft has saved, and OUTPUT_DIR becomes a run directory with adapters on that
checkpoint, from which a run with the same lora settings continues.

Families: Llama (also SmolLM, Yi), Mistral, Mixtral, Qwen2, Qwen2-MoE, Qwen3, Qwen3-MoE, OLMo 2, Gemma 1 to 3 (text),
GPT-2, DeepSeek-V3. Only safetensors are read, and no code that comes with a model is run; a setting that cannot be
represented is refused by name. Weights are read in small parts: only the proof needs memory for the whole model, 4
bytes per parameter; --gate off skips it.

Prints one line of JSON. Exit codes: 0 done, 1 the logits differ from those of transformers or the disk is full, 2
invalid input, 130 interrupted, 143 terminated. In every case but 0, OUTPUT_DIR has no new checkpoint.
"""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from trainer.huggingface.cli import add_gate_option, describe, interruptible
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
    """Import the model and print the result.

    Raises:
        ConfigError: the source cannot be imported, or the output directory cannot be used.
        RunStopped: the logits differ.
    """
    if arguments.base is not None:
        return _import_adapter(arguments)
    is_gguf = arguments.source.suffix == ".gguf"
    packages = ["safetensors", *(["transformers"] if arguments.gate == "on" else []), *(["gguf"] if is_gguf else [])]
    if is_gguf and arguments.gate == "on":
        packages.append("accelerate")
    raise_if_any(check_extra("huggingface", packages))
    # Late: arguments are checked first, and the shim must be installed before Megatron-Core is imported.
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see above

    cpu_shim.install()
    from trainer.huggingface.importing import import_model, open_source  # noqa: PLC0415 - see above
    from trainer.huggingface.output_directory import scratch_directory  # noqa: PLC0415 - see above

    with interruptible(arguments.output), contextlib.ExitStack() as stack:
        if is_gguf:
            from trainer.huggingface.gguf_files import open_gguf  # noqa: PLC0415 - an optional dependency

            folder = scratch_directory(Path(tempfile.gettempdir()), prefix="trireme-import-")
            source = open_gguf(arguments.source, folder=stack.enter_context(folder))
        else:
            source = open_source(arguments.source)
        result = import_model(source, arguments.output, has_gate=arguments.gate == "on")
    write_output(to_json(describe(result)) + "\n")
    return EXIT_OK


def _import_adapter(arguments: argparse.Namespace) -> int:
    """Import an adapter of peft and print the result."""
    has_gate = arguments.gate == "on"
    raise_if_any(check_extra("huggingface", ["safetensors", *(["transformers", "peft"] if has_gate else [])]))
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see run

    cpu_shim.install()
    from trainer.huggingface.adapter_files import import_adapter  # noqa: PLC0415 - see run
    from trainer.saved_run import open_saved_run  # noqa: PLC0415 - see run

    with interruptible(arguments.output):
        base = open_saved_run(arguments.base, verify=True, name="--base")
        result = import_adapter(arguments.source, arguments.output, base=base, has_gate=has_gate)
    write_output(to_json(describe(result)) + "\n")
    return EXIT_OK


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trireme import-hf", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a model's directory, or a .gguf file")
    parser.add_argument("output", type=Path, metavar="OUTPUT_DIR", help="run directory that gets the checkpoint")
    parser.add_argument(
        "--base", type=Path, metavar="PATH", help="import SOURCE as adapters of peft on this run or checkpoint"
    )
    add_gate_option(parser)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
