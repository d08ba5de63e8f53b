"""Adapters with a task's head, which is trained in full and saved beside them."""

import json
from pathlib import Path

import pytest

from tests.train.commands import losses_of, tensors_of
from tests.train.small_run import run_command, write_tokenizer
from tests.train.test_finetune import EXAMPLES, finetune
from tests.train.test_lora import last
from trainer.checkpoint.trainer_state import read_state

HEAD = ("model.head=classification", "model.num_labels=2", "model.pooling=last")
LORA = ("pretrained_checkpoint=outputs/base", "lora.rank=4", *HEAD, "optimizer.lr=1e-2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model, and a classifier of adapters on it."""
    folder = tmp_path_factory.mktemp("heads")
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789."
    write_tokenizer(folder / "tokenizer.json", letters=letters)
    for task in ("sft", "classify"):
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(example) + "\n" for example in EXAMPLES[task]))
        done = run_command(
            "data_tools.prepare_examples",
            *("--task", task, "--input", f"{task}.jsonl", "--tokenizer", "tokenizer.json"),
            *("--seq-length", "48", "--output", f"rows/{task}", "--validation-share", "0.2"),
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
    finetune(folder, "sft", "base")
    finetune(folder, "classify", "whole", *LORA)
    return folder


def test_head_is_saved_with_the_adapters(folder: Path) -> None:
    keys = {key.removeprefix("model.") for key in tensors_of(last(folder, "whole")) if key.startswith("model.")}
    whole = {key for key in keys if not key.endswith((".lora_a", ".lora_b"))}
    assert whole == {"head.classifier.weight", "head.classifier.bias"}
    state = read_state(last(folder, "whole"))
    assert state.base is not None and state.base.checkpoint == str(last(folder, "base").resolve())


@pytest.mark.parametrize("layout", ["parallel=tp2", "parallel=pp2"])
def test_layouts_agree(folder: Path, layout: str) -> None:
    """Of a pipeline, one stage alone has the head."""
    name = layout.partition("=")[2]
    other = finetune(folder, "classify", name, *LORA, layout)
    # Rounding grows with the high rate of 1e-2; measured 2.2e-6 in the last step.
    assert losses_of(other) == pytest.approx(losses_of(folder / "outputs" / "whole"), rel=1e-5)


def test_resumed_run_is_the_same(folder: Path) -> None:
    finetune(folder, "classify", "broken", *LORA, "training.stop_after_step=4")
    resumed = finetune(folder, "classify", "broken", *LORA)
    assert losses_of(resumed) == losses_of(folder / "outputs" / "whole")


def test_merged_classifier_is_proved(folder: Path) -> None:
    done = run_command("trainer.merge_adapter", "outputs/whole", "outputs/merged", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["gate"]["relative_difference"] <= 5e-6
    assert "logits differ from those of base and adapters by" in done.stderr
    quantized = run_command("trainer.quantize", "outputs/merged", "outputs/small", "--bits", "8", cwd=folder)
    assert quantized.returncode == 0, quantized.stderr
    found = []
    for name in ("whole", "merged", "small"):
        options = ("--input", "classify.jsonl", "--output", f"{name}.jsonl")
        done = run_command("trainer.predict", f"outputs/{name}", *options, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["labels"] == ["no", "yes"]
        lines = (folder / f"{name}.jsonl").read_text().splitlines()
        found.append([json.loads(line)["probabilities"]["yes"] for line in lines])
    assert found[1] == pytest.approx(found[0], abs=1e-5)
