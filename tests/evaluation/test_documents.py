"""Losses by document, source and language, and their intervals."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import warm
from tests.train import small_run
from tests.train.commands import REPOSITORY, environment
from tests.train.small_run import run_command, write_tokenizer
from tests.train.test_evaluate import read_strictly
from tests.trireme.examples.small_tokenizers import save_byte_tokenizer
from trainer.evaluation.comparison import build_plot, find_difference, write_page
from trainer.evaluation.documents import count_bytes
from trainer.scores.bootstrap import ratio_interval
from trireme.tokenizer.tokenizer import Tokenizer

SOURCES = ["wiki", "books"]


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run = small_run.train(folder, "model.init_method_std=0.3")
    # 60 documents of 41 tokens: of two sources by turns, in two languages one after the other.
    columns = {"source": [SOURCES[n % 2] for n in range(60)], "language": ["en"] * 40 + ["zh"] * 20}
    pq.write_table(pa.table(columns), folder / "data" / "validation.documents.parquet")
    return run


def check(result: dict[str, Any]) -> None:
    num_tokens = result["num_tokens"]
    # Two steps of 8 windows of 32 tokens.
    assert num_tokens == 512
    assert result["bits_per_byte"] * result["num_bytes"] == pytest.approx(
        result["loss"] * num_tokens / math.log(2), rel=1e-6
    )
    low, high = result["confidence_95"]["loss"]
    assert low < result["loss"] < high
    assert result["confidence_95"]["perplexity"] == pytest.approx([math.exp(low), math.exp(high)])
    for groups in (result["by_source"], result["by_language"]):
        assert sum(group["num_tokens"] for group in groups.values()) == num_tokens
        assert sum(group["num_documents"] for group in groups.values()) == result["num_documents"]
        total = sum(group["loss"] * group["num_tokens"] for group in groups.values())
        assert total == pytest.approx(result["loss"] * num_tokens, rel=1e-6)  # the whole is summed in fp32
    assert set(result["by_source"]) == set(SOURCES) and set(result["by_language"]) == {"en", "zh"}


def test_losses_by_source_and_language(run_directory: Path) -> None:
    done = run_command("trainer.evaluate", str(run_directory), cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    result = read_strictly(done.stdout)
    check(result)
    # An end of a document, 1 in 41 tokens, has no bytes; of the letters, one in 57 has two and one three.
    assert 0.95 * 512 < result["num_bytes"] < 1.1 * 512
    for layout in ("tp2", "pp2", "dp2"):
        command = [sys.executable, "-m", "trainer.torchrun", "--standalone", "--nproc-per-node", "2", "-m"]
        other = warm.run(
            [*command, "trainer.evaluate", str(run_directory), f"parallel={layout}"], cwd=REPOSITORY, env=environment()
        )
        assert other.returncode == 0, other.stderr
        spread = read_strictly(other.stdout)
        check(spread)
        for name, group in result["by_source"].items():
            assert spread["by_source"][name]["loss"] == pytest.approx(group["loss"], rel=1e-5), layout
        assert spread["num_bytes"] == result["num_bytes"]


def test_several_models_are_compared_in_a_table_and_a_page(run_directory: Path, tmp_path: Path) -> None:
    (checkpoint,) = (run_directory / "checkpoints").iterdir()
    page = tmp_path / "comparison.html"
    command = [sys.executable, "-m", "trainer.torchrun", "--standalone", "--nproc-per-node", "2", "-m"]
    done = warm.run(
        [
            *(*command, "trainer.evaluate", str(run_directory), str(checkpoint), "parallel=pp2"),
            *("training.eval_iters=1", "--report", str(page)),
        ],
        cwd=REPOSITORY,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    first, second = (read_strictly(line) for line in done.stdout.splitlines())
    assert first == second and first["num_tokens"] == 256
    assert done.stderr.count("small") >= 2 and f"{first['bits_per_byte']:.4f}" in done.stderr
    content = page.read_text()
    assert content.count("<circle") == 2 and content.count(f"{first['bits_per_byte']:.4f}") >= 4
    assert "books" in content and "zh" in content and "src=" not in content and "<script" not in content


def test_figures_of_texts_of_different_length_are_not_compared(tmp_path: Path) -> None:
    def result(num_tokens: int, num_bytes: int | None) -> dict[str, Any]:
        common = {"checkpoint": "/runs/m/checkpoints/s", "step": 1, "loss": 5.0, "perplexity": 148.4}
        return {**common, "num_tokens": num_tokens, **({} if num_bytes is None else {"num_bytes": num_bytes})}

    # Two tokenizers, of the same text but for its last window.
    assert find_difference([result(8192, 28204), result(4096, 28100)]) == ""
    assert find_difference([result(8192, None), result(8192, None)]) == ""
    different = [result(8192, 28204), result(16384, 56953)]
    assert "28,204 to 56,953 bytes, and cannot be compared" in find_difference(different)
    assert "8,192 to 9,000 tokens" in find_difference([result(8192, None), result(9000, 28204)])
    for name, results in (("one", different[:1]), ("two", different)):
        write_page(results, tmp_path / name)
        assert ("cannot be compared" in (tmp_path / name).read_text()) == (name == "two")


def test_the_plot_has_the_better_model_below() -> None:
    def result(value: float) -> dict[str, Any]:
        interval = {"bits_per_byte": [value - 0.1, value + 0.2]}
        return {
            "checkpoint": f"/runs/m{value}/checkpoints/s",
            "step": 1,
            "bits_per_byte": value,
            "confidence_95": interval,
        }

    (worse, better), ticks = build_plot([result(2.0), result(1.5)], measure="bits_per_byte")
    # y counts from the top.
    assert worse.y < better.y and worse.high < worse.y < worse.low
    assert (worse.label, better.value) == ("m2.0", "1.5000")
    assert [tick.label for tick in ticks] == ["1.4", "1.6", "1.8", "2.0", "2.2"]
    assert better.low == ticks[0].y and worse.high == ticks[-1].y
    assert build_plot([{"bits_per_byte": None}], measure="bits_per_byte") == ([], [])


def test_bytes_of_tokens_are_those_of_their_text(tmp_path: Path) -> None:
    letters = Tokenizer(write_tokenizer(tmp_path / "letters" / "tokenizer.json"))
    for tokenizer in (letters, Tokenizer(save_byte_tokenizer(tmp_path))):
        counts = count_bytes(tokenizer)
        assert tokenizer.eos_id is None or counts[tokenizer.eos_id] == 0
        for text in ("a b, c", "中é."):
            assert counts[tokenizer.encode(text)].sum() == len(text.encode())


def test_an_interval_covers_the_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    covered = 0
    for seed in range(200):
        tokens = generator.integers(20, 200, 100)
        losses = tokens * generator.normal(3.0, 0.5, 100)
        low, high = ratio_interval(losses, tokens, seed=seed)
        assert (low, high) == ratio_interval(losses, tokens, seed=seed) if seed == 0 else True
        covered += low < 3.0 < high
    # 95 % of 200 is 190, with a deviation of 3; of the bootstrap somewhat fewer.
    assert 178 <= covered <= 199


def test_one_document_has_no_interval() -> None:
    assert all(map(math.isnan, ratio_interval(np.array([1.0]), np.array([2.0]), seed=0)))
