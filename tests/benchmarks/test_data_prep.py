"""The parts of benchmarks/data_prep.py that need no peer run on a small crawl, and say what they measured."""

import json
import sys

import pytest

from benchmarks import data_prep_processes
from benchmarks.data_prep import alternate, check_tokens, compare
from benchmarks.data_prep_inputs import NUM_ARCHIVES, read_web_pages, train_sentencepiece, write_archives, write_jsonl
from benchmarks.data_prep_ours import extract
from benchmarks.data_prep_processes import measure_peaks, run, run_module
from data_tools.tokenizer.sample_texts import OWN_PROSE
from tests.data_tools.sample_inputs import make_text, write_warc

NUM_PAGES = 6


@pytest.fixture
def pages(tmp_path):
    (tmp_path / "samples").mkdir()
    write_warc(tmp_path / "samples" / "crawl.warc.gz", [make_text(seed) for seed in range(NUM_PAGES)])
    return read_web_pages(tmp_path / "samples")


def test_text_is_extracted_from_pages_that_were_dealt_out(pages, tmp_path):
    assert len(pages) == NUM_PAGES
    figures = extract(list(map(str, write_archives(pages, tmp_path / "once"))))
    assert (figures["num_pages"], figures["num_texts"]) == (NUM_PAGES, NUM_PAGES)
    assert figures["cpu_seconds"] > 0
    paths = write_archives(pages, tmp_path / "thrice", num_copies=3)
    assert len(paths) == 3 * NUM_ARCHIVES
    more = extract(list(map(str, paths)))
    assert more["num_texts"] == 3 * NUM_PAGES
    assert more["num_characters"] > 3 * figures["num_characters"]


def test_our_side_packs_the_tokenizers_own_ids(tmp_path):
    texts = [text.strip() for text in OWN_PROSE.values()]
    model = train_sentencepiece(texts, tmp_path / "tokenizer.model", model_type="bpe", vocab_size=1024)
    path = write_jsonl(texts, tmp_path / "texts.jsonl")
    # It ends the server that its workers are forked from, to count their time.
    figures = run_module("benchmarks.data_prep_ours", "pack", *map(str, (path, model, tmp_path / "work", 1))).figures
    assert set(figures) == {"cpu_seconds", "start_up_cpu_seconds", "wall_seconds"}
    shard = tmp_path / "work" / "all" / "train"
    check_tokens(shard, shard, texts=texts, model=model)
    with pytest.raises(RuntimeError, match="document 0"):
        check_tokens(shard, shard, texts=texts[::-1], model=model)


def test_peaks_are_those_of_the_largest_child(tmp_path, monkeypatch):
    seen = tmp_path / "seen"

    def look(pid):
        peak = peak_bytes(pid)
        if peak > 60e6:
            seen.touch()
        return peak

    peak_bytes = data_prep_processes._peak_bytes
    monkeypatch.setattr(data_prep_processes, "_peak_bytes", look)
    # It ends once somebody has looked at it, however long that takes.
    wait = f"while not os.path.exists({str(seen)!r}) and time.monotonic() < end: time.sleep(0.01)"
    child = f"import os, time\nblock, end = bytearray(b'x') * 60_000_000, time.monotonic() + 300\n{wait}"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    largest, own = measure_peaks([sys.executable, "-c", program])
    assert 60e6 < largest < 90e6
    assert own < 60e6
    with pytest.raises(RuntimeError, match="ended with 3"):
        measure_peaks([sys.executable, "-c", "raise SystemExit(3)"])


def test_rounds_alternate_and_ratios_are_the_peers_over_ours():
    order = []
    ours, peer = alternate(
        lambda: order.append("ours") or run([sys.executable, "-c", "print('noise\\n{\"s\": 2.0}')"]).figures,
        lambda: order.append("peer") or {"s": 5.0},
        num_rounds=2,
    )
    assert order == ["ours", "peer", "peer", "ours"]
    figures = compare(ours, peer, "s", goal=2.0, name="peer")
    assert (figures["median_ratio"], figures["our_s"], figures["peer_s"]) == (2.5, 2.0, 5.0)
    assert json.dumps(figures)
