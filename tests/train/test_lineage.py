"""`trainer.lineage` names for every step of a real run the documents that it was fed, and for every document its steps.

The run resumes under another layout, batch size and blend, loses steps that were not saved, skips samples, and is
forked.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import warm
from tests.data.shards import write_shard
from tests.train.commands import SMALL, environment
from tests.train.small_run import run_command
from trainer.history import read_history
from trireme.shards.shard import ShardReader

Fed = dict[int, dict[int, list[int]]]
"""Tokens of each sample by step and sample."""
SKIPPED = {"kind": "rollback", "step": 3, "to_step": 1, "skipped_samples": [[18, 23]], "mixture_first_sample": 0}
BLEND = "data.train=[{{paths:[data/a,data/b],weight:{}}},{{paths:[data/c],weight:1}}]"


def train(folder: Path, *further: str, num_processes: int = 1) -> Fed:
    """Train; what was fed to the steps of this start."""
    place = folder / "fed"
    place.mkdir()
    overrides = [*SMALL, "training.train_iters=20", "run_name=run", *further]
    done = warm.run(
        [
            *(sys.executable, "-m", "trainer.torchrun", "--standalone", "--nproc-per-node", str(num_processes), "-m"),
            *("tests.train.fed_train", *overrides),
        ],
        cwd=folder,
        env=environment(FED_TO=str(place), PYTHONPATH=str(Path(__file__).parents[2])),
    )
    assert done.returncode == 0, done.stderr
    fed: Fed = {}
    for path in place.glob("fed.*.jsonl"):
        for record in map(json.loads, path.read_text().splitlines()):
            fed.setdefault(record["step"], {}).update({int(sample): row for sample, row in record["fed"].items()})
    shutil.rmtree(place)
    return fed


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Fed, Fed]:
    """The directory, and what the steps that count of the run and of its fork were fed."""
    folder = tmp_path_factory.mktemp("lineage")
    generator = np.random.default_rng(1)
    for name, num_documents in (("a", 20), ("b", 11), ("c", 9)):
        # Of 0 to 90 tokens in windows of 33: empty ones, several in a window, and one over several windows.
        documents = [generator.integers(0, 64, length) for length in generator.integers(0, 90, num_documents)]
        write_shard(folder / "data" / name, [*documents, generator.integers(0, 64, 40)])
    (folder / "replay.jsonl").write_text(json.dumps(SKIPPED) + "\n")
    first = train(
        folder,
        BLEND.format(2),
        "recovery.replay=replay.jsonl",
        "checkpoint.save_interval=4",
        "checkpoint.save_at_end=false",
        "training.stop_after_step=6",
        "training.micro_batch_size=2",
        num_processes=2,
    )
    second = train(
        folder, BLEND.format(1), "training.global_batch_size=6", "training.stop_after_step=9", "recovery.replay=null"
    )
    fork = train(
        folder,
        BLEND.format(1),
        "run_name=fork",
        "resume=outputs/run",
        "training.stop_after_step=11",
        "data.train=[{paths:[data/c],weight:1}]",
    )
    assert (sorted(first), sorted(second), sorted(fork)) == ([*range(1, 7)], [*range(5, 10)], [10, 11])
    own = {**{step: fed for step, fed in first.items() if step <= 4}, **second}
    return folder, own, {**own, **fork}


def check(run_directory: Path, expected: Fed) -> None:
    """Compare both directions with what was fed."""
    from trainer.lineage import describe_step  # noqa: PLC0415 - after the shim

    history = read_history(run_directory)
    assert history.last_step == max(expected) and not history.missing
    reads: dict[tuple[str, int], list[tuple[int, int, int, int]]] = {}
    for step, fed in expected.items():
        record = describe_step(history, step)
        assert [sample["sample"] for sample in record["samples"]] == sorted(fed)
        for sample in record["samples"]:
            tokens: list[int] = []
            for part in sample["documents"]:
                document = ShardReader(part["shard"]).document(part["number"])
                assert part["num_tokens"] == len(document)
                tokens += document[part["first"] : part["end"]].tolist()
                read = (step, sample["sample"], part["first"], part["end"])
                reads.setdefault((part["shard"], part["number"]), []).append(read)
            assert tokens == fed[sample["sample"]]
    for shard in history.list_shards():
        for number in range(ShardReader(shard).num_documents):
            found = [(one.step, one.sample, one.first, one.end) for one in history.find_reads(shard, number)]
            assert found == sorted(reads.get((str(shard), number), []))
    assert reads and any(len(found) > 1 for found in reads.values())


def test_steps_and_documents_are_those_that_were_fed(
    history: tuple[Path, Fed, Fed], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, own, forked = history
    monkeypatch.chdir(folder)
    # The skipped samples were skipped, and the run has read its data more than once.
    assert not {18, 19, 20, 21, 22} & {sample for fed in own.values() for sample in fed}
    check(Path("outputs/run"), own)
    check(Path("outputs/fork"), forked)


def lineage(folder: Path, *arguments: str) -> str:
    done = run_command("trainer.lineage", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_prints_both_directions(history: tuple[Path, Fed, Fed]) -> None:
    folder, own, _ = history
    record: dict[str, Any] = json.loads(lineage(folder, "outputs/run", "--step", "5", "--json"))
    assert (record["step"], record["last_step"], len(record["samples"])) == (5, 9, len(own[5]))
    (checkpoint, *_) = sorted((folder / "outputs" / "run" / "checkpoints").iterdir())
    part = record["samples"][0]["documents"][0]
    other = json.loads(
        lineage(folder, str(checkpoint), "--document", f"{Path(part['shard']).name}:{part['number']}", "--json")
    )
    assert {"step": 5, "sample": record["samples"][0]["sample"]}.items() <= next(
        read for read in other["reads"] if read["step"] == 5
    ).items()
    assert lineage(folder, "outputs/run", "--step", "5").startswith("Step 5 of 9: 6 samples of 32 tokens, ")
    for name in (part["shard"], "/".join(Path(part["shard"]).parts[-2:])):
        assert "\nRead in " in lineage(folder, str(checkpoint), "--document", f"{name}:{part['number']}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("outputs/run", "--step", "10"), "--step: must be between 1 and 9, the steps of the run (got 10)"),
        (("outputs/run", "--document", "data/a"), "--document: must be a shard, a colon and the number of a document"),
        (
            ("outputs/run", "--document", "x:0"),
            "--document: names none or several of the shards that the run was trained on: data/a",
        ),
        (("outputs/run", "--document", "c:10"), "--document: does not exist: the shard has 10 documents"),
        (("data", "--step", "1"), "RUN: has no metrics.jsonl and no events.jsonl"),
        (("nothing", "--step", "1"), "RUN: is not a directory"),
    ],
)
def test_wrong_input_is_named(history: tuple[Path, Fed, Fed], arguments: tuple[str, ...], message: str) -> None:
    done = run_command("trainer.lineage", *arguments, cwd=history[0])
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_other_tokens_are_refused(history: tuple[Path, Fed, Fed], tmp_path: Path) -> None:
    shutil.copytree(history[0], tmp_path / "copy")
    write_shard(tmp_path / "copy" / "data" / "c", [np.arange(64) for _ in range(10)])
    done = run_command("trainer.lineage", "outputs/run", "--step", "1", cwd=tmp_path / "copy")
    assert done.returncode == 2
    assert "data.train[1]: is not the data that steps 1 to 4 read: tokens differ" in done.stderr


def test_a_fork_without_its_origin_says_what_is_missing(history: tuple[Path, Fed, Fed], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(history[0], folder)
    events = folder / "outputs" / "fork" / "events.jsonl"
    events.write_text(events.read_text().replace(str(history[0]), str(tmp_path / "gone")))
    done = run_command("trainer.lineage", "outputs/fork", "--step", "3", cwd=folder)
    assert done.returncode == 2 and "--step: is not known: Steps 1 to 9 are those of the run run" in done.stderr
    # Its own steps are known.
    assert json.loads(lineage(folder, "outputs/fork", "--step", "10", "--json"))["samples"]
