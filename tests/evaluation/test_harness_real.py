"""SmolLM2-135M-Instruct with its chat template and with adapters: scores are those of HFLM. Needs the package index."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("gguf")

from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM

from launch import example_model
from tests.train.small_run import run_command
from trainer.evaluation.harness_run import find_tasks
from trireme.errors import ConfigError

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
QUESTIONS = [
    {"question": "What is the capital of France?", "choices": ["Paris", "Rome", "The <|im_end|> of it"], "answer": 0},
    {"question": "Which of these is an animal?  ", "choices": ["a chair", "a horse", "house"], "answer": 1},
    {"question": "Translate 水 to English", "choices": ["fire", "water", "wind"], "answer": 1},
    {"question": "2 + 2 = ?", "choices": ["4", "5", "22"], "answer": 0},
]
TEXTS = [{"text": "One text about the weather in the north of Norway."}, {"text": "é中, and the rest of it.\n"}]
NAMES = ("chat_choice", "chat_text", "chat_answer")
COMMON = (
    "dataset_path: json\ndataset_kwargs: {data_files: {test: NAME.jsonl}}\ntest_split: test\nfewshot_split: test\n"
    "fewshot_config: {sampler: first_n}\n"
)
TASKS = (
    "task: chat_choice\noutput_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\n"
    "doc_to_target: answer\nmetric_list: [{metric: acc}, {metric: acc_norm}, {metric: brier_score}]\n",
    "task: chat_text\noutput_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
    "metric_list: [{metric: bits_per_byte}]\n",
    "task: chat_answer\noutput_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
    "generation_kwargs: {until: ['.'], max_gen_toks: 12, do_sample: false}\n"
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n",
)
SCALES = {"brier_score": 20}
"""Of the bound on relative differences. A Brier score is of probabilities, exponentials of sums of up to 20 nats."""
BOUND = 1e-6


def command(folder: Path, module: str, *arguments: object) -> str:
    done = run_command(module, *map(str, arguments), cwd=folder, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert "fatal" not in done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The import in `run`, its export in `hf`, three tasks in `tasks`; of the first one, answers that it gives."""
    folder = tmp_path_factory.mktemp("smollm2")
    try:
        file = example_model.fetch(example_model.MODELS["chat"], folder / "download")
    except ConfigError as error:
        pytest.skip(str(error))
    command(folder, "trainer.import_hf", file, "run")
    command(folder, "trainer.export_hf", "run", "hf")
    answers = [
        {"question": "What is the capital of France?", "answer": "The capital of France is Paris"},
        {"question": "Name a color.", "answer": "none"},
    ]
    (folder / "tasks").mkdir()
    for name, task, rows in zip(NAMES, TASKS, (QUESTIONS, TEXTS, answers), strict=True):
        (folder / "tasks" / f"{name}.yaml").write_text(task + COMMON.replace("NAME", name))
        (folder / "tasks" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def reference(folder: Path, *, model: dict[str, Any], **options: Any) -> dict[str, dict[str, float]]:
    """The scores of the harness's own class."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            patch.delenv(name, raising=False)
        patch.setenv("HF_HUB_OFFLINE", "1")
        hflm = HFLM(device="cpu", dtype="float32", batch_size=4, **model)
        tasks, manager = find_tasks(NAMES, include_paths=[folder / "tasks"])
        output = simple_evaluate(hflm, tasks=tasks, task_manager=manager, bootstrap_iters=0, **options)
    assert output is not None
    return {
        name: {key.removesuffix(",none"): value for key, value in result.items() if key.endswith(",none")}
        for name, result in output["results"].items()
    }


def check(folder: Path, expected: dict[str, dict[str, float]], *arguments: object) -> None:
    printed = command(folder, "trainer.harness", *arguments, "--include-path", "tasks", "--tasks", ",".join(NAMES))
    results = json.loads(printed)["results"]
    compared = 0
    for name, metrics in expected.items():
        for metric, value in metrics.items():
            if "stderr" not in metric:
                bound = BOUND * SCALES.get(metric, 1)
                assert results[name]["metrics"][metric] == pytest.approx(value, rel=bound), (name, metric)
                compared += 1
    assert compared == 5


@pytest.mark.parametrize("num_fewshot", [0, 1])
def test_questions_in_the_chat_template(folder: Path, num_fewshot: int) -> None:
    options = {"apply_chat_template": True, "num_fewshot": num_fewshot}
    expected = reference(folder, model={"pretrained": str(folder / "hf")}, **options)
    if not num_fewshot:
        assert expected["chat_answer"]["exact_match"] == 0.5
    check(folder, expected, "run", "--apply-chat-template", "--num-fewshot", num_fewshot)


def test_adapters_score_as_in_peft(folder: Path) -> None:
    chats = [
        {"messages": [{"role": "user", "content": f"Say {word}."}, {"role": "assistant", "content": f"{word}!"}]}
        for word in ("one", "two", "three", "four", "five", "six", "seven", "eight")
    ]
    (folder / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    command(
        folder,
        *("data_tools.prepare_examples", "--task", "sft", "--checkpoint", "run", "--seq-length", 64),
        *("--input", "chats.jsonl", "--output", "rows"),
    )
    command(
        folder,
        *("launch.finetune", "task=sft", "pretrained_checkpoint=run", "data.train=[{paths:[rows]}]"),
        *("model.seq_length=64", "precision=fp32", "lora.rank=4", "training.train_iters=2", "optimizer.lr=1e-2"),
        *("training.global_batch_size=2", "training.micro_batch_size=1", "training.eval_interval=0"),
        *("lr_schedule.warmup_steps=0", "checkpoint.save_interval=0", "run_name=lora", "logging.wandb.mode=disabled"),
    )
    command(folder, "trainer.export_hf", "outputs/lora", "adapter", "--adapter")
    model = {"pretrained": str(folder / "hf"), "peft": str(folder / "adapter")}
    expected = reference(folder, model=model)
    plain = reference(folder, model={"pretrained": str(folder / "hf")})
    # The adapters change more than rounding does.
    assert expected["chat_text"]["bits_per_byte"] != pytest.approx(plain["chat_text"]["bits_per_byte"], rel=1e-2)
    check(folder, expected, "run", "--adapter", "outputs/lora")
    # The adapters' own path means the same.
    check(folder, expected, "outputs/lora")
