"""Compare fine-tuning step by step with plain loops of transformers and peft, and with TRL: same rows, same numbers.

    python -m benchmarks.finetune_parity [--model outputs/smollm2] [--data outputs/recipe_data] [--trl-python PYTHON]

sft    SmolLM2-135M on the dialogs, all weights, ten steps of packed rows; the peers get each dialog as a row of its own
lora   the same with adapters that peft wrote, so that both begin with the same A and B
dpo    a tiny Llama with random weights on the preferences, only with TRL

Losses are those of each step before its update, in fp32 with one thread. `make chat-model` and `make recipe-data` write
the inputs. --trl-python is the interpreter of an environment with TRL 1.0 (`pip install trl==1.0.0 peft`); without it
the comparisons with TRL are left out. Prints one JSON line.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.output import take_stdout

FIGURES = take_stdout() if __name__ == "__main__" else sys.stdout  # before libraries are imported that write to it

import peft  # noqa: E402 - see above
import torch  # noqa: E402 - as above
import transformers  # noqa: E402 - as above

from trainer.config.load import load_config_file  # noqa: E402 - as above
from trainer.config.run import DatasetConfig  # noqa: E402 - as above
from trainer.data.labelled_rows import RowsConfig  # noqa: E402 - as above
from trainer.data.loader import build_loader  # noqa: E402 - as above
from trainer.metrics.jsonl import read_records  # noqa: E402 - as above

NUM_STEPS = 10
SFT_TOLERANCE, DPO_TOLERANCE = 1e-4, 1e-5
RANK, ALPHA = 8, 16.0
BETA = 0.1
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Document = dict[str, list[Any]]
"""{"tokens": ids, "is_target": for each token whether the next one is a target}."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Hold what a run of ours did."""

    losses: list[float]
    steps: list[list[Document]]
    validation: dict[str, Any] | None


def main() -> int:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("outputs/smollm2"), help="import (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("outputs/recipe_data"), help="default: %(default)s")
    parser.add_argument("--trl-python", type=Path, help="interpreter that has TRL")
    parser.add_argument("--only", choices=["sft", "lora", "dpo"], nargs="+", default=["sft", "lora", "dpo"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="trireme-parity-") as directory:
        folder = Path(directory)
        command("trainer.export_hf", arguments.model, folder / "smollm2", "--gate", "off")
        parts = {"sft": compare_sft, "lora": compare_lora, "dpo": compare_dpo}
        results = {name: parts[name](folder, arguments) for name in arguments.only}
    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
    print(json.dumps({"benchmark": "finetune_parity", "num_steps": NUM_STEPS, **results, **versions}), file=FIGURES)
    return 0 if all(result["is_equal"] for result in results.values()) else 1


def compare_sft(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train all weights."""
    prepare(folder, arguments, "sft")
    run = finetune(folder, "sft", arguments.model, learning_rate=2e-5)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "smollm2", dtype=torch.float32)
    peers = {"transformers": train_plainly(model, run.steps, learning_rate=2e-5)}
    if arguments.trl_python:
        peers["trl"] = train_with_trl(folder, arguments, "sft", run, learning_rate=2e-5)["losses"]
    return summarize(run.losses, peers, tolerance=SFT_TOLERANCE)


def compare_lora(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train adapters that peft wrote; B is not 0, so that the first step has gradients of A."""
    prepare(folder, arguments, "sft")
    torch.manual_seed(0)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder / "smollm2", dtype=torch.float32)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=TARGETS, task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.01)
    adapted.save_pretrained(folder / "adapter")
    command("trainer.import_hf", folder / "adapter", folder / "adapters", "--base", arguments.model)
    settings = [f"lora.rank={RANK}", f"lora.alpha={ALPHA}"]
    run = finetune(folder, "sft", folder / "adapters", *settings, learning_rate=1e-3, name="lora")
    peers = {"peft": train_plainly(adapted, run.steps, learning_rate=1e-3)}
    if arguments.trl_python:
        found = train_with_trl(folder, arguments, "sft", run, learning_rate=1e-3, adapter=folder / "adapter")
        peers["trl"] = found["losses"]
    return summarize(run.losses, peers, tolerance=SFT_TOLERANCE)


def compare_dpo(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a tiny model on preferences."""
    if not arguments.trl_python:
        return {"is_equal": True, "skipped": "without --trl-python"}
    prepare(folder, arguments, "dpo")
    write_tiny_model(folder)
    command("trainer.import_hf", folder / "tiny", folder / "tiny_run")
    run = finetune(folder, "dpo", folder / "tiny_run", f"finetune.dpo_beta={BETA}", learning_rate=1e-3)
    found = train_with_trl(folder, arguments, "dpo", run, learning_rate=1e-3, model=folder / "tiny")
    assert run.validation is not None
    margins = (run.validation["reward_margin"], found["held_out_margin"])
    result = summarize(run.losses, {"trl": found["losses"]}, tolerance=DPO_TOLERANCE)
    difference = abs(margins[0] - margins[1])
    return {
        **result,
        "held_out_margins": margins,
        "margin_difference": difference,
        "is_equal": result["is_equal"] and difference <= DPO_TOLERANCE,
        "trl_versions": found["versions"],
    }


def summarize(ours: list[float], peers: dict[str, list[float]], *, tolerance: float) -> dict[str, Any]:
    """Compare the losses of all steps."""
    assert all(len(losses) == len(ours) == NUM_STEPS for losses in peers.values()), peers
    differences = {
        name: max(abs(mine - theirs) for mine, theirs in zip(ours, losses, strict=True))
        for name, losses in peers.items()
    }
    return {
        "losses": [round(loss, 6) for loss in ours],
        "largest_difference": {name: float(f"{value:.2g}") for name, value in differences.items()},
        "tolerance": tolerance,
        "is_equal": max(differences.values()) <= tolerance and ours[0] != ours[-1],
    }


def prepare(folder: Path, arguments: argparse.Namespace, task: str) -> None:
    """Write rows; once."""
    if (folder / f"rows_{task}.bin").exists():
        return
    name = "chats.jsonl" if task == "sft" else "preferences.jsonl"
    further = ["--drop-duplicates"] if task == "sft" else []
    command(
        *("data_tools.prepare_examples", "--task", task, "--input", arguments.data / name),
        *("--checkpoint", arguments.model, "--seq-length", "192", "--validation-share", "0.05", *further),
        *("--output", folder / f"rows_{task}"),
    )


def finetune(folder: Path, task: str, start: Path, *further: str, learning_rate: float, name: str = "") -> Run:
    """Train by the command; return its losses, rows and last validation."""
    name = name or task
    validation = [f"data.validation=[{{paths:[{folder}/rows_{task}.validation]}}]"] if task == "dpo" else []
    command(
        *("launch.finetune", f"task={task}", f"pretrained_checkpoint={start}", f"run_name={name}"),
        *(f"output_dir={folder}/runs", f"data.train=[{{paths:[{folder}/rows_{task}]}}]", *validation, *further),
        *("training.global_batch_size=2", "training.micro_batch_size=1", f"training.train_iters={NUM_STEPS}"),
        *("training.eval_iters=null", "lr_schedule=constant", f"optimizer.lr={learning_rate}", "lr_schedule.min_lr=0"),
        *("lr_schedule.warmup_steps=0", "optimizer.weight_decay=0", "optimizer.adam_beta2=0.999", "precision=fp32"),
        *("checkpoint.save_at_end=false", "checkpoint.save_interval=0", "logging.wandb.mode=disabled"),
    )
    directory = folder / "runs" / name
    records = read_records(directory / "metrics.jsonl")
    return Run(
        losses=[record["loss"] for record in records if record["kind"] == "train"],
        steps=read_steps(directory, task),
        validation=next((record for record in reversed(records) if record["kind"] == "validation"), None),
    )


def read_steps(directory: Path, task: str, *, root: Path = Path()) -> list[list[Document]]:
    """Read the documents of every step in the order of the run, whose paths begin at `root`."""
    config = load_config_file(directory / "config.yaml")
    training = config.training
    datasets = [replace(dataset, paths=[str(root / path) for path in dataset.paths]) for dataset in config.data.train]
    with build_loader(
        datasets,
        seed=training.seed,
        seq_length=config.model.seq_length,
        dp_rank=0,
        dp_size=1,
        micro_batch_size=training.micro_batch_size,
        global_batch_size=training.global_batch_size,
        rows=RowsConfig(task=task),  # type: ignore[arg-type]
    ) as loader:
        return [split([*loader.next_step()]) for _ in range(NUM_STEPS)]


def split(batches: Sequence[Any]) -> list[Document]:
    """Return the documents of micro batches that have targets."""
    documents = []
    for batch in batches:
        for row in range(batch.tokens.shape[0]):
            starts, mask = batch.document_starts[row], batch.loss_mask[row] > 0
            for start in starts.unique().tolist():
                inside = starts == start
                if mask[inside].any():
                    documents.append({"tokens": batch.tokens[row][inside].tolist(), "is_target": mask[inside].tolist()})
    return documents


def read_held_out(prefix: Path, *, seq_length: int) -> list[Document]:
    """Read all documents of a shard."""
    config = DatasetConfig(paths=[str(prefix)])
    with build_loader(
        [config],
        seed=0,
        seq_length=seq_length,
        dp_rank=0,
        dp_size=1,
        micro_batch_size=1,
        global_batch_size=1,
        rows=RowsConfig(task="dpo"),
    ) as loader:
        return [document for _ in range(count_rows(prefix)) for document in split([*loader.next_step()])]


def count_rows(prefix: Path) -> int:
    """Return the rows of a shard."""
    report = json.loads(prefix.with_name(prefix.name.removesuffix(".validation") + ".report.json").read_text())
    return int(report["splits"]["validation"]["num_rows"])


def train_plainly(model: Any, steps: list[list[Document]], *, learning_rate: float) -> list[float]:
    """Train a model of transformers or peft with a loop of twenty lines; return the loss of each step."""
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses = []
    for documents in steps:
        count = sum(sum(document["is_target"]) for document in documents)
        total = 0.0
        for document in documents:
            tokens = torch.tensor([document["tokens"]])
            is_target = torch.tensor([document["is_target"]])[:, :-1]
            logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits[is_target], tokens[:, 1:][is_target], reduction="sum")
            (loss / count).backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total / count)
    return losses


def train_with_trl(
    folder: Path,
    arguments: argparse.Namespace,
    task: str,
    run: Run,
    *,
    learning_rate: float,
    model: Path | None = None,
    adapter: Path | None = None,
) -> dict[str, Any]:
    """Train with TRL in its own environment."""
    held_out = read_held_out(folder / "rows_dpo.validation", seq_length=192) if task == "dpo" else []
    job = {
        "task": task,
        "model": str(model or folder / "smollm2"),
        "adapter": str(adapter) if adapter else None,
        "learning_rate": learning_rate,
        "beta": BETA,
        "steps": run.steps,
        "held_out": held_out,
    }
    (folder / "job.json").write_text(json.dumps(job))
    program = Path(__file__).with_name("finetune_trl.py")
    line = [str(arguments.trl_python), str(program), str(folder / "job.json"), str(folder / "result.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(line, check=True, stdout=sys.stderr, env=environment)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def write_tiny_model(folder: Path) -> None:
    """Write a Llama of two layers with SmolLM2's tokenizer."""
    torch.manual_seed(0)
    shape = transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=192,
        tie_word_embeddings=True,
    )
    transformers.LlamaForCausalLM(shape).save_pretrained(folder / "tiny")
    for file in (folder / "smollm2").iterdir():
        if file.name.startswith(("tokenizer", "special_tokens", "chat_template")):
            shutil.copy(file, folder / "tiny")


def command(module: str, *arguments: object) -> None:
    """Run a command of this project with one thread."""
    line = [sys.executable, "-m", module, *map(str, arguments)]
    subprocess.run(line, check=True, stdout=sys.stderr, env={**os.environ, "OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    sys.exit(main())
