"""How many near duplicates MinHash finds, beside what theory says, when 1% to 40% of the words of a document change.

Texts are made of words (or Han characters) drawn by Zipf's law. Every original gets one copy per share of changed
words; as traps, unrelated documents share one long paragraph of boilerplate. Everything goes through the very functions
that `data_tools.prepare` uses. Prints one JSON line:

    {"num_documents": ..., "threshold": ..., "curves": {"words": [{"changed": 0.05, "similarity": ..., "recall": ...,
     "theory": ..., "standard_error": ...}, ...], "characters": [...]}, "precision": ..., "megabytes_per_second": ...}

recall: share of the changed copies that have a band key in common with their original, found by the clustering; theory:
the mean over the same pairs of 1 - (1 - s^rows)^bands at each pair's true Jaccard similarity s; similarity: the mean s.
precision: of the documents that are dropped, the share whose kept document is of the same original.

Usage: python -m benchmarks.near_duplicates [--num-originals N] [--num-bands N] [--num-rows N]
"""

import argparse
import json
import time

import numpy as np

from data_tools.config.filtering import NearDuplicatesConfig
from data_tools.dedup.minhash import MinHasher, compute_candidate_probability, find_clusters
from data_tools.text.ngrams import hash_ngrams, hash_tokens

CHANGED = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.4)
WORDS_PER_DOCUMENT = 400
BOILERPLATE_WORDS = 60
VOCABULARY = 20_000
HAN_CHARACTERS = 3_000


class Writer:
    """Makes up texts; equal seeds give equal texts."""

    def __init__(self, kind: str, *, seed: int) -> None:
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._is_words = kind == "words"
        if self._is_words:
            self._pieces = [f"w{number:x}" for number in range(VOCABULARY)]
        else:
            self._pieces = [chr(0x4E00 + number) for number in range(HAN_CHARACTERS)]
        weights = 1.0 / np.arange(1, len(self._pieces) + 1)
        self._cumulative = np.cumsum(weights / weights.sum())

    def draw(self, count: int) -> np.ndarray:
        """Piece numbers of a new text."""
        return np.searchsorted(self._cumulative, self._random.random(count)).clip(max=len(self._pieces) - 1)

    def change(self, pieces: np.ndarray, share: float) -> np.ndarray:
        """Replace exactly this share of the pieces by others."""
        places = self._random.choice(len(pieces), round(share * len(pieces)), replace=False)
        changed = pieces.copy()
        changed[places] = (changed[places] + self._random.integers(1, len(self._pieces), len(places))) % len(
            self._pieces
        )
        return changed

    def write(self, pieces: np.ndarray) -> str:
        """The text itself."""
        return (" " if self._is_words else "").join(self._pieces[piece] for piece in pieces)


def measure(kind: str, config: NearDuplicatesConfig, *, num_originals: int, seed: int) -> dict[str, object]:
    """Plant copies among unrelated documents and look what is found."""
    writer = Writer(kind, seed=seed)
    texts, families = [], []
    originals = [writer.draw(WORDS_PER_DOCUMENT) for _ in range(num_originals)]
    for share in (0.0, *CHANGED):
        texts += [writer.write(writer.change(original, share) if share else original) for original in originals]
        families += list(range(num_originals))
    boilerplate = writer.draw(BOILERPLATE_WORDS)
    for number in range(num_originals):
        texts.append(writer.write(np.concatenate([boilerplate, writer.draw(WORDS_PER_DOCUMENT)])))
        families.append(num_originals + number)
    hasher = MinHasher(config)
    start = time.perf_counter()
    keys = np.array([hasher.compute_keys(text) for text in texts])
    seconds = time.perf_counter() - start
    n = config.ngram_words if kind == "words" else config.ngram_characters
    sets = [np.unique(hash_ngrams(hash_tokens(text).hashes, n=n)) for text in texts[: len(originals) * 9]]
    curve = [
        _compare(keys, sets, range(num_originals), first=(place + 1) * num_originals, share=share, config=config)
        for place, share in enumerate(CHANGED)
    ]
    firsts = find_clusters(keys.T, num_documents=len(texts))
    dropped = np.flatnonzero(firsts != np.arange(len(texts)))
    right = np.array(families)[firsts[dropped]] == np.array(families)[dropped]
    return {
        "curve": curve,
        "num_documents": len(texts),
        "num_dropped": len(dropped),
        "num_dropped_wrongly": int((~right).sum()),
        "bytes": sum(len(text.encode()) for text in texts),
        "seconds": seconds,
    }


def _compare(
    keys: np.ndarray,
    sets: list[np.ndarray],
    originals: range,
    *,
    first: int,
    share: float,
    config: NearDuplicatesConfig,
) -> dict[str, float]:
    found, similarities, likely = [], [], []
    for original in originals:
        copy = first + original
        pair = np.stack([keys[original], keys[copy]])
        found.append(find_clusters(pair.T, num_documents=2)[1] == 0)
        shared = len(np.intersect1d(sets[original], sets[copy], assume_unique=True))
        similarity = shared / (len(sets[original]) + len(sets[copy]) - shared)
        similarities.append(similarity)
        likely.append(compute_candidate_probability(similarity, num_bands=config.num_bands, num_rows=config.num_rows))
    theory = float(np.mean(likely))
    return {
        "changed": share,
        "similarity": round(float(np.mean(similarities)), 4),
        "recall": round(float(np.mean(found)), 4),
        "theory": round(theory, 4),
        "standard_error": round(float(np.sqrt(np.mean(np.multiply(likely, np.subtract(1, likely))) / len(likely))), 4),
    }


def main() -> None:
    """Parse arguments and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-originals", type=int, default=1000)
    parser.add_argument("--num-bands", type=int, default=NearDuplicatesConfig.num_bands)
    parser.add_argument("--num-rows", type=int, default=NearDuplicatesConfig.num_rows)
    parser.add_argument("--seed", type=int, default=1234)
    arguments = parser.parse_args()
    config = NearDuplicatesConfig(num_bands=arguments.num_bands, num_rows=arguments.num_rows)
    found = {
        kind: measure(kind, config, num_originals=arguments.num_originals, seed=arguments.seed)
        for kind in ("words", "characters")
    }

    def total(name: str) -> float:
        return sum(figures[name] for figures in found.values())  # type: ignore[misc]

    figures = {
        "num_bands": config.num_bands,
        "num_rows": config.num_rows,
        "num_documents": total("num_documents"),
        "threshold": round((1 / config.num_bands) ** (1 / config.num_rows), 4),
        "curves": {kind: each["curve"] for kind, each in found.items()},
        "num_dropped": total("num_dropped"),
        "precision": 1 - total("num_dropped_wrongly") / max(total("num_dropped"), 1),
        "megabytes_per_second": round(total("bytes") / 1e6 / total("seconds"), 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
