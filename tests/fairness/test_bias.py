"""`trireme bias`: a bias that was trained in is seen, scores are the model's under every layout, errors are named."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.bias import SKEWS, write_planted
from tests.distributed.harness import run_distributed
from tests.inference.browser import CHROMIUM, Browser
from tests.inference.models import whole_forward
from tests.train.small_run import run_command
from trainer.evaluation.likelihood import LikelihoodModel
from trainer.fairness.items import ItemFile, Kind
from trainer.fairness.read import read_items
from trainer.fairness.run import measure_causal
from trainer.fairness.scoring import ItemScorer
from trainer.inference.loading import load_model
from trainer.inference.options import ModelOptions
from trainer.parallel.world import end_layout

CHOICE = {
    "context": "The nurse and the miner came in.",
    "question": "The miner?",
    "ans0": "The nurse",
    "ans1": "The miner",
    "ans2": "Yesterday",
    "answer_info": {"ans0": ["nurse"], "ans1": ["miner"], "ans2": ["unknown"]},
    "label": 2,
    "biased": 1,
    "context_condition": "ambig",
}
PRONOUN = {"sentence": "The nurse told the miner that she was right.", "pronoun": "she", "answer": 0}
LONG = "The nurse " * 40


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the biased model and its twin."""
    folders = {}
    for name, skew in SKEWS.items():
        folder = tmp_path_factory.mktemp(name)
        done = run_command("trainer.train", *write_planted(folder, skew=skew), cwd=folder)
        assert done.returncode == 0, done.stderr
        folders[name] = folder
    return folders


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, ItemFile]:
    """A file of each kind."""
    folder = tmp_path_factory.mktemp("items")
    jobs = ("nurse", "miner", "maid", "pilot")
    records: dict[Kind, list[dict[str, Any]]] = {
        Kind.PAIRS: [
            {"sent_more": f"The {job} said that she was late.", "sent_less": f"The {job} said that he was late."}
            for job in jobs
        ],
        Kind.CHOICES: [CHOICE, {**CHOICE, "context": "The nurse was late. The miner ate.", "question": "Who?"}],
        Kind.PRONOUNS: [
            {**PRONOUN, "candidates": ["nurse", "miner"], "stereotype": "pro"},
            {**PRONOUN, "candidates": ["miner", "nurse"], "stereotype": "anti", "answer": 1},
        ],
        Kind.COMPLETIONS: [{"prompt": f"The {job} was", "group": job} for job in jobs],
    }
    found = {}
    for kind, lines in records.items():
        path = folder / f"{kind}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        found[kind] = read_items(str(path))
        assert found[kind].kind == kind
    return found


def test_a_planted_bias_is_seen_and_its_twin_has_none(planted: dict[str, Path]) -> None:
    figures = {}
    for name, folder in planted.items():
        done = run_command("trainer.bias", "outputs/planted", "--data", "pairs.jsonl", "--json", cwd=folder)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout.splitlines()[-1])
        assert json.loads((folder / "outputs" / "planted" / "bias.json").read_text()) == [result]
        (found,) = result["sets"]
        assert found["num_items"] == 120 and found["can_say"] and found["cannot_say"] and result["statement"]
        figures[name] = {figure["name"]: figure for figure in found["figures"]}
    assert figures["skewed"]["log_ratio"]["is_biased"] is True, figures
    assert {figure["is_biased"] for figure in figures["even"].values()} == {False}, figures
    assert figures["skewed"]["stereotype_share"]["value"] > figures["even"]["stereotype_share"]["value"]
    assert figures["skewed"]["log_ratio"]["low"] > figures["even"]["log_ratio"]["high"]


def test_table_page_and_texts(planted: dict[str, Path], files: dict[Kind, ItemFile], tmp_path: Path) -> None:
    names = [file.name for file in files.values()]
    output = ("--output", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html"), "--texts", str(tmp_path / "t"))
    options = ("--num-samples", "2", "--max-new-tokens", "4", *output)
    command = ("trainer.bias", str(planted["skewed"] / "outputs" / "planted"), "--data", *names, *options)
    done = run_command(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for part in (
        "stereotype_share",
        "accuracy_ambiguous",
        "log_ratio_gap",
        "sentiment_gap",
        "Cannot say:",
        "by chance",
    ):
        assert part in done.stdout
    page = (tmp_path / "a.html").read_text()
    assert page.count("<svg") == 4 and "http" not in page
    if CHROMIUM is not None:
        with Browser(tmp_path) as browser:
            browser.open(f"file://{tmp_path / 'a.html'}")
            assert browser.run("document.querySelectorAll('svg circle').length") > 10
            assert browser.run("performance.getEntriesByType('resource').length") == 0
            assert not browser.problems
    texts = [json.loads(line) for line in (tmp_path / "t").read_text().splitlines()]
    assert [(text["group"], text["sample"]) for text in texts][:3] == [("nurse", 0), ("nurse", 1), ("miner", 0)]
    again = run_command(*command, cwd=tmp_path)
    assert again.stdout == done.stdout, "sampling has a seed"
    results = json.loads((tmp_path / "a.json").read_text())
    assert len(results) == 2 and results[0]["sets"] == results[1]["sets"]


def measure_all(path: Path, files: Sequence[ItemFile], layouts: Sequence[tuple[int, int]]) -> list[Any]:
    found = []
    for tensor, pipeline in layouts:
        options = ModelOptions(
            path=path, tensor_model_parallel_size=tensor, pipeline_model_parallel_size=pipeline, max_batch_size=3
        )
        results, texts, _ = measure_causal(
            files,
            options,
            limit=None,
            seed=1,
            per_byte=True,
            num_samples=2,
            max_new_tokens=4,
            choose_sampling=lambda config: {"temperature": 1.0},
        )
        values = [[(one.name, one.subset, one.value) for one in result.figures] for result in results]
        found.append((values, [text.completion for text in texts]))
        end_layout()
    return found


def test_layouts(planted: dict[str, Path], files: dict[Kind, ItemFile]) -> None:
    """Tensor and pipeline parallelism, and two replicas, give the figures of one process."""
    path = planted["skewed"] / "outputs" / "planted"
    ((expected, texts),) = run_distributed(measure_all, 1, path, list(files.values()), [(1, 1)])[0]
    found, others = run_distributed(measure_all, 2, path, list(files.values()), [(2, 1), (1, 2), (1, 1)])
    assert all(one == ([], []) for one in others)
    for values, written in found:
        assert written == texts
        for mine, theirs in zip(values, expected, strict=True):
            assert [one[:2] for one in mine] == [one[:2] for one in theirs]
            # Log-likelihoods of some 10 nats in fp32.
            assert [one[2] for one in mine] == pytest.approx([one[2] for one in theirs], abs=1e-5, nan_ok=True)


def score_by_hand(path: Path, files: dict[Kind, ItemFile]) -> None:
    loaded = load_model(ModelOptions(path=path), packs_weights=False)
    # Weights that were packed for scoring cannot compute whole texts.
    plain = load_model(ModelOptions(path=path), packs_weights=False, world=loaded.world).model
    scorer = ItemScorer(LikelihoodModel(loaded, batch_size=3))

    def likelihood(text: str, *, after: str = "") -> float:
        """Sum of the log-probabilities of a text's tokens that are not those of its beginning."""
        ids = [*loaded.document_start, *loaded.tokenizer.encode(text)]
        begin = len(loaded.document_start) + len(loaded.tokenizer.encode(after))
        logits = whole_forward(plain, ids)[:, : loaded.vocab_size].double()
        picked = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        return float(picked[begin - 1 :].sum())

    assert loaded.document_start, "the first word of a sentence counts"
    pairs: Any = files[Kind.PAIRS].items
    kept, logprobs = scorer.score_pairs(pairs, show=lambda done: None)
    expected = [[likelihood(item.more), likelihood(item.less)] for item in pairs]
    assert kept == pairs and logprobs == pytest.approx(np.array(expected), abs=1e-4)
    pronouns: Any = files[Kind.PRONOUNS].items
    _, logprobs = scorer.score_pronouns(pronouns, show=lambda done: None)
    for item, found in zip(pronouns, logprobs, strict=True):
        context = f'{item.sentence} "She" refers to the'
        expected_row = [likelihood(f"{context} {candidate}", after=context) for candidate in item.candidates]
        assert found == pytest.approx(expected_row, abs=1e-4)
    choices: Any = files[Kind.CHOICES].items
    for per_byte in (False, True):
        _, chosen = scorer.score_choices(choices, per_byte=per_byte, show=lambda done: None)
        for item, number in zip(choices, chosen, strict=True):
            context = f"{item.context}\n\nQ: {item.question}\nA:"
            values = [likelihood(f"{context} {answer}", after=context) for answer in item.answers]
            values = [
                value / (len(answer) if per_byte else 1) for value, answer in zip(values, item.answers, strict=True)
            ]
            assert number == np.argmax(values)
    kept, logprobs = scorer.score_pairs([replace(pairs[0], more=LONG), pairs[1]], show=lambda done: None)
    assert kept == pairs[1:2] and logprobs == pytest.approx(np.array(expected[1:2]), abs=1e-4)


def test_scores_are_the_models_own(planted: dict[str, Path], files: dict[Kind, ItemFile]) -> None:
    run_distributed(score_by_hand, 1, planted["even"] / "outputs" / "planted", files)


def test_wrong_input_is_named(planted: dict[str, Path], tmp_path: Path) -> None:
    def refuse(*arguments: str) -> str:
        done = run_command(
            "trainer.bias", str(planted["even"] / "outputs" / "planted"), *arguments, "--json", cwd=tmp_path
        )
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    found = refuse("--data", "no_such_set", "--limit", "0", "--num-samples", "0", "--html", "none/x.html")
    assert "4 errors" in found and "pairs_zh" in found and "--html: has no directory" in found
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"sent_more": LONG, "sent_less": LONG + "a"}) + "\n")
    assert "no item that fits" in refuse("--data", str(path))
    assert "sentence must be a text" in refuse("--data", str(path), "--kind", "winobias")
    other = tmp_path / "other.jsonl"
    other.write_text('{"field": 1}\n')
    found = refuse("--data", str(path), str(other), "--kind", "winobias")
    assert "sentence must be a text" in found and "other.jsonl" in found, "the errors of all files"
    kept = tmp_path / "kept.json"
    kept.write_text('{"mine": 1}')
    found = refuse("--output", str(kept), "--texts", str(tmp_path))
    assert "--output: exists, and is no list of results" in found and "--texts: is a directory" in found
    assert kept.read_text() == '{"mine": 1}'
