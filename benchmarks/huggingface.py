"""Measure memory and time of importing and exporting Hugging Face weights of the shape of Llama 3.1 8B.

Random bf16 weights in the published widths (hidden 4096, MLP 14336, vocabulary 128,256), with few layers, are imported
and exported without the proof by logits, each by its command in a process of its own. Peak memory is the process's
largest resident size. That of all 32 layers is estimated from what each layer adds between the two largest models. The
exported file is compared with the imported one. Needs 15.5 GB of disk for 7 layers. Prints one JSON line.

    python -m benchmarks.huggingface [--layers 1 3 7] [--directory DIR]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.output import take_stdout

FIGURES = take_stdout() if __name__ == "__main__" else sys.stdout  # before libraries are imported that write to it

import torch  # noqa: E402 - see above

from trainer.config.model import ModelConfig  # noqa: E402 - as above
from trainer.config.model_math import count_parameters  # noqa: E402 - as above
from trainer.huggingface.config_json import CONFIG_NAME  # noqa: E402 - as above
from trainer.huggingface.families.family import config_of  # noqa: E402 - as above
from trainer.huggingface.families.llama import LLAMA  # noqa: E402 - as above
from trainer.huggingface.native_weights import row_ranges  # noqa: E402 - as above
from trainer.huggingface.tensor_map import build_rules, list_source_tensors  # noqa: E402 - as above
from trainer.huggingface.weight_files import PlannedTensor, SafetensorsWriter  # noqa: E402 - as above
from trireme.shards.manifest import hash_file  # noqa: E402 - as above

VOCAB_SIZE = 128256
NUM_LAYERS = 32
LIMIT_BYTES = 4e9


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 3, 7], help="default: %(default)s")
    parser.add_argument("--directory", type=Path, help="for the files (default: a temporary directory)")
    arguments = parser.parse_args()
    results = []
    for num_layers in arguments.layers:
        with tempfile.TemporaryDirectory(prefix="trireme-huggingface-", dir=arguments.directory) as folder:
            results.append(measure(Path(folder), num_layers=num_layers))
    peak = max(estimate_peak(results, f"{name}_peak_gb") for name in ("import", "export"))
    print(
        json.dumps(
            {
                "shape": "Llama 3.1 8B, bf16",
                "results": results,
                "estimated_peak_gb_of_32_layers": round(peak, 3),
                "is_below_4_gb": peak * 1e9 < LIMIT_BYTES,
                "cores": os.cpu_count(),
            }
        ),
        file=FIGURES,
    )
    return 0


def estimate_peak(results: list[dict[str, Any]], name: str) -> float:
    """Return the peak of all layers by the growth between the two largest models, at least the largest measured."""
    peaks = {result["num_layers"]: result[name] for result in results}
    *_, fewer, more = [0, *sorted(peaks)]
    growth = (peaks[more] - peaks[fewer]) / (more - fewer) if fewer else 0.0
    return float(max(*peaks.values(), peaks[more] + growth * (NUM_LAYERS - more)))


def measure(folder: Path, *, num_layers: int) -> dict[str, Any]:
    """Import and export one model."""
    model = ModelConfig(
        num_layers=num_layers,
        hidden_size=4096,
        ffn_hidden_size=14336,
        num_attention_heads=32,
        num_query_groups=8,
        seq_length=131072,
        rotary_base=500000.0,
        rope_scaling_factor=8.0,
        vocab_size=VOCAB_SIZE,
    )
    write_source(folder / "source", model)
    imported = run("trainer.import_hf", str(folder / "source"), str(folder / "run"), "--gate", "off")
    before = hash_file(folder / "source" / "model.safetensors")
    shutil.rmtree(folder / "source")
    exported = run(
        "trainer.export_hf", str(folder / "run"), str(folder / "out"), "--gate", "off", "--max-shard-gb", "1000"
    )
    return {
        "num_layers": num_layers,
        "num_parameters": count_parameters(model, VOCAB_SIZE),
        **{f"import_{key}": value for key, value in imported.items()},
        **{f"export_{key}": value for key, value in exported.items()},
        "is_bitwise_equal": before == hash_file(folder / "out" / "model.safetensors"),
    }


def write_source(directory: Path, model: ModelConfig) -> None:
    """Write random weights as Hugging Face stores them."""
    directory.mkdir()
    rules = build_rules(model, LLAMA.names(model), vocab_size=VOCAB_SIZE, padded_vocab_size=VOCAB_SIZE)
    planned = [PlannedTensor(tensor=tensor, dtype=torch.bfloat16) for tensor in list_source_tensors(rules)]
    writer = SafetensorsWriter(directory, planned, max_shard_bytes=10**12)
    generator = torch.Generator().manual_seed(1)
    for one in planned:
        shape = one.tensor.shape
        for first, end in row_ranges(shape):
            writer.write(one.tensor.name, first, torch.randn(end - first, *shape[1:], generator=generator))
    writer.close()
    content = config_of(LLAMA, model, vocab_size=VOCAB_SIZE)
    (directory / CONFIG_NAME).write_text(json.dumps(content))


def run(module: str, *arguments: str) -> dict[str, float]:
    """Run a command; return its time and its largest resident size."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, module)
    return {"seconds": round(time.monotonic() - start, 1), "peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 3)}


if __name__ == "__main__":
    sys.exit(main())
