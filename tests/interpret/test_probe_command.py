"""`trireme probe`: its page in a real browser, its JSON, the near documents, and what it refuses."""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.shards import write_shard
from tests.distributed.harness import run_distributed
from tests.inference.browser import CHROMIUM, Browser
from tests.train.small_run import LETTERS, run_command, train
from trainer import probe as command
from trainer.interpret.documents import find_near_documents
from trainer.interpret.page import render_page
from trireme.shards.shard import ShardReader
from trireme.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("probe"), "model.num_moe_experts=4", "model.moe_layer_freq=[0,1]")


@pytest.fixture(scope="module")
def prompt(run_directory: Path) -> str:
    """A passage of the 8th training document."""
    tokens = ShardReader(run_directory.parents[1] / "data" / "train").document(7)[5:17]
    return Tokenizer(run_directory.parents[1] / "data" / "tokenizer.json").decode(tokens.tolist())


@pytest.fixture(scope="module")
def files(run_directory: Path, prompt: str) -> tuple[Path, dict[str, Any]]:
    folder = run_directory.parents[1]
    page, values = folder / "probe.html", folder / "probe.json"
    done = run_command(
        "trainer.probe", str(run_directory), prompt, f"--output={page}", f"--json={values}", "--attribution-steps=8",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("place   bits  gradients  occlusion  token\n")
    assert "Completeness gap" in done.stdout
    attribution = json.loads(values.read_text())["attribution"]
    is_far = abs(attribution["completeness_gap"]) > 0.1 * abs(attribution["value"] - attribution["baseline_value"])
    assert ("do not rely on the integrated gradients" in done.stdout) == is_far
    return page, json.loads(values.read_text())


def test_the_record(files: tuple[Path, dict[str, Any]], prompt: str) -> None:
    _, record = files
    assert record["prompt"] == prompt
    # A native run begins every document after the end of the one before it.
    assert [token["text"] for token in record["tokens"]] == ["</s>", *prompt]
    size = len(record["tokens"])
    assert len(record["predictions"]) == size
    followed = [*record["tokens"][1:], record["target"]]
    for here, token in zip(record["predictions"], followed, strict=True):
        assert here["surprisal"] == pytest.approx(-np.log2(here["probability"]))
        known = {one["id"]: one["probability"] for one in here["top"]}
        assert known.get(token["id"], here["probability"]) == pytest.approx(here["probability"])
    assert record["predictions"][-1]["top"][0]["id"] == record["target"]["id"]
    num_layers = record["model"]["num_layers"]
    assert [layer["layer"] for layer in record["lens"]] == list(range(num_layers + 1))
    assert record["lens"][-1]["predictions"] == record["predictions"]
    for layer in record["attention"]:
        for head in layer["heads"]:
            assert [len(row) for row in head] == list(range(1, size + 1))
            assert all(sum(row) == pytest.approx(1, abs=1e-4) for row in head)
    assert [layer["layer"] for layer in record["experts"]] == list(range(2, num_layers + 1, 2))
    assert [layer["layer"] for layer in record["neurons"]] == list(range(1, num_layers + 1, 2))
    attribution = record["attribution"]
    change = attribution["value"] - attribution["baseline_value"]
    assert sum(attribution["scores"]) - change == pytest.approx(attribution["completeness_gap"])


def test_the_document_that_the_prompt_is_from_is_the_nearest(
    files: tuple[Path, dict[str, Any]], prompt: str, run_directory: Path
) -> None:
    documents = files[1]["documents"]
    best, *others = documents["documents"]
    assert (best["number"], best["place"], best["text"][: len(prompt)]) == (7, 5, prompt)
    # The next token may continue the passage too.
    assert best["longest"] - len(prompt) in (0, 1)
    assert best["num_shared"] >= len(prompt) - 2
    assert all(other["score"] < best["score"] for other in others)
    assert documents["num_documents"] == 60 and documents["is_complete"]
    note = files[1]["documents_note"]
    assert note.startswith("Searched: the run's training shards, 60 documents, ")
    assert note.endswith("Steps are those up to step 4, the checkpoint's.")


def test_documents_have_the_steps_that_read_them(files: tuple[Path, dict[str, Any]], run_directory: Path) -> None:
    from trainer.history import read_history  # noqa: PLC0415 - after the shim

    history = read_history(run_directory)
    read = {
        (str(part.shard), part.number, step)
        for step in range(1, 5)
        for stretch in [history.stretch_of(step)]
        if stretch is not None
        for window in stretch.data.order.locate(stretch.samples_of(step)).window.tolist()
        for part in stretch.data.datasets[0].documents_of(window)
    }
    documents = files[1]["documents"]["documents"]
    for near in documents:
        assert near["steps"] == sorted(step for _, number, step in read if number == near["number"])
    assert any(near["steps"] for near in documents)


def test_documents_are_ranked_by_rare_ngrams(tmp_path: Path) -> None:
    common, rare = [1, 2, 3], [7, 8, 9]
    texts = [[*common, 4], [*common, 5], [6, *rare, 4], [1, 2], [8, 9, 7], [*common, 5]]
    write_shard(tmp_path / "a", [np.array(text) for text in texts])
    # An n-gram over the end of a document is none.
    write_shard(tmp_path / "b", [np.array([7, 8]), np.array([9, 7])])
    prefixes = [str(tmp_path / name) for name in "ab"]
    found = find_near_documents(prefixes, [*common, 0, *rare], ngram=3, num_documents=3, max_tokens=100)
    assert [near.number for near in found.documents] == [2, 0, 1]
    assert found.num_ngrams == 5
    # ln((8 + 1) / 1) and ln((8 + 1) / 3): documents of both shards, documents with the n-gram.
    assert [near.score for near in found.documents[:2]] == pytest.approx([np.log(9), np.log(3)])
    best = found.documents[0]
    assert (best.place, best.longest, best.tokens, best.num_before) == (1, 3, (6, 7, 8, 9, 4), 1)
    partly = find_near_documents(prefixes, rare, ngram=3, num_documents=3, max_tokens=20)
    assert not partly.is_complete and partly.num_documents == 6
    one = find_near_documents(prefixes, [9], ngram=3, num_documents=9, max_tokens=100)
    assert (one.ngram, sorted((near.shard[-1], near.number) for near in one.documents)) == (
        1,
        [("a", 2), ("a", 4), ("b", 1)],
    )


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_the_page_in_a_browser(files: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    page, record = files
    # What a user types is no markup.
    hostile = tmp_path / "hostile.html"
    hostile.write_text(render_page({**record, "prompt": "</script><img src=http://localhost:9/x><b>"}))
    papers = []
    with Browser(tmp_path) as browser:
        for is_dark, path in ((False, page), (True, page), (False, hostile)):
            browser.resize(1100, 900, is_dark=is_dark)
            browser.open(f"file://{path}")
            check_page(browser, record)
            papers.append(browser.run("getComputedStyle(document.body).backgroundColor"))
        assert browser.run("document.querySelector('h1').textContent") == "</script><img src=http://localhost:9/x><b>"
        browser.resize(360, 700)
        browser.open(f"file://{page}")
        assert browser.run("document.documentElement.scrollWidth") <= 360
        assert browser.problems == []
    assert papers[0] != papers[1]


def check_page(browser: Browser, record: dict[str, Any]) -> None:
    assert browser.problems == []
    assert browser.run("performance.getEntriesByType('resource').map(one => one.name)") == []
    size = len(record["tokens"])
    assert browser.run("document.querySelectorAll('.token').length") == size + 1
    assert browser.run("document.querySelectorAll('#lens-table tbody tr').length") == len(record["lens"])
    assert browser.run("document.querySelectorAll('#attribution-table tbody tr').length") == size
    assert browser.run("document.querySelectorAll('#document-list li').length") == len(record["documents"]["documents"])
    # A token's details.
    browser.run("document.querySelectorAll('.token')[3].click()")
    detail = browser.run("document.querySelector('#token-detail').textContent")
    assert f"id{record['tokens'][3]['id']}place3" in detail
    assert f"rank{record['predictions'][2]['rank']}" in detail
    # One head's map: the number that the pointer reads, and ink where there is attention.
    browser.run("chooseMap(1, 2)")
    read = browser.run("values(1, 2)[5 * 6 / 2 + 4]")
    assert read == pytest.approx(record["attention"][1]["heads"][2][5][4], abs=2e-5)
    point = "{bubbles: true, clientX: box.x + margin + 4.5 * cell, clientY: box.y + top_ + 5.5 * cell}"
    move = f"(box => at('map').dispatchEvent(new MouseEvent('mousemove', {point})))(at('map').getBoundingClientRect())"
    browser.run(move)
    assert browser.run("at('map-reading').textContent").endswith(f"(4): {read:.4f}")
    mean = browser.run("values(1, heads)[5 * 6 / 2 + 4]")
    assert mean == pytest.approx(np.mean([head[5][4] for head in record["attention"][1]["heads"]]), abs=2e-5)
    for canvas in ("map", "overview"):
        drawn = browser.run(
            f"(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(x => x))(at('{canvas}'))"
        )
        assert drawn
    assert browser.run("document.querySelectorAll('#neuron-table tbody tr').length") == 8
    assert browser.run("document.querySelectorAll('#expert-table tbody tr').length") == len(record["experts"])


def test_the_page_keeps_attention_to_16_bits(files: tuple[Path, dict[str, Any]]) -> None:
    page, record = files
    content = page.read_text().split('id="content">')[1].split("</script>")[0]
    code = json.loads(content)["attention"][0]["heads"][1]
    values = np.frombuffer(base64.b64decode(code), dtype="<u2") / 65535
    expected = [value for row in record["attention"][0]["heads"][1] for value in row]
    np.testing.assert_allclose(values, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers=1,99"], "must name layers from 1 to"),
        (["--layers=x"], "must be numbers and ranges such as 1,3,5-8, or all"),
        (["--target=ab"], "must be one token of the model, and is 2"),
        (["--target= ab"], "(got ' ab')"),
        (["--target-id=100000"], "must be between 0 and"),
        (["--top-k=0", "--ngram=0"], "2 errors; nothing was started"),
        (["--output=nowhere/probe.html"], "has no directory"),
        (["--data=nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_refused(run_directory: Path, arguments: list[str], message: str) -> None:
    done = run_command("trainer.probe", str(run_directory), "abc", *arguments, cwd=run_directory)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_prompt_that_is_too_long_is_refused(run_directory: Path) -> None:
    done = run_command("trainer.probe", str(run_directory), LETTERS[:26] * 200, cwd=run_directory)
    assert done.returncode == 2 and "the model's context is" in done.stderr


@pytest.mark.parametrize("prompt", ["", "中é"])
def test_short_prompts(run_directory: Path, prompt: str, tmp_path: Path) -> None:
    """An empty one is the beginning of a document; nothing is attributed or searched here."""
    arguments = (f"--output={tmp_path / 'page.html'}", f"--json={tmp_path / 'probe.json'}", "--attribution-steps=0")
    done = run_command(
        "trainer.probe", str(run_directory), prompt, *arguments, "--num-documents=0", "--layers=2", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "probe.json").read_text())
    assert [token["text"] for token in record["tokens"]] == ["</s>", *prompt]
    assert record["attribution"] is None and record["documents"] is None
    assert [layer["layer"] for layer in record["attention"]] == [2]
    if CHROMIUM is not None:
        with Browser(tmp_path) as browser:
            browser.open(f"file://{tmp_path / 'page.html'}")
            assert browser.run("document.querySelectorAll('.token').length") == len(prompt) + 2
            assert browser.problems == []


def probe_on_rank(run: str, output: str) -> int:
    """The command on one rank of two."""
    sys.argv = ["probe", run, "abc", "--tensor-model-parallel-size=2", f"--json={output}", "--attribution-steps=4"]
    return command.run(command._parse())


def test_two_processes(run_directory: Path, tmp_path: Path) -> None:
    assert run_distributed(probe_on_rank, 2, str(run_directory), str(tmp_path / "two.json")) == [0, 0]
    done = run_command(
        "trainer.probe", str(run_directory), "abc", f"--json={tmp_path / 'one.json'}", "--attribution-steps=4",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    two, one = (json.loads((tmp_path / name).read_text()) for name in ("two.json", "one.json"))
    assert two["tokens"] == one["tokens"] and two["target"] == one["target"]
    for here, there in zip(two["predictions"], one["predictions"], strict=True):
        assert here["surprisal"] == pytest.approx(there["surprisal"], abs=1e-3)
