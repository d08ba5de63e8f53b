"""WARC to text with warcio and trafilatura, for benchmarks/data_prep.py; runs in the peers' virtual environment.

python data_prep_trafilatura.py ARCHIVE...
"""

import json
import sys
import time

import trafilatura
from warcio.archiveiterator import ArchiveIterator


def extract(paths: list[str]) -> dict[str, float]:
    """WARC to text with warcio and trafilatura, with the options that datatrove gives it."""
    trafilatura.extract("<html><body><p>Loads what is loaded late.</p></body></html>")
    num_pages = num_texts = num_characters = 0
    start = time.process_time()
    for path in paths:
        with open(path, "rb") as stream:
            for record in ArchiveIterator(stream):
                if record.rec_type != "response":
                    continue
                num_pages += 1
                text = trafilatura.extract(
                    record.content_stream().read(), favor_precision=True, include_comments=False, deduplicate=True
                )
                num_texts += bool(text)
                num_characters += len(text or "")
    seconds = time.process_time() - start
    return {
        "cpu_seconds": seconds,
        "num_pages": num_pages,
        "num_texts": num_texts,
        "num_characters": num_characters,
    }


if __name__ == "__main__":
    print(json.dumps(extract(sys.argv[1:])))
