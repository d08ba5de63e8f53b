"""The speed and memory of data preparation against warcio + trafilatura, datatrove and Megatron-LM.

Works on real samples (--samples DIRECTORY) or else on the quickstart's inputs. The two sides of a part run in
alternating rounds, so that a noisy machine is noisy for both; a part's figure is the median of the rounds' ratios.
Prints one JSON line per part:

    extraction  WARC to text: CPU time of warcio + trafilatura / of ours
    chain       WARC to token shards, with near duplicates removed: wall time of datatrove / of `data_tools.prepare`
    tokenize    tokenize and pack JSON lines with the same SentencePiece model: CPU time of the algorithm of
                Megatron-LM's preprocess_data.py / of our last stage, without start-up; the files must be equal.
                ratio_of_sentencepiece_alone is what a side would reach that had nothing to do but call SentencePiece
    memory      peak memory of a worker on ten times the input / on the input

The peers get a virtual environment of their own under --cache, made with pip from benchmarks/data_prep_peers.txt.

    python -m benchmarks.data_prep [--samples DIRECTORY] [--parts extraction,chain,...] [--rounds 5]
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data_prep_inputs import (
    find_samples,
    read_english,
    read_web_pages,
    train_huggingface,
    train_sentencepiece,
    write_archives,
    write_jsonl,
)
from benchmarks.data_prep_processes import (
    DATATROVE_PROGRAM,
    EXTRACTION_PROGRAM,
    find_peers_python,
    measure_peaks,
    run,
    run_module,
)
from trireme.shards.shard import ShardReader
from trireme.tokenizer.tokenizer import Tokenizer

GOALS = {"extraction": 15.0, "chain": 8.0, "tokenize_bpe": 1.2, "tokenize_unigram": 3.0, "memory": 1.05}
VOCAB_SIZE = 16000
NUM_WORKERS = 2
NUM_CHECKED_DOCUMENTS = 200
MEMORY_COPIES = 10
NOTE_ON_CHAIN = (
    "datatrove: WarcReader, Trafilatura, GopherRepetition, GopherQuality, C4Quality, FineWebQuality, MinHash in 4"
    " stages, MegatronDocumentTokenizer; without LanguageFilter, which downloads its model, and without URLFilter. Ours"
    " has both steps, and removal of lines, personal data, ledger and checksums"
)

Side = Callable[[], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the parts share."""

    samples: Path
    work: Path
    cache: Path
    num_rounds: int
    chain_copies: int


def alternate(ours: Side, peer: Side, *, num_rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run both sides in every round, now the one first, now the other."""
    figures: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for number in range(num_rounds):
        sides = [(ours, figures[0]), (peer, figures[1])]
        for side, found in sides if number % 2 == 0 else sides[::-1]:
            found.append(side())
    return figures


def compare(
    ours: list[dict[str, Any]], peer: list[dict[str, Any]], key: str, *, goal: float, name: str
) -> dict[str, Any]:
    """The peer's figure divided by ours, round by round."""
    ratios = [theirs[key] / mine[key] for mine, theirs in zip(ours, peer, strict=True)]
    return {
        "median_ratio": round(statistics.median(ratios), 2),
        "goal": goal,
        "ratios": [round(ratio, 2) for ratio in ratios],
        f"our_{key}": round(statistics.median(figures[key] for figures in ours), 3),
        f"{name}_{key}": round(statistics.median(figures[key] for figures in peer), 3),
    }


def measure_extraction(bench: Bench) -> dict[str, Any]:
    """WARC to text."""
    python = find_peers_python(bench.cache)
    paths = list(map(str, write_archives(read_web_pages(bench.samples), bench.work / "extraction")))
    ours, peer = alternate(
        lambda: run_module("benchmarks.data_prep_ours", "extract", *paths).figures,
        lambda: run([python, str(EXTRACTION_PROGRAM), *paths]).figures,
        num_rounds=bench.num_rounds,
    )
    counts = ("num_pages", "num_texts", "num_characters")
    return {
        **compare(ours, peer, "cpu_seconds", goal=GOALS["extraction"], name="peer"),
        **{f"our_{name}": ours[0][name] for name in counts},
        **{f"peer_{name}": peer[0][name] for name in counts},
    }


def measure_chain(bench: Bench) -> dict[str, Any]:
    """WARC to shards."""
    python = find_peers_python(bench.cache)
    archives = bench.work / "chain"
    write_archives(read_web_pages(bench.samples), archives, num_copies=bench.chain_copies)
    texts = read_english(bench.samples)
    model = train_sentencepiece(texts, bench.work / "chain.model", model_type="unigram", vocab_size=VOCAB_SIZE)
    tokenizer = train_huggingface(texts, bench.work / "tokenizer.json", vocab_size=VOCAB_SIZE)
    output = bench.work / "chain_output"

    def ours() -> dict[str, Any]:
        shutil.rmtree(output, ignore_errors=True)
        done = run_module("data_tools.prepare", *chain_overrides(archives, output, model, num_workers=NUM_WORKERS))
        stats = json.loads((output / "stats.json").read_text())
        totals = [stats[split] for split in ("train", "validation")]
        counts = {name: sum(split[name] for split in totals) for name in ("num_documents", "num_tokens")}
        return {"wall_seconds": done.wall_seconds, **counts}

    def peer() -> dict[str, Any]:
        shutil.rmtree(output, ignore_errors=True)
        done = run([python, str(DATATROVE_PROGRAM), str(archives), str(output), str(tokenizer), str(NUM_WORKERS)])
        return {"wall_seconds": done.wall_seconds, **done.figures}

    mine, theirs = alternate(ours, peer, num_rounds=bench.num_rounds)
    return {
        **compare(mine, theirs, "wall_seconds", goal=GOALS["chain"], name="peer"),
        "num_workers": NUM_WORKERS,
        "copies_of_pages": bench.chain_copies,
        **{f"our_{name}": mine[0][name] for name in ("num_documents", "num_tokens")},
        **{f"peer_{name}": theirs[0][name] for name in ("num_documents", "num_tokens")},
        "note": NOTE_ON_CHAIN,
    }


def measure_tokenize(bench: Bench) -> dict[str, Any]:
    """Text to shards, with a BPE and a unigram model."""
    texts = read_english(bench.samples)
    jsonl = write_jsonl(texts, bench.work / "english.jsonl")
    result: dict[str, Any] = {
        "megabytes": round(sum(len(text.encode()) for text in texts) / 1e6, 1),
        "num_documents": len(texts),
        "num_workers": NUM_WORKERS,
        "vocab_size": VOCAB_SIZE,
    }
    for model_type in ("bpe", "unigram"):
        model = train_sentencepiece(
            texts, bench.work / f"{model_type}.model", model_type=model_type, vocab_size=VOCAB_SIZE
        )
        packed, prefix = bench.work / f"packed_{model_type}", bench.work / f"megatron_{model_type}"

        def ours(packed: Path = packed, model: Path = model) -> dict[str, Any]:
            shutil.rmtree(packed, ignore_errors=True)
            arguments = ("pack", str(jsonl), str(model), str(packed), str(NUM_WORKERS))
            return run_module("benchmarks.data_prep_ours", *arguments).figures

        def peer(prefix: Path = prefix, model: Path = model) -> dict[str, Any]:
            arguments = (str(jsonl), str(prefix), str(model), str(NUM_WORKERS))
            return run_module("benchmarks.data_prep_megatron", *arguments).figures

        mine, theirs = alternate(ours, peer, num_rounds=bench.num_rounds)
        check_tokens(packed / "all" / "train", prefix, texts=texts, model=model)
        goal = GOALS[f"tokenize_{model_type}"]
        alone = [
            run_module("benchmarks.data_prep_ours", "encode", str(jsonl), str(model)).figures["cpu_seconds"]
            for _ in range(bench.num_rounds)
        ]
        compared = compare(mine, theirs, "cpu_seconds", goal=goal, name="peer")
        compared["sentencepiece_cpu_seconds"] = round(statistics.median(alone), 3)
        compared["ratio_of_sentencepiece_alone"] = round(compared["peer_cpu_seconds"] / statistics.median(alone), 2)
        result[model_type] = compared
    # Which model is used is the user's choice; Megatron-LM's users mostly have BPE models, ours unigram by default.
    bpe, unigram = result["bpe"], result["unigram"]
    result["our_unigram_against_their_bpe"] = round(bpe["peer_cpu_seconds"] / unigram["our_cpu_seconds"], 2)
    result["is_equal_to_the_byte"] = True
    return result


def check_tokens(ours: Path, peer: Path, *, texts: list[str], model: Path) -> None:
    """Raise unless both shards are equal and hold SentencePiece's own ids.

    Raises:
        RuntimeError: they do not.
    """
    for suffix in (".bin", ".idx"):
        if ours.with_name(ours.name + suffix).read_bytes() != peer.with_name(peer.name + suffix).read_bytes():
            raise RuntimeError(f"{ours}{suffix} and {peer}{suffix} differ")
    reader, tokenizer = ShardReader(ours), Tokenizer(model)
    step = max(1, len(texts) // NUM_CHECKED_DOCUMENTS)
    for number in range(0, len(texts), step):
        expected = [*tokenizer.encode(texts[number]), tokenizer.eos_id]
        if not np.array_equal(reader.document(number), expected):
            raise RuntimeError(f"document {number} has not SentencePiece's ids")


def measure_memory(bench: Bench) -> dict[str, Any]:
    """Peak memory of a worker on an input and on ten times as much."""
    pages, texts = read_web_pages(bench.samples), read_english(bench.samples)
    model = train_sentencepiece(texts, bench.work / "memory.model", model_type="unigram", vocab_size=VOCAB_SIZE)
    inputs = {}
    for copies in (1, MEMORY_COPIES):
        inputs[copies] = bench.work / f"memory_{copies}"
        write_archives(pages, inputs[copies], num_copies=copies)
    output = bench.work / "memory_output"

    def side(copies: int) -> dict[str, Any]:
        shutil.rmtree(output, ignore_errors=True)
        # All that is read is packed too: near duplicates stay.
        overrides = chain_overrides(inputs[copies], output, model, num_workers=1)
        command = [sys.executable, "-m", "data_tools.prepare", *overrides, "data_prep.near_duplicates.is_enabled=false"]
        worker, parent = measure_peaks(command)
        return {"worker_mb": worker / 1e6, "main_process_mb": parent / 1e6}

    small, large = alternate(lambda: side(1), lambda: side(MEMORY_COPIES), num_rounds=bench.num_rounds)
    ratios = [more["worker_mb"] / less["worker_mb"] for less, more in zip(small, large, strict=True)]
    return {
        "median_ratio": round(statistics.median(ratios), 3),
        "goal_at_most": GOALS["memory"],
        "ratios": [round(ratio, 3) for ratio in ratios],
        "num_pages": [len(pages), len(pages) * MEMORY_COPIES],
        **{
            name: [round(statistics.median(figures[name] for figures in side), 1) for side in (small, large)]
            for name in ("worker_mb", "main_process_mb")
        },
    }


def chain_overrides(archives: Path, output: Path, model: Path, *, num_workers: int) -> list[str]:
    """The settings of the whole chain: archives to shards, near duplicates removed."""
    return [
        "data_prep=common_crawl",
        f"data_prep.sources.0.paths=['{archives}/*.warc.gz']",
        f"data_prep.output_dir='{output}'",
        "data_prep.near_duplicates.is_enabled=true",
        f"data_prep.tokenizer.path='{model}'",
        f"data_prep.num_workers={num_workers}",
    ]


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "extraction": measure_extraction,
    "chain": measure_chain,
    "tokenize": measure_tokenize,
    "memory": measure_memory,
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, help="default: the quickstart's inputs")
    parser.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chain-copies", type=int, default=1, help="of every page, each with a sentence of its own")
    parser.add_argument("--cache", type=Path, default=Path("outputs/benchmarks/data_prep"), help="default: %(default)s")
    arguments = parser.parse_args()
    cache = arguments.cache.absolute()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="work-") as work:
        bench = Bench(
            samples=find_samples(arguments.samples, cache).absolute(),
            work=Path(work),
            cache=cache,
            num_rounds=arguments.rounds,
            chain_copies=arguments.chain_copies,
        )
        for name in arguments.parts.split(","):
            print(json.dumps({"part": name, **PARTS[name](bench)}), flush=True)


if __name__ == "__main__":
    main()
