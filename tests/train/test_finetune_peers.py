"""Fine-tuning has the losses of a plain loop of transformers and peft on the same rows, step by step."""

import json
import shutil
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

import torch  # noqa: E402 - as above

from benchmarks.finetune_parity import TARGETS, read_steps, train_plainly  # noqa: E402 - as above
from tests.train.commands import losses_of  # noqa: E402 - as above
from tests.train.small_run import run_command, write_tokenizer  # noqa: E402 - as above

NUM_STEPS = 10
TOLERANCE = 2e-6
"""Measured: 3e-7 to 6e-7, rounding of fp32 at losses of 4."""
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported Llama of random weights, an imported adapter of it, and packed rows of answers of uneven lengths."""
    folder = tmp_path_factory.mktemp("peers")
    write_tokenizer(folder / "model" / "tokenizer.json", letters=LETTERS)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=2 + len(LETTERS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder / "model")
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, task_type="CAUSAL_LM")
    )
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    adapted.save_pretrained(folder / "adapter")
    examples = [{"prompt": f"say {number}", "completion": " ".join(["yes"] * (1 + number % 5))} for number in range(80)]
    (folder / "examples.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    for command in (
        ("trainer.import_hf", "model", "imported"),
        ("trainer.import_hf", "adapter", "adapters", "--base", "imported"),
        (
            *("data_tools.prepare_examples", "--task", "sft", "--input", "examples.jsonl", "--checkpoint", "imported"),
            *("--seq-length", "64", "--output", "rows/train"),
        ),
    ):
        done = run_command(*command, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    ("start", "settings"), [("imported", ()), ("adapters", ("lora.rank=4", "lora.alpha=8"))], ids=["full", "lora"]
)
def test_losses_are_those_of_a_plain_loop(folder: Path, start: str, settings: tuple[str, ...]) -> None:
    done = run_command(
        "launch.finetune",
        *("task=sft", f"pretrained_checkpoint={start}", "data.train=[{paths:[rows/train]}]", f"run_name={start}"),
        *(f"training.train_iters={NUM_STEPS}", "training.global_batch_size=4", "training.micro_batch_size=2"),
        *("optimizer.lr=3e-3", "optimizer.weight_decay=0", "optimizer.adam_beta2=0.999", "lr_schedule=constant"),
        *("lr_schedule.warmup_steps=0", "checkpoint.save_interval=0", "logging.wandb.mode=disabled", *settings),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    run = folder / "outputs" / start
    model = transformers.LlamaForCausalLM.from_pretrained(folder / "model")
    if settings:
        model = peft.PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True)
    steps = read_steps(run, "sft", root=folder)
    counts = {sum(sum(document["is_target"]) for document in documents) for documents in steps}
    assert len(counts) > 1, "batches with different numbers of targets"
    expected = train_plainly(model, steps, learning_rate=3e-3)
    losses = list(losses_of(run).values())
    assert losses == pytest.approx(expected, abs=TOLERANCE)
    assert losses[-1] < losses[0] - 0.1, "it learns"
    shutil.rmtree(run)
