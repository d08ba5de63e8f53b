"""The real command with data_prep=common_crawl: what is chosen, what the tables say, and what makes it another run."""

import json
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.quality.junk import JUNK_KINDS, make_junk
from data_tools.config.filtering import LanguageConfig, UrlFilterConfig
from data_tools.config.schema import DataPrepConfig, SourceConfig
from data_tools.output.publish import describe_preparation
from data_tools.tokenizer.sample_texts import OWN_PROSE
from tests.data_tools.sample_inputs import run_prepare, write_jsonl, write_warc


def test_common_crawl_keeps_prose_and_names_its_language(tmp_path: Path) -> None:
    junk = [
        make_junk(OWN_PROSE["en"], kind=kind, seed=seed, characters_per_word=0)
        for kind in JUNK_KINDS
        for seed in (1, 2)
    ]
    warc = write_warc(tmp_path / "pages.warc.gz", [*OWN_PROSE.values(), *junk])
    outputs = [tmp_path / "one", tmp_path / "three"]
    for output, num_workers in zip(outputs, (1, 3), strict=True):
        done = run_prepare(
            "data_prep=common_crawl",
            f"data_prep.sources.0.paths=[{warc}]",
            f"data_prep.output_dir={output}",
            f"data_prep.num_workers={num_workers}",
            "data_prep.split.validation_fraction=0",
            "data_prep.tokenizer.model_type=bpe",
            "data_prep.tokenizer.num_threads=1",
            "data_prep.tokenizer.vocab_size=896",
            "data_prep.batch_bytes=2000",
        )
        assert done.returncode == 0, done.stderr
    table = pq.read_table(outputs[0] / "train.documents.parquet")
    assert table["language"].to_pylist() == list(OWN_PROSE)
    totals = json.loads((outputs[0] / "ledger.json").read_text(encoding="utf-8"))["totals"]
    assert totals["kept"] == len(OWN_PROSE) and sum(totals["dropped"].values()) >= len(junk)
    for name in ("train.bin", "train.documents.parquet", "ledger.json", "ledger.parquet"):
        assert (outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes()


def test_what_a_list_says_decides_and_not_where_it_lies(tmp_path: Path) -> None:
    lists = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for path, text in zip(lists, ("x.org\n", "x.org\n", "y.org\n"), strict=True):
        path.write_text(text)
    source = SourceConfig(name="a", kind="text", paths=["a"])
    described = [
        describe_preparation(
            DataPrepConfig(
                output_dir="o",
                sources=[source],
                url_filter=UrlFilterConfig(block_lists=[str(path)]),
                language=LanguageConfig(identify=True, model_path=str(path)),
            ),
            [],
            evaluation_files=[],
        )
        for path in lists
    ]
    assert described[0] == described[1] != described[2]


def test_when_nothing_is_left_it_is_said_why(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "nested.jsonl", [{"content": {"text": OWN_PROSE["en"]}, "meta": {"url": "http://x"}}])
    sources = f"data_prep.sources=[{{name:mine,kind:jsonl,paths:['{path}']}}]"
    done = run_prepare(sources, f"data_prep.output_dir={tmp_path / 'out'}", "data_prep.num_workers=1")
    assert (done.returncode, "rerun the same command" in done.stderr) == (2, False)
    assert "No document was kept (1 record read): json_text_missing 1" in done.stderr
    assert f"{path}, record 0: no key text; there are content.text, meta.url" in done.stderr
    assert "Set the source's text_field to the key of the text (content.text for one within an object)." in done.stderr
