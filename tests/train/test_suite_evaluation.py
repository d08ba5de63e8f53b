"""The evaluation suite in the training loop: its scores are the harness's, under every layout, and none is lost."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.harness import run_distributed
from tests.engine.runs import CP2, MEGATRON, PP2_VP2, TP2_SP, ZERO_0, Case, open_engine
from tests.train import small_run
from tests.train.commands import REPOSITORY
from tests.train.small_run import run_command, write_tokenizer
from trainer.config.engine import DeepSpeedEngineConfig
from trainer.loop.suite_evaluation import SuiteEvaluation, SuiteLayout, read_tasks
from trainer.metrics.jsonl import read_records
from trireme.tokenizer.tokenizer import Tokenizer

# Of these, the letters' tokenizer knows every character.
TASKS = ("cloze_en", "copy_en", "agreement_en")
SUITE = ("model.init_method_std=0.3", "evaluation.interval=2", f"evaluation.tasks=[{','.join(TASKS)}]")
LIMIT = 12
CASES = {
    "one": Case(engine=MEGATRON),
    "dp2": Case(engine=DeepSpeedEngineConfig(zero_stage=3)),
    "tp2": Case(engine=MEGATRON, parallel=TP2_SP),
    "pp2vp2": Case(engine=ZERO_0, parallel=PP2_VP2),
    "cp2": Case(engine=MEGATRON, parallel=CP2),
}


def evaluate(tokenizer: Path, names: list[str]) -> list[dict[str, float]]:
    """Evaluate fresh weights under each layout; all ranks call this."""
    found = []
    for name in names:
        case = CASES[name]
        with open_engine(case) as (engine, _, world):
            suite = SuiteEvaluation(
                read_tasks(TASKS, num_items=LIMIT),
                tokenizer=Tokenizer(tokenizer),
                layout=SuiteLayout(
                    dp_rank=world.dp_rank,
                    dp_size=world.dp_size,
                    micro_batch_size=2,
                    seq_length=case.model.seq_length,
                    length_multiple=2 * world.groups.cp.size() * world.groups.tp.size(),
                    num_microbatches_multiple=world.pp_size,
                    max_microbatches=4,
                ),
                is_collecting=world.groups.tp.rank() == 0,
            )
            result = suite.run(evaluate=engine.evaluate, read=lambda take: take())
            assert result.num_items == 3 * LIMIT
            found.append(result.scores)
            found.append({str(number): value for number, value in enumerate(suite.last_sums)})
    return found


def test_every_layout_gives_the_same_log_likelihoods(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    ((scores, sums),) = run_distributed(evaluate, 1, tokenizer, ["one"])
    assert len(set(sums.values())) > 50
    others = [name for name in CASES if name != "one"]
    for found in run_distributed(evaluate, 2, tokenizer, others):
        for number, name in enumerate(others):
            # Sums in fp32 in another order.
            assert found[2 * number + 1] == pytest.approx(sums, rel=1e-5), name
            assert found[2 * number] == pytest.approx(scores), name


def evaluations(run_directory: Path) -> list[dict[str, Any]]:
    records = [one for one in read_records(run_directory / "metrics.jsonl") if one["kind"] == "evaluation"]
    for record in records:
        assert record.pop("seconds") > 0
        del record["time"]
    return records


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.train(tmp_path_factory.mktemp("trained"), *SUITE)


def test_scores_are_those_of_the_harness(run_directory: Path) -> None:
    pytest.importorskip("lm_eval")
    done = run_command(
        "trainer.harness",
        str(run_directory),
        "--tasks",
        ",".join(f"trireme_{task}" for task in TASKS),
        cwd=REPOSITORY,
        HF_HUB_OFFLINE="1",
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])["results"]
    (first, last) = evaluations(run_directory)
    assert (first["step"], last["step"], last["num_items"]) == (2, 4, 250)
    for task in TASKS:
        metrics = results[f"trireme_{task}"]["metrics"]
        for name in ("acc", "acc_norm", "acc_stderr"):
            assert last[f"{task}_{name}"] == pytest.approx(metrics[name], rel=1e-6), (task, name)


def test_a_resumed_run_has_every_score_once(run_directory: Path, tmp_path: Path) -> None:
    resumed = small_run.train(tmp_path, *SUITE, "training.stop_after_step=2")
    assert [record["step"] for record in evaluations(resumed)] == [2]
    again = small_run.train(tmp_path, *SUITE)
    assert evaluations(again) == evaluations(run_directory)
    small_run.train(tmp_path, *SUITE)  # nothing to do
    assert evaluations(again) == evaluations(run_directory)
