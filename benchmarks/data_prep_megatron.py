"""Megatron-LM's side of benchmarks/data_prep.py: the algorithm of its tools/preprocess_data.py, with its own libraries.

Source: Megatron-LM core_v0.16.1, tools/preprocess_data.py, with one partition: a pool whose initializer builds the
tokenizer takes the lines of a JSONL file in chunks of 32 and sends the ids of each document back as a list; the parent
writes them with `IndexedDatasetBuilder`. The tokenizer is `SentencePieceTokenizer` of megatron.core, with its defaults.

    python -m benchmarks.data_prep_megatron JSONL OUTPUT_PREFIX TOKENIZER_MODEL NUM_WORKERS
"""

import json
import multiprocessing
import resource
import sys
import time
from typing import Any

from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
from megatron.core.tokenizers.text.libraries.sentencepiece_tokenizer import SentencePieceTokenizer

CHUNK_LINES = 32


class Encoder:
    """What a worker does with a line."""

    tokenizer: Any = None

    @classmethod
    def start(cls, path: str, startup_seconds: Any) -> None:
        """Build a worker's tokenizer, and add up what it took to come so far."""
        cls.tokenizer = SentencePieceTokenizer(path)
        with startup_seconds.get_lock():
            startup_seconds.value += time.process_time()

    @classmethod
    def encode(cls, line: str) -> tuple[list[int], list[int], int]:
        """Ids of the document on a line with the end mark, lengths of its sentences (one), and the line's length."""
        ids = list(cls.tokenizer.text_to_ids(json.loads(line)["text"]))
        if ids:
            ids.append(cls.tokenizer.eos_id)
        return ids, [len(ids)], len(line)


def preprocess(path: str, prefix: str, tokenizer_path: str, num_workers: int) -> dict[str, float]:
    """Write PREFIX.bin and PREFIX.idx.

    Returns:
        CPU time of all processes and wall time, without those of imports, of the pool's start and of the tokenizers'.
    """
    startup_seconds = multiprocessing.Value("d", 0.0)
    vocab_size = SentencePieceTokenizer(tokenizer_path).vocab_size
    with open(path, encoding="utf-8") as stream:
        pool = multiprocessing.Pool(num_workers, initializer=Encoder.start, initargs=(tokenizer_path, startup_seconds))
        builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(vocab_size))
        pool.map(abs, range(num_workers * 8), chunksize=1)
        start, wall_start = time.process_time(), time.perf_counter()
        for ids, lengths, _ in pool.imap(Encoder.encode, stream, CHUNK_LINES):
            builder.add_document(ids, lengths)
        builder.finalize(f"{prefix}.idx")
        wall, own = time.perf_counter() - wall_start, time.process_time() - start
        pool.close()
        pool.join()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    workers = usage.ru_utime + usage.ru_stime - startup_seconds.value
    return {"cpu_seconds": own + workers, "wall_seconds": wall}


if __name__ == "__main__":
    print(json.dumps(preprocess(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))))
