"""Our rules of quality against datatrove's filters of the same papers: equal decisions, and CPU time for them.

Both split words at spaces: datatrove's own way (spaCy) takes most of its time. Give sample files in English; datatrove
must be installed beside this project (pip install --no-deps datatrove loguru humanize). Rounds alternate; the shortest
counts. Prints one JSON line:

    python -m benchmarks.quality_rules --samples DIRECTORY
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import datatrove.pipeline.filters.fineweb_quality_filter as fineweb
import datatrove.pipeline.filters.gopher_quality_filter as gopher_quality
import datatrove.pipeline.filters.gopher_repetition_filter as gopher_repetition
from datatrove.data import Document as DatatroveDocument

from benchmarks.quality.prose import read_pages
from data_tools.config.filtering import QualityConfig, QualityThresholds
from data_tools.document import DroppedError
from data_tools.filters.quality.filter import RULES, ThresholdTable
from data_tools.text.words import TextMeasure

NUM_ROUNDS = 3
MAX_DOCUMENTS = 600
DATATROVE_REPEATED_LINE_SHARE = 0.01
"""Its default where the paper has 0.1."""


def split_at_spaces(text: str, language: str | None = None) -> list[str]:
    """Take the place of datatrove's tokenizer."""
    return text.split()


def measure(texts: list[str], is_kept: Callable[[str], bool]) -> tuple[list[bool], float]:
    """Decide about all texts.

    Returns:
        The decisions, and the CPU seconds that they took.
    """
    start = time.process_time()
    decisions = [is_kept(text) for text in texts]
    return decisions, time.process_time() - start


def ours(name: str, limits: QualityThresholds) -> Callable[[str], bool]:
    """Whether our rules keep a text."""

    def is_kept(text: str) -> bool:
        try:
            RULES[name](TextMeasure(text), limits)
        except DroppedError:
            return False
        return True

    return is_kept


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=Path, required=True)
    samples = parser.parse_args().samples
    for module in (fineweb, gopher_quality, gopher_repetition):
        module.split_into_words = split_at_spaces
    peers = {
        "gopher_quality": gopher_quality.GopherQualityFilter(),
        "gopher_repetition": gopher_repetition.GopherRepetitionFilter(),
        "fineweb": fineweb.FineWebQualityFilter(),
    }
    table = ThresholdTable(
        QualityConfig(thresholds=QualityThresholds(max_repeated_line_character_share=DATATROVE_REPEATED_LINE_SHARE))
    )
    texts = read_pages(samples, language="en", max_documents=MAX_DOCUMENTS)
    result: dict[str, object] = {"documents": len(texts), "characters": sum(map(len, texts))}
    for name, peer in peers.items():

        def peer_keeps(text: str, peer: object = peer) -> bool:
            answer = peer.filter(DatatroveDocument(text=text, id=""))  # type: ignore[attr-defined]
            return bool(answer[0] if isinstance(answer, tuple) else answer)

        rounds = [(measure(texts, peer_keeps), measure(texts, ours(name, table("en")))) for _ in range(NUM_ROUNDS)]
        (theirs, _), (mine, _) = rounds[0]
        peer_seconds, own_seconds = (min(pair[side][1] for pair in rounds) for side in (0, 1))
        result[name] = {
            "agreement": round(sum(map(bool.__eq__, theirs, mine)) / len(texts), 4),
            "kept": sum(mine),
            "kept_by_datatrove": sum(theirs),
            "cpu_seconds": round(own_seconds, 3),
            "cpu_seconds_of_datatrove": round(peer_seconds, 3),
            "ratio": round(peer_seconds / own_seconds, 2),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
