"""Fine-tuning by the real commands: every task trains, masks weigh alike under every layout, runs resume exactly.

The rows are made by the real `trireme prepare-examples` with a tokenizer in which a letter is a token.
"""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.shards import write_shard
from tests.train.commands import SMALL, losses_of, tensors_of
from tests.train.small_run import run_command, write_tokenizer
from tests.trireme.small_disk import fill, small_file_system
from trainer.checkpoint.manifest import read_manifest
from trainer.metrics.jsonl import read_records
from trireme.shards.examples import read_record
from trireme.shards.questions import read_questions
from trireme.tokenizer.tokenizer import Tokenizer

WORDS = ("good", "fine", "bad", "poor")
TINY = tuple(line for line in SMALL if not line.startswith(("model.vocab_size", "model.seq_length")))
ENCODER = ("model.attention_mask=bidirectional",)

EXAMPLES: Mapping[str, list[dict[str, Any]]] = {
    # Answers of very different lengths: a mean per row would weigh their tokens differently.
    "sft": [
        {"prompt": f"say {word} {number}", "completion": (word + " ") * (1 + 5 * (number % 2)) + "."}
        for number in range(12)
        for word in WORDS
    ],
    "classify": [
        {"text": f"a {word} day {'x' * (number % 7)}", "label": "yes" if word in WORDS[:2] else "no"}
        for number in range(12)
        for word in WORDS
    ],
    "tag": [
        {"tokens": ["Ann", "saw", word, *["Bo"] * (number % 3)], "tags": ["B-P", "O", "O", *["B-P"] * (number % 3)]}
        for number in range(12)
        for word in WORDS
    ],
    "dpo": [
        {"prompt": f"say {word} {number}", "chosen": f"{word}.", "rejected": f"{word} no {word}"}
        for number in range(12)
        for word in WORDS
    ],
}
SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": f"Ann is {word} in Bern {number}",
                    "qas": [
                        {
                            "id": f"{word}{number}",
                            "question": "how is Ann",
                            "answers": [{"text": word, "answer_start": 7}],
                        }
                    ],
                }
                for number in range(12)
                for word in WORDS
            ]
        }
    ]
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples of every task, prepared."""
    folder = tmp_path_factory.mktemp("finetune")
    write_tokenizer(
        folder / "tokenizer.json", letters="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789."
    )
    for task, examples in EXAMPLES.items():
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    (folder / "qa.json").write_text(json.dumps(SQUAD))
    for task in (*EXAMPLES, "qa"):
        length = "64" if task == "dpo" else "48"
        done = run_command(
            "data_tools.prepare_examples",
            *("--task", task, "--input", f"{task}.json{'' if task == 'qa' else 'l'}", "--tokenizer", "tokenizer.json"),
            *("--seq-length", length, "--output", f"rows/{task}", "--validation-share", "0.2"),
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
    return folder


def settings(task: str, name: str, *further: str) -> list[str]:
    return [
        *TINY,
        f"task={task}",
        f"data.train=[{{paths:[rows/{task}]}}]",
        f"data.validation=[{{paths:[rows/{task}.validation]}}]",
        "tokenizer.path=tokenizer.json",
        f"run_name={name}",
        "training.train_iters=8",
        "training.eval_interval=4",
        "training.eval_iters=null",
        *further,
    ]


def finetune(folder: Path, task: str, name: str, *further: str) -> Path:
    done = run_command("launch.finetune", *settings(task, name, *further), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "outputs" / name


def validations(run_directory: Path) -> list[dict[str, Any]]:
    return [record for record in read_records(run_directory / "metrics.jsonl") if record["kind"] == "validation"]


@pytest.fixture(scope="module")
def sft(folder: Path) -> Path:
    """One process that sees each global batch at once."""
    return finetune(folder, "sft", "sft", "training.micro_batch_size=8", "checkpoint.save_interval=4")


def test_tokens_weigh_alike_under_accumulation_and_data_parallelism(folder: Path, sft: Path) -> None:
    """Two ranks with four micro batches of one row each add up the same sums in another order."""
    other = finetune(folder, "sft", "sft_dp2", "training.micro_batch_size=1", "parallel.data_parallel_size=2")
    assert losses_of(other) == pytest.approx(losses_of(sft), rel=1e-6)


def test_a_resumed_run_is_the_same_bits(folder: Path, sft: Path) -> None:
    shape = "training.micro_batch_size=8"
    finetune(folder, "sft", "stopped", shape, "training.stop_after_step=4")
    resumed = finetune(folder, "sft", "stopped", shape)
    assert losses_of(resumed) == losses_of(sft)
    last = "checkpoints/step_00000008"
    whole, parts = tensors_of(sft / last), tensors_of(resumed / last)
    assert all(bool((parts[name] == tensor).all()) for name, tensor in whole.items())


@pytest.mark.parametrize(
    ("task", "model", "scores"),
    [
        ("classify", ENCODER, ("accuracy", "f1_macro", "calibration_error")),
        ("classify", (), ("accuracy",)),
        ("tag", ENCODER, ("entity_f1",)),
        ("qa", ENCODER, ("exact_match", "f1")),
    ],
)
def test_a_task_head_learns_and_is_scored(
    folder: Path, task: str, model: tuple[str, ...], scores: tuple[str, ...]
) -> None:
    name = f"{task}_{'encoder' if model else 'decoder'}"
    run = finetune(folder, task, name, *model, "optimizer.lr=3e-3", "finetune.num_epochs=20", "checkpoint.keep_best=1")
    losses = list(losses_of(run).values())
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4]), "it learns"
    found = validations(run)
    assert all(0 <= record[score] <= 1 for record in found for score in scores)
    assert "perplexity" not in found[0]
    (checkpoint, *_) = (run / "checkpoints").glob("step_*")
    record = read_record(checkpoint)
    assert record is not None
    assert record.task == task


def test_a_run_without_progress_ends_early_and_keeps_its_best(folder: Path) -> None:
    """With a rate so high that it only gets worse, the first validation stays the best."""
    further = (
        *ENCODER,
        *("optimizer.lr=1e-4", "optimizer.clip_grad=0", "finetune.num_epochs=40", "finetune.metric=accuracy"),
        *("training.eval_interval=1", "finetune.early_stopping_patience=3", "checkpoint.keep_best=1"),
        *("checkpoint.keep_last=1", "recovery.max_skipped_steps=0"),
    )
    run = finetune(folder, "classify", "early", *further)
    found = validations(run)
    scores = [record["accuracy"] for record in found]
    best = scores.index(max(scores))
    assert len(scores) == best + 4, "three validations after the best one"
    kept = {read_manifest(path).step for path in (run / "checkpoints").glob("step_*")}
    assert kept == {found[best]["step"], found[-1]["step"]}
    again = run_command("launch.finetune", *settings("classify", "early", *further), cwd=folder)
    assert again.returncode == 0
    assert "Nothing to do" in again.stdout + again.stderr
    assert len(validations(run)) == len(found)


def test_another_metric_does_not_compare_with_the_best_value_of_the_former_one(folder: Path) -> None:
    """An accuracy, of which more is better, is kept as its negative, which no loss can be below."""
    further = (*ENCODER, "optimizer.lr=3e-3", "finetune.num_epochs=2", "training.eval_interval=1")
    finetune(folder, "classify", "metric", *further, "finetune.metric=accuracy", "training.stop_after_step=2")
    changed = ("finetune.metric=loss", "finetune.early_stopping_patience=1")
    done = run_command("launch.finetune", *settings("classify", "metric", *further, *changed), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "finetune.metric was accuracy until step 2 and is loss now" in done.stderr
    later = {record["step"]: record["loss"] for record in validations(folder / "outputs" / "metric")[2:]}
    best = min(later, key=lambda step: later[step])
    assert f"Best validation: loss {later[best]:.4f} at step {best}." in done.stderr


def test_inputs_that_do_not_fit_the_task_are_named_together(folder: Path) -> None:
    done = run_command(
        "launch.finetune",
        *TINY,
        *("task=tag", "data.train=[{paths:[rows/sft]}]", "tokenizer.path=tokenizer.json", "model.seq_length=48"),
        *("finetune.metric=accuracy", "parallel.context_parallel_size=2", "model.head=token_classification"),
        "model.num_labels=3",
        cwd=folder,
    )
    assert done.returncode == 2
    for part in (
        "data.train[0].paths[0]: holds examples of the task sft, not of finetune.task=tag",
        "finetune.metric: requires validations",
        "parallel.context_parallel_size: must be 1 with finetune.task=tag",
    ):
        assert part in done.stderr


def test_examples_are_not_trained_on_as_text(folder: Path) -> None:
    done = run_command(
        "launch.local",
        *(*TINY, "data.train=[{paths:[rows/sft]}]", "tokenizer.path=tokenizer.json", "model.seq_length=48"),
        cwd=folder,
    )
    assert done.returncode == 2
    assert "holds examples of the task sft: trained on as text, their padding and prompts would count" in done.stderr


def test_preferences_are_learned_against_the_frozen_start(folder: Path, sft: Path) -> None:
    """The reference's losses are computed once and kept beside the rows; at first both models are one."""
    start = ("pretrained_checkpoint=outputs/sft", "finetune.dpo_beta=0.5", "optimizer.lr=1e-3")
    run = finetune(folder, "dpo", "dpo", *start, "training.micro_batch_size=4", "finetune.num_epochs=4")
    losses = list(losses_of(run).values())
    # Equal log-probabilities have the loss log 2; rounding between micro batches of other sizes is below 1e-5.
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[-1] < 0.6
    assert validations(run)[-1]["reward_accuracy"] > 0.9
    files = sorted((folder / "rows").glob("dpo*.reference-*.f32"))
    assert len(files) == 2, "of train and of validation"
    kept = [np.fromfile(path, dtype="<f4") for path in files]
    for path in files:
        path.unlink()
    other = finetune(
        folder, "dpo", "dpo_pp2", *start, "training.micro_batch_size=4", "finetune.num_epochs=4", "parallel=pp2"
    )
    assert losses_of(other) == pytest.approx(losses_of(run), rel=1e-5, abs=1e-6)
    for path, values in zip(files, kept, strict=True):
        # Computed again, by two stages: the same name, and the same numbers but for rounding.
        np.testing.assert_allclose(np.fromfile(path, dtype="<f4"), values, atol=1e-5)


def test_a_fine_tuned_run_is_evaluated_by_the_scores_of_its_task(folder: Path) -> None:
    """The same loss and scores as at its last validation, from the checkpoint alone."""
    run = finetune(folder, "classify", "evaluated", *ENCODER, "training.train_iters=4", "optimizer.lr=3e-3")
    done = run_command("trainer.evaluate", "outputs/evaluated", cwd=folder)
    assert done.returncode == 0, done.stderr
    result, last = json.loads(done.stdout), validations(run)[-1]
    for name in ("loss", "accuracy", "f1_macro"):
        assert result[name] == pytest.approx(last[name], rel=1e-6)
    assert "perplexity" not in result


def test_a_model_without_a_task_is_evaluated_on_rows_by_their_task_and_length(folder: Path) -> None:
    """As with both settings: a model of longer texts, such as an import, is scored on rows of 48 tokens."""
    tokenizer = Tokenizer(folder / "tokenizer.json")
    documents = [np.append(np.arange(2, 60), tokenizer.eos_id) for _ in range(20)]
    write_shard(folder / "text", documents, tokenizer_sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size)
    text = ("data.train=[{paths:[text]}]", "tokenizer.path=tokenizer.json", "run_name=plain", "model.seq_length=96")
    done = run_command("launch.local", *TINY, *text, "training.train_iters=3", cwd=folder)
    assert done.returncode == 0, done.stderr
    arguments = ("outputs/plain", "training.eval_iters=null", "data.validation=[{paths:[rows/sft.validation]}]")
    results = []
    for further in ((), ("finetune.task=sft", "model.seq_length=48")):
        done = run_command("trainer.evaluate", *arguments, *further, cwd=folder)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
    assert results[0] == results[1]
    # The head of a language model has no scores of classes.
    done = run_command("trainer.evaluate", "outputs/plain", "data.validation=[{paths:[rows/classify]}]", cwd=folder)
    assert done.returncode == 2
    assert "holds examples of the task classify" in done.stderr


def test_a_resumed_run_keeps_its_reference(folder: Path, sft: Path) -> None:
    """`pretrained_checkpoint` names a run, which may have gone on since; the losses may be gone as well."""
    base = ("training.micro_batch_size=8", "training.train_iters=8")
    finetune(folder, "sft", "start", *base, "training.stop_after_step=4")
    shape = ("pretrained_checkpoint=outputs/start", "optimizer.lr=1e-3", "finetune.num_epochs=2")
    whole = finetune(folder, "dpo", "whole", *shape)
    finetune(folder, "dpo", "half", *shape, "training.stop_after_step=4")
    finetune(folder, "sft", "start", *base)
    for path in (folder / "rows").glob("dpo*.reference-*.f32"):
        path.unlink()
    half = finetune(folder, "dpo", "half", *shape)
    assert losses_of(half) == losses_of(whole)


def test_classes_in_another_order_are_refused(folder: Path) -> None:
    """A resumed or pretrained head has scores in an order; examples in another one would train the wrong classes."""
    options = ("--task", "classify", "--input", "classify.jsonl", "--tokenizer", "tokenizer.json", "--seq-length", "48")
    for name, labels in {"turned": ("yes", "no"), "renamed": ("ja", "nein")}.items():
        if name == "renamed":
            renamed = [{**one, "label": {"yes": "ja", "no": "nein"}[one["label"]]} for one in EXAMPLES["classify"]]
            (folder / "renamed.jsonl").write_text("".join(json.dumps(one) + "\n" for one in renamed))
        inputs = ("--input", "renamed.jsonl") if name == "renamed" else ()
        prepare = (*options, *inputs, "--output", f"{name}/rows", "--labels", *labels)
        done = run_command("data_tools.prepare_examples", *prepare, cwd=folder)
        assert done.returncode == 0, done.stderr
    short = (*ENCODER, "training.eval_interval=0", "data.validation=[]", "training.train_iters=4")
    run = finetune(folder, "classify", "ordered", *short)
    turned = "data.train=[{paths:[turned/rows]}]"
    said = f"has the classes in another order than {{}}{run.name}/checkpoints/step_00000004: [yes, no] instead of"
    resumed = run_command(
        "launch.finetune", *settings("classify", "ordered", *short, turned, "training.train_iters=6"), cwd=folder
    )
    assert resumed.returncode == 2
    assert f"data.train: {said.format('outputs/')} [no, yes] (got turned/rows)" in resumed.stderr
    start = "pretrained_checkpoint=outputs/ordered"
    started = run_command("launch.finetune", *settings("classify", "next", *short, turned, start), cwd=folder)
    assert started.returncode == 2
    assert "has the classes in another order than" in started.stderr
    judged = run_command("trainer.evaluate", "outputs/ordered", "data.validation=[{paths:[turned/rows]}]", cwd=folder)
    assert judged.returncode == 2, judged.stderr
    assert "data.validation: has the classes in another order than" in judged.stderr
    other = run_command(
        "launch.finetune",
        *settings("classify", "renamed", *short, "data.train=[{paths:[renamed/rows]}]", start),
        cwd=folder,
    )
    assert other.returncode == 0, other.stderr
    assert "The scores of the classes ja, nein begin as those of no, yes in" in other.stderr


def test_questions_are_scored_whole_in_the_loop(folder: Path) -> None:
    """The figures of a validation are those of `trireme predict` on the same file: the best passage of all windows of a
    question, which packing spreads over rows, and data parallelism over ranks; any right answer counts."""
    names = ("Ann", "Bo", "Cleo", "Dora", "Eve")
    paragraphs = []
    for number in range(15):
        text = "".join(f"{names[(number + place) % 5]} is {WORDS[(number * place) % 4]}. " for place in range(9))
        name = names[number % 5]
        answers = [{"text": name, "answer_start": at} for at in (text.index(name), text.rindex(name))]
        answers += [{"text": "is", "answer_start": text.index("is")}] * (number % 2)
        entry = {"id": str(number), "question": f"who {number}", "answers": answers if number % 3 else []}
        paragraphs.append({"context": text.strip(), "qas": [entry]})
    (folder / "long.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    options = ("--task", "qa", "--input", "long.json", "--tokenizer", "tokenizer.json", "--seq-length", "48")
    done = run_command("data_tools.prepare_examples", *options, "--stride", "10", "--output", "rows/long", cwd=folder)
    assert done.returncode == 0, done.stderr
    questions = read_questions(folder / "rows" / "long")
    assert questions is not None
    assert sum(len(entry.windows) for entry in questions) >= 3 * len(questions)
    rows = ("data.train=[{paths:[rows/long]}]", "data.validation=[{paths:[rows/long]}]")
    # 4 rows a pass: the last one of a validation is filled up with padding.
    shape = (*ENCODER, *rows, "optimizer.lr=3e-3", "training.train_iters=24", "training.eval_interval=12")
    two = ("training.micro_batch_size=2", "training.global_batch_size=4", "parallel.data_parallel_size=2")
    run = finetune(folder, "qa", "long", *shape, *two)
    last = validations(run)[-1]
    done = run_command(
        "trainer.predict", "outputs/long", "--input", "long.json", "--output", "answers.jsonl", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)["scores"]
    assert 0 < scores["f1"] < 1
    assert {name: last[name] for name in scores} == pytest.approx(scores, abs=1e-9)
    assert "has_answer_f1" in scores
    one = run_command("trainer.evaluate", "outputs/long", "parallel.data_parallel_size=1", cwd=folder)
    assert one.returncode == 0, one.stderr
    found = json.loads(one.stdout)
    assert {name: found[name] for name in scores} == pytest.approx(scores, abs=1e-9)
    # Rows of earlier versions have no questions beside them: each window is scored as a question.
    path = folder / "rows" / "long.questions.jsonl"
    path.rename(folder / "kept.jsonl")
    manifest = folder / "rows" / "long.manifest.json"
    listed = json.loads(manifest.read_text())
    del listed["files"][".questions.jsonl"]
    manifest.write_text(json.dumps(listed))
    former = run_command("trainer.evaluate", "outputs/long", "parallel.data_parallel_size=1", cwd=folder)
    assert former.returncode == 0, former.stderr
    assert "scored by window, since the rows were prepared without their questions" in former.stderr
    assert json.loads(former.stdout)["f1"] != pytest.approx(scores["f1"], abs=1e-3)


def test_chats_are_continued_by_the_template_that_was_learned(folder: Path) -> None:
    """`prepare-examples --chat-template` may differ from that of the model; checkpoints have the one of the rows."""
    template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }}.{% endfor %}"
    (folder / "own.jinja").write_text(template)
    chats = [
        {"messages": [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "yes"}]} for n in WORDS
    ]
    (folder / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    options = ("--task", "sft", "--input", "chats.jsonl", "--tokenizer", "tokenizer.json", "--seq-length", "48")
    prepare = (*options, "--output", "rows/chats", "--chat-template", "own.jinja")
    done = run_command("data_tools.prepare_examples", *prepare, cwd=folder)
    assert done.returncode == 0, done.stderr
    run = finetune(
        folder,
        "sft",
        "chats",
        *("data.train=[{paths:[rows/chats]}]", "data.validation=[]", "training.eval_interval=0"),
        *("training.train_iters=1", "lr_schedule.warmup_steps=0"),
    )
    assert (run / "checkpoints" / "step_00000001" / "chat_template.jinja").read_text() == template


def test_numbers_and_sets_of_classes(folder: Path) -> None:
    """Weights of classes would weigh sets by their bits; a regression has no perplexity, however large its loss."""
    scores = {"good": 1000, "fine": 800, "bad": 2, "poor": 1}
    files = {
        "value": [{"text": f"a {word} day {n}", "score": scores[word]} for n in range(4) for word in WORDS],
        "multi": [{"text": f"a {word} day {n}", "labels": [word, "day"]} for n in range(4) for word in WORDS],
    }
    for kind, examples in files.items():
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in examples))
        options = ("--task", "classify", "--target", kind, "--input", f"{kind}.jsonl", "--tokenizer", "tokenizer.json")
        done = run_command(
            "data_tools.prepare_examples", *options, "--seq-length", "48", "--output", f"rows/{kind}", cwd=folder
        )
        assert done.returncode == 0, done.stderr
    rows = "data.train=[{{paths:[rows/{0}]}}]", "data.validation=[{{paths:[rows/{0}]}}]"
    of_sets = [line.format("multi") for line in rows]
    weights = "finetune.class_weights=[1,1,1,1,5]"
    refused = run_command("launch.finetune", *settings("classify", "multi", *ENCODER, *of_sets, weights), cwd=folder)
    assert refused.returncode == 2
    assert "finetune.class_weights: requires one class an example, and data.train has sets" in refused.stderr
    finetune(folder, "classify", "value", *ENCODER, *[line.format("value") for line in rows])
    judged = run_command("trainer.evaluate", "outputs/value", cwd=folder)
    assert judged.returncode == 0, judged.stderr
    found = json.loads(judged.stdout)
    assert found["loss"] == pytest.approx(found["mean_squared_error"], rel=1e-5)
    assert found["loss"] > 1000
    assert not {"note", "perplexity"} & found.keys()


def test_reference_losses_need_room(folder: Path, sft: Path, tmp_path: Path) -> None:
    """A disk that is full is said before the model runs, and nothing is left on it."""
    with small_file_system(tmp_path / "disk", kibibytes=200) as disk:
        for path in (folder / "rows").glob("dpo.*"):
            if ".reference-" not in path.name:
                shutil.copy(path, disk)
        shutil.copy(folder / "rows" / "tokenizer.json", disk)
        fill(disk)
        rows = (f"data.train=[{{paths:[{disk}/dpo]}}]", "data.validation=[]", "training.eval_interval=0")
        start = "pretrained_checkpoint=outputs/sft"
        done = run_command("launch.finetune", *settings("dpo", "full", *rows, start), cwd=folder)
        assert done.returncode == 2, done.stderr
        assert "the reference losses cannot be written: No space left on device. Make room" in done.stderr
        assert not [*disk.glob("*.partial")]
