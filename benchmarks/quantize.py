"""Measure what quantization costs and saves: size, perplexity before and after, speed of decoding before and after.

Perplexities are on rows of the quickstart's validation shard, calibration rows on its training shard; for a model with
another tokenizer, their text is encoded again. Speeds are on this machine, in one thread: new tokens a second after a
short prompt, for one text and for eight at once, and prompt tokens a second, in rounds that alternate between all
models. Prints one JSON line.

    python -m benchmarks.quantize [MODEL] [--rows 48] [--variants int8 int8_gptq int4_gptq ...]

MODEL is a run directory or an import; the default is outputs/quickstart, which needs `make quickstart`.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.output import take_stdout

FIGURES = take_stdout() if __name__ == "__main__" else sys.stdout  # before libraries are imported that write to it

from trainer.parallel import cpu_shim  # noqa: E402

cpu_shim.install()  # before Megatron-Core is imported

import numpy as np  # noqa: E402
import torch  # noqa: E402

from trainer.compression.decoding import NUM_TEXTS, measure_decoding  # noqa: E402
from trainer.compression.quantize_run import QuantizeOptions, quantize_run  # noqa: E402
from trainer.compression.whole_model import one_process  # noqa: E402
from trainer.inference.loading import load_model  # noqa: E402
from trainer.inference.options import ModelOptions  # noqa: E402
from trainer.saved_run import SavedRun, open_saved_run  # noqa: E402
from trireme.shards.shard import ShardReader, ShardWriter, token_dtype  # noqa: E402
from trireme.tokenizer.tokenizer import Tokenizer  # noqa: E402

VARIANTS: dict[str, dict[str, Any]] = {
    "int8": {"bits": 8, "group_size": None},
    "int8_gptq": {"bits": 8, "group_size": None, "method": "gptq"},
    "int8_groups_of_64": {"bits": 8, "group_size": 64},
    "int4": {"bits": 4, "group_size": 32},
    "int4_gptq": {"bits": 4, "group_size": 32, "method": "gptq"},
    "int4_gptq_all": {"bits": 4, "group_size": 32, "method": "gptq", "max_size": 0.0},
    "int4_gptq_tables_of_4": {"bits": 4, "group_size": 32, "method": "gptq", "embedding_bits": 4},
    "int4_gptq_tables_of_8": {"bits": 4, "group_size": 32, "method": "gptq", "embedding_bits": 8},
    "int4_offsets": {"bits": 4, "group_size": 32, "has_offsets": True},
    "int4_offsets_gptq": {"bits": 4, "group_size": 32, "has_offsets": True, "method": "gptq"},
    "gguf_q8_0": {"bits": 8, "group_size": 32, "gguf": "Q8_0"},
    "gguf_q4_0_gptq": {"bits": 4, "group_size": 32, "gguf": "Q4_0", "method": "gptq"},
    "gguf_q4_1": {"bits": 4, "group_size": 32, "gguf": "Q4_1"},
}
ROW_LENGTH = 256


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=Path("outputs/quickstart"), metavar="MODEL")
    parser.add_argument("--rows", type=int, default=48, help="of validation, of 256 tokens (default: %(default)s)")
    parser.add_argument("--calibration-rows", type=int, default=128, help="of 256 tokens (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("outputs/quickstart/data"), help="default: %(default)s")
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--no-decoding", action="store_true", help="measure sizes and perplexities alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    saved = open_saved_run(arguments.model, verify=False)
    result: dict[str, Any] = {
        "model": arguments.model.resolve().name,
        "threads": 1,
        "decoding": {},
        "variants": {},
    }
    with tempfile.TemporaryDirectory(prefix="trireme-quantize-") as folder:
        train, validation = (
            encode_again(saved, arguments.data, name, folder=Path(folder)) for name in ("train", "validation")
        )
        for name in arguments.variants:
            settings = VARIANTS[name]
            options = QuantizeOptions(
                calibration=train if settings.get("method") == "gptq" else None,
                calibration_rows=arguments.calibration_rows,
                row_length=ROW_LENGTH,
                validation=validation,
                validation_rows=arguments.rows,
                **settings,
            )
            output = Path(folder, name + (".gguf" if options.gguf else ""))
            start = time.monotonic()
            written = quantize_run(saved, output, options).to_record()
            seconds = time.monotonic() - start
            keys = ("num_bytes", "size_ratio", "embedding_bits", "max_size", "error_ratio", "perplexity")
            record = {key: written[key] for key in keys}
            record |= {"num_fine": len(written["fine"])}
            record |= {"calibration_rows": None if options.calibration is None else arguments.calibration_rows}
            record |= {"seconds_with_validation": round(seconds, 1)}
            result["variants"][name] = record
            print(name, json.dumps(record), file=sys.stderr, flush=True)
            gc.collect()
        outputs = {(name, "bf16"): Path(folder, name) for name in arguments.variants if "gguf" not in VARIANTS[name]}
        originals = {("", "fp32"): arguments.model, ("", "bf16"): arguments.model}
        speeds = {} if arguments.no_decoding else measure_speeds(originals | outputs)
        for (name, dtype), speed in speeds.items():
            if name:
                result["variants"][name][f"decoding_{dtype}"] = speed
            else:
                result["decoding"][dtype] = speed
    print(json.dumps(result), file=FIGURES)
    return 0


def encode_again(saved: SavedRun, data: Path, name: str, *, folder: Path) -> Path:
    """Return a shard of the quickstart's text in the tokens of a model."""
    old = Tokenizer(data / "tokenizer.model")
    assert saved.tokenizer_path is not None
    new = Tokenizer(saved.tokenizer_path)
    if new.sha256 == old.sha256:
        return data / name
    reader = ShardReader(data / name)
    with ShardWriter(folder / name, dtype=token_dtype(new.vocab_size)) as writer:
        for number in range(reader.num_documents):
            text = old.decode([token for token in reader.document(number).tolist() if token != old.eos_id])
            tokens = [*new.encode(text), *([] if new.eos_id is None else [new.eos_id])]
            writer.add_document(np.array(tokens, dtype=np.int64))
            if writer.num_tokens > 200_000:
                break
        writer.commit()
    return folder / name


def measure_speeds(paths: dict[tuple[str, Any], Path]) -> dict[tuple[str, Any], dict[str, float]]:
    """Return tokens a second of processor time: new ones of one text and of eight, and those of a prompt. Medians."""
    with one_process() as world:
        models = {
            (name, dtype): load_model(
                ModelOptions(path=path, params_dtype=dtype, max_batch_size=NUM_TEXTS), world=world, verify=False
            )
            for (name, dtype), path in paths.items()
        }
        return {key: asdict(speed) for key, speed in measure_decoding(models, clock=time.process_time).items()}


if __name__ == "__main__":
    sys.exit(main())
