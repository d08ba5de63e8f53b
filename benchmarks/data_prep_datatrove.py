"""datatrove's side of benchmarks/data_prep.py; runs in the peers' virtual environment, beside nothing of this project.

python data_prep_datatrove.py extract ARCHIVE...
python data_prep_datatrove.py chain ARCHIVES_DIRECTORY OUTPUT_DIRECTORY TOKENIZER_JSON NUM_WORKERS
"""

import json
import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import JsonlReader, WarcReader
from datatrove.pipeline.tokens import MegatronDocumentTokenizer
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.hashing import HashConfig

END_OF_TEXT = "<|endoftext|>"


def run_chain(archives: Path, output: Path, tokenizer: str, num_workers: int) -> dict[str, int]:
    """The pipeline of datatrove's examples/fineweb.py, less URLFilter and LanguageFilter, then tokens."""
    num_tasks = len(list(archives.glob("*.warc.gz")))
    config = MinhashConfig(
        hash_config=HashConfig(hash_fc="sha1", precision=64), num_buckets=14, hashes_per_bucket=8, n_grams=5
    )
    filtered, places = f"{output}/filtered", {name: f"{output}/{name}" for name in ("signatures", "buckets", "removed")}
    stages = [
        (
            num_tasks,
            [
                WarcReader(str(archives), glob_pattern="*.warc.gz"),
                Trafilatura(favour_precision=True),
                GopherRepetitionFilter(),
                GopherQualityFilter(),
                C4QualityFilter(filter_no_terminal_punct=False),
                FineWebQualityFilter(),
                JsonlWriter(filtered),
            ],
        ),
        (num_tasks, [JsonlReader(filtered), MinhashDedupSignature(output_folder=places["signatures"], config=config)]),
        (
            config.num_buckets,
            [MinhashDedupBuckets(places["signatures"], output_folder=places["buckets"], config=config)],
        ),
        (1, [MinhashDedupCluster(places["buckets"], output_folder=places["removed"], config=config)]),
        (
            num_tasks,
            [
                JsonlReader(filtered),
                MinhashDedupFilter(places["removed"]),
                MegatronDocumentTokenizer(
                    f"{output}/tokens", tokenizer_name_or_path=tokenizer, eos_token=END_OF_TEXT, batch_size=1000
                ),
            ],
        ),
    ]
    executor = None
    for number, (tasks, pipeline) in enumerate(stages):
        executor = LocalPipelineExecutor(
            pipeline=pipeline, tasks=tasks, workers=num_workers, logging_dir=f"{output}/logs/{number}"
        )
        executor.run()
    sizes = [path.stat().st_size for path in Path(output, "tokens").rglob("*.bin")]
    return {"num_tokens": sum(sizes) // 2, "num_documents": _count(Path(output, "tokens"))}


def _count(directory: Path) -> int:
    """Documents by the headers of Megatron indices: magic (9 bytes), version (8), type (1), sequences (8)."""
    count = 0
    for path in directory.rglob("*.idx"):
        with open(path, "rb") as stream:
            count += int.from_bytes(stream.read(26)[18:26], "little")
    return count


if __name__ == "__main__":
    print(json.dumps(run_chain(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))
