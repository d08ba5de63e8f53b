"""`trainer.harness`: a run's scores are those of its export in transformers through the harness's own HFLM."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("transformers")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerFast

from tests import warm
from tests.train import small_run
from tests.train.commands import REPOSITORY, environment
from tests.train.small_run import run_command
from tests.trireme.small_disk import fill, small_file_system
from trainer.evaluation.harness_run import find_tasks
from trireme.errors import ConfigError

QUESTIONS = [
    # Contexts of one word, with spaces at their end, longer than the model's 32 positions, and empty.
    {"context": "a", "choices": ["b", "cde fg", "h"], "answer": 1, "delimiter": " "},
    {"context": "the cat sat on  ", "choices": ["mat", "dogs and cats"], "answer": 0},
    {"context": "abc " * 10, "choices": ["x", "y", "zz"], "answer": 2},
    {"context": "中é", "choices": ["é", "中"], "answer": 0},
    {"context": "", "choices": ["the cat", "the dog"], "answer": 1, "delimiter": ""},
]
TEXTS = ["One text. ", "abcdefg " * 12, "é中"]
PROMPTS = ["The", "a b c", "xyz " * 12]
COMMON = "dataset_path: json\ndataset_kwargs: {data_files: {test: NAME.jsonl}}\ntest_split: test\n"
MULTIPLE = (
    "task: own_choice\noutput_type: multiple_choice\ndoc_to_text: '{{context}}'\ndoc_to_choice: '{{choices}}'\n"
    "doc_to_target: answer\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n"
)
ROLLING = (
    "task: own_text\noutput_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
    "metric_list: [{metric: bits_per_byte}, {metric: byte_perplexity}]\n"
)
GENERATE = (
    "task: own_answer\noutput_type: generate_until\ndoc_to_text: '{{text}}'\ndoc_to_target: '{{answer}}'\n"
    "generation_kwargs: {until: ['.'], max_gen_toks: 6, do_sample: false}\n"
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
)
NAMES = ("own_choice", "own_text", "own_answer")


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Weights of this size make logits that differ by far more than rounding.
    return small_run.train(tmp_path_factory.mktemp("trained"), "model.init_method_std=0.3")


@pytest.fixture(scope="module")
def reference(run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> HFLM:
    """The export, in the harness's own class."""
    output = tmp_path_factory.mktemp("export") / "model"
    done = run_command("trainer.export_hf", str(run_directory), str(output), cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    # HFLM asks transformers for the token that ends a text, which this tokenizer's files do not name.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(output / "tokenizer.json"), eos_token="</s>", pad_token="</s>"
    )
    options = {"device": "cpu", "batch_size": 2, "dtype": "float32", "max_length": 32}
    with pytest.MonkeyPatch.context() as patch:
        # Left by tests of ranks in this process, they would make accelerate wait for others.
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            patch.delenv(name, raising=False)
        return HFLM(pretrained=str(output), tokenizer=tokenizer, **options)


@pytest.fixture(scope="module")
def folder(reference: HFLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks. Of the answers to generate, all but the last are what transformers generates."""
    place = tmp_path_factory.mktemp("tasks")
    options = {"until": ["."], "max_gen_toks": 6, "do_sample": False}
    asked = [Instance("generate_until", {}, (prompt, dict(options)), number) for number, prompt in enumerate(PROMPTS)]
    answers = reference.generate_until(asked, disable_tqdm=True)
    assert all(answers)
    answers[-1] += "?"
    rows: dict[str, list[dict[str, Any]]] = {
        "own_choice": QUESTIONS,
        "own_text": [{"text": text} for text in TEXTS],
        "own_answer": [{"text": text, "answer": answer} for text, answer in zip(PROMPTS, answers, strict=True)],
    }
    for name, content in zip(NAMES, (MULTIPLE, ROLLING, GENERATE), strict=True):
        (place / f"{name}.yaml").write_text(content + COMMON.replace("NAME", name))
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
    return place


@pytest.fixture(scope="module")
def expected(reference: HFLM, folder: Path) -> dict[str, dict[str, float]]:
    tasks, manager = find_tasks(NAMES, include_paths=[folder])
    output = simple_evaluate(reference, tasks=tasks, task_manager=manager, bootstrap_iters=0, log_samples=False)
    assert output is not None
    found = {
        name: {key.removesuffix(",none"): value for key, value in result.items() if key.endswith(",none")}
        for name, result in output["results"].items()
    }
    assert found["own_answer"]["exact_match"] == pytest.approx(2 / 3)
    return found


def check(output: str, expected: dict[str, dict[str, float]]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    for name, metrics in expected.items():
        for metric, value in metrics.items():
            if "stderr" not in metric:
                assert result["results"][name]["metrics"][metric] == pytest.approx(value, rel=1e-6), (name, metric)
    return result


def test_scores_of_one_process_are_those_of_the_exported_model(
    run_directory: Path, folder: Path, expected: dict[str, dict[str, float]]
) -> None:
    (run_directory / "harness.json").unlink(missing_ok=True)
    command = ("trainer.harness", str(run_directory), "--include-path", str(folder), "--tasks")
    done = run_command(*command, ",".join(NAMES), cwd=folder, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    result = check(done.stdout, expected)
    assert (result["step"], result["params_dtype"], result["batch_size"], result["seed"]) == (4, "fp32", 16, 1234)
    # Of rows that choices share, each choice counts; nothing of git, though this is no repository.
    assert "Score: 12/12 texts" in done.stderr
    assert "fatal" not in done.stderr and "Tokenizing" not in done.stderr
    scores = [line.split() for line in done.stderr.splitlines()]
    for name, metric in (("own_choice", "acc"), ("own_answer", "exact_match")):
        value = f"{expected[name][metric]:.4f}"
        assert any(line[:1] == [name] and line[3:5] == [metric, value] for line in scores), done.stderr
    assert len(result["checkpoint_sha256"]) == 64 and result["harness_version"]
    assert result["results"]["own_choice"]["template"]["doc_to_text"] == "{{context}}"
    again = run_command(*command, "own_choice", "--limit", "2", cwd=folder, HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    first, second = json.loads((run_directory / "harness.json").read_text())
    assert first == result and second["results"]["own_choice"]["num_items"] == 2


@pytest.mark.parametrize("kind", ["tensor", "pipeline", None])
def test_scores_of_two_processes_are_those_of_the_exported_model(
    run_directory: Path, folder: Path, expected: dict[str, dict[str, float]], tmp_path: Path, kind: str | None
) -> None:
    layout = [f"--{kind}-model-parallel-size", "2"] if kind else []
    done = warm.run(
        [
            *(sys.executable, "-m", "trainer.torchrun", "--standalone", "--nproc-per-node", "2", "-m"),
            *("trainer.harness", str(run_directory), "--include-path", str(folder), "--tasks", ",".join(NAMES)),
            *("--output", str(tmp_path / "scores.json"), "--max-batch-size", "2", *layout),
        ],
        cwd=REPOSITORY,
        env=environment(HF_HUB_OFFLINE="1"),
    )
    assert done.returncode == 0, done.stderr
    check(done.stdout, expected)
    assert (tmp_path / "scores.json").is_file()


def test_scores_are_printed_where_their_file_cannot_be_written(
    run_directory: Path, folder: Path, tmp_path: Path
) -> None:
    with small_file_system(tmp_path / "disk", kibibytes=64) as disk:
        fill(disk)
        asked = ("--tasks", "own_choice", "--limit", "1", "--output", str(disk / "scores.json"))
        command = ("trainer.harness", str(run_directory), "--include-path", str(folder), *asked)
        done = run_command(*command, cwd=folder, HF_HUB_OFFLINE="1")
        assert done.returncode == 1, done.stderr
        assert f"{disk / 'scores.json'}: cannot be written: No space left on device." in done.stderr
        assert "Traceback" not in done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["results"]["own_choice"]["num_items"] == 1
        assert [path.name for path in disk.iterdir()] == ["filler"]


def test_wrong_input_is_named(run_directory: Path, tmp_path: Path) -> None:
    def refuse(*arguments: str) -> str:
        done = run_command("trainer.harness", str(run_directory), *arguments, cwd=tmp_path, HF_HUB_OFFLINE="1")
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    message = refuse("--tasks", "no_such_task")
    assert "--tasks: is unknown" in message and "trireme_cloze_en" in message
    assert "--include-path: is not a folder" in refuse("--tasks", "x", "--include-path", str(tmp_path / "none"))
    assert "--output: has no directory" in refuse("--tasks", "x", "--output", str(tmp_path / "none" / "scores.json"))
    # An empty file, and a field that no row has.
    for name, rows, field in (("empty", "", "text"), ("fields", '{"text": "a"}\n', "none.deeper")):
        content = MULTIPLE.replace("own_choice", name).replace("{{choices}}", "{{" + field + "}}")
        (tmp_path / f"{name}.yaml").write_text(content + COMMON.replace("NAME", name))
        (tmp_path / f"{name}.jsonl").write_text(rows)
        assert "--tasks: cannot be run" in refuse("--tasks", name, "--include-path", str(tmp_path))
    assert "--limit: must be at least 1" in refuse("--tasks", "x", "--limit", "0")
    assert "--apply-chat-template: requires a chat template" in refuse(
        "--tasks", "trireme_copy_en", "--apply-chat-template"
    )


def _write_task(folder: Path, name: str, further: str = "") -> None:
    (folder / f"{name}.yaml").write_text(
        MULTIPLE.replace("own_choice", name) + COMMON.replace("NAME", name) + further, encoding="utf-8"
    )
    (folder / f"{name}.jsonl").write_text(json.dumps(QUESTIONS[0]) + "\n")


def test_no_task_of_a_tag_or_group_is_left_out_in_silence(tmp_path: Path) -> None:
    _write_task(tmp_path, "first", "tag: both\n")
    _write_task(tmp_path, "second", "tag: both\nfield: [\n")
    (tmp_path / "all.yaml").write_text("group: all_of_them\ntask: [first, second]\n")
    for name in ("both", "all_of_them"):
        with pytest.raises(ConfigError) as caught:
            find_tasks([name], include_paths=[tmp_path])
        assert [violation.path for violation in caught.value.violations] == [str(tmp_path / "second.yaml")]
    with pytest.raises(ConfigError) as caught:
        find_tasks(["second"], include_paths=[tmp_path])
    assert [violation.path for violation in caught.value.violations] == ["--tasks", str(tmp_path / "second.yaml")]
    assert find_tasks(["first"], include_paths=[tmp_path])[0] == ["first"]  # another task does not need that file


def test_the_tasks_of_a_group_have_their_data_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tasks").mkdir()
    _write_task(tmp_path / "tasks", "first")
    (tmp_path / "tasks" / "all.yaml").write_text("group: all_of_them\ntask: [first]\n")
    (tmp_path / "first.jsonl").write_text("")  # of the same name, where the command is run
    monkeypatch.chdir(tmp_path)
    names, manager = find_tasks(["all_of_them"], include_paths=[tmp_path / "tasks"])
    assert names == ["all_of_them"]
    assert manager.task_index["first"].cfg is not None
    files = manager.task_index["first"].cfg["dataset_kwargs"]["data_files"]
    assert files == {"test": str(tmp_path / "tasks" / "first.jsonl")}
    assert len(manager.load(names)["tasks"]["first"].test_docs()) == 1


def test_a_function_of_a_task_that_is_not_there_is_named(tmp_path: Path) -> None:
    _write_task(tmp_path, "first", "process_docs: !function utils.nothing\n")
    with pytest.raises(ConfigError, match="cannot be loaded: ImportError: Cannot import module 'utils'"):
        find_tasks(["first"], include_paths=[tmp_path])
