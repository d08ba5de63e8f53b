"""How long a run waits for its data: open a data set of a trillion tokens and draw the first batch.

The shards are sparse files: they have the sizes and the index of real ones, but take no room. A fresh process opens
them and draws one data-parallel rank's first step; importing torch and this project is not counted in the figures.
Prints one JSON line:

    {"num_tokens": ..., "num_shards": ..., "num_documents": ..., "sequences": ..., "seq_length": ...,
     "seconds": ..., "rss_growth_mb": ..., "rss_total_mb": ...}

Usage: python -m benchmarks.data_startup [--num-tokens N] [--num-shards N] [--directory DIR]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from trainer.config.run import DatasetConfig
from trainer.data.loader import build_loader
from trireme.shards.shard import CODE_OF_DTYPE, HEADER, INDEX_VERSION, MAGIC, shard_file

TOKENS_PER_DOCUMENT = 1000
SEQ_LENGTH = 4096
GLOBAL_BATCH_SIZE = 256
DP_SIZE = 8
SEED = 1234
REPOSITORY = Path(__file__).resolve().parents[1]


def write_sparse_shard(prefix: Path, *, num_tokens: int) -> None:
    """Make a shard of zeros whose header, sizes and last index entry are right; only those take room on disk."""
    dtype = np.dtype("<u2")
    count = num_tokens // TOKENS_PER_DOCUMENT
    last_start = (count - 1) * TOKENS_PER_DOCUMENT
    with open(shard_file(prefix, ".bin"), "wb") as stream:
        stream.truncate(num_tokens * dtype.itemsize)
    with open(shard_file(prefix, ".idx"), "wb") as stream:
        stream.write(HEADER.pack(MAGIC, INDEX_VERSION, CODE_OF_DTYPE[dtype], count, count + 1))
        stream.truncate(HEADER.size + 12 * count + 8 * (count + 1))
        stream.seek(HEADER.size + 4 * (count - 1))
        stream.write(np.array(num_tokens - last_start, dtype="<i4").tobytes())
        stream.seek(HEADER.size + 12 * count - 8)
        stream.write(np.array(last_start * dtype.itemsize, dtype="<i8").tobytes())


def measure(prefixes: list[str]) -> dict[str, float]:
    """Draw the first step of rank 0; to be run in a process that has done nothing else."""
    rss_before, start = _memory_bytes("VmRSS"), time.perf_counter()
    with build_loader(
        [DatasetConfig(paths=prefixes)],
        seed=SEED,
        seq_length=SEQ_LENGTH,
        dp_rank=0,
        dp_size=DP_SIZE,
        micro_batch_size=4,
        global_batch_size=GLOBAL_BATCH_SIZE,
    ) as loader:
        micro_batches = loader.next_step()
        seconds = time.perf_counter() - start
    # The peak, not what is left: whatever was needed on the way counts.
    peak = _memory_bytes("VmHWM")
    return {
        "sequences": sum(len(micro_batch.sample_ids) for micro_batch in micro_batches),
        "seq_length": SEQ_LENGTH,
        "seconds": round(seconds, 4),
        "rss_growth_mb": round(max(peak - rss_before, 0) / 1e6, 1),
        "rss_total_mb": round(peak / 1e6, 1),
    }


def _memory_bytes(name: str) -> int:
    """Read a field of /proc/self/status; getrusage's peak would include the process that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def run(directory: Path, *, num_tokens: int, num_shards: int) -> dict[str, float]:
    """Make the shards and measure them in a fresh process."""
    prefixes = [str(directory / f"shard_{i:05d}") for i in range(num_shards)]
    per_shard = num_tokens // num_shards
    for prefix in prefixes:
        write_sparse_shard(Path(prefix), num_tokens=per_shard)
    command = [sys.executable, "-m", "benchmarks.data_startup", "--measure"]
    child = subprocess.run(
        command, input="\n".join(prefixes), stdout=subprocess.PIPE, text=True, check=True, cwd=REPOSITORY
    )
    sizes = {
        "num_tokens": per_shard * num_shards,
        "num_shards": num_shards,
        "num_documents": per_shard // TOKENS_PER_DOCUMENT * num_shards,
    }
    return {**sizes, **json.loads(child.stdout)}


def main() -> None:
    """Parse arguments and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-tokens", type=int, default=10**12)
    parser.add_argument("--num-shards", type=int, default=100)
    parser.add_argument("--directory", type=Path, help="where the sparse files go; must allow sparse files")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(sys.stdin.read().split("\n"))))
        return
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        figures = run(Path(directory), num_tokens=arguments.num_tokens, num_shards=arguments.num_shards)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
