"""Train on given documents with TRL's trainers, in an environment that has TRL 1.0 (see finetune_parity.py).

    PYTHON_WITH_TRL benchmarks/finetune_trl.py JOB RESULT

JOB is a JSON file: {"task": "sft" or "dpo", "model": directory, "adapter": directory or null, "learning_rate": x,
"beta": x, "steps": one list a step of documents {"tokens": [...], "is_target": [...]} (in dpo chosen and rejected in
turn), "held_out": documents of dpo}. RESULT gets {"losses": one a step, "held_out_margin": of dpo, after the last
step, "versions": {...}}. Rows, their order and the optimizer's numbers are those of the job; nothing is shuffled or
truncated.
"""

import json
import sys
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
import trl
from datasets import Dataset
from torch.utils.data import DataLoader


def main() -> None:
    """Run the job."""
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    if job["adapter"]:
        model = peft.PeftModel.from_pretrained(model, job["adapter"], is_trainable=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"])
    train = {"sft": sft, "dpo": dpo}[job["task"]]
    result = train(job, model, tokenizer)
    versions = {module.__name__: module.__version__ for module in (trl, transformers, torch)}
    Path(sys.argv[2]).write_text(json.dumps({**result, "versions": versions}))


def settings(job: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that both trainers share."""
    return {
        "output_dir": str(Path(sys.argv[2]).with_suffix(".trl")),
        "max_steps": len(job["steps"]),
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "remove_unused_columns": False,
        "disable_tqdm": True,
    }


class InOrder:
    """Give a trainer the rows of the job, step by step, as they are."""

    groups: list[list[int]]

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def get_train_dataloader(self) -> Any:
        """Return the rows of each step together."""
        return DataLoader(self.train_dataset, batch_sampler=self.groups, collate_fn=self.data_collator)


class Sft(InOrder, trl.SFTTrainer):
    """SFTTrainer on rows in order."""


class Dpo(InOrder, trl.DPOTrainer):
    """DPOTrainer on rows in order."""


def number(sizes: list[int]) -> list[list[int]]:
    """Return the numbers of the rows of each step."""
    starts = [sum(sizes[:step]) for step in range(len(sizes))]
    return [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]


def sft(job: dict[str, Any], model: Any, tokenizer: Any) -> dict[str, Any]:
    """Train on answers."""
    rows = []
    for documents in job["steps"]:
        for document in documents:
            mask = [False, *document["is_target"][:-1]]
            labels = [token if flag else -100 for token, flag in zip(document["tokens"], mask, strict=True)]
            rows.append({"input_ids": document["tokens"], "labels": labels})
    Sft.groups = number([len(documents) for documents in job["steps"]])
    arguments = trl.SFTConfig(**settings(job), max_length=None, packing=False, loss_type="nll")
    trainer = Sft(model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    return {"losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]}


def pair_up(documents: list[dict[str, Any]]) -> list[dict[str, list[int]]]:
    """Make the rows of DPOTrainer from chosen and rejected documents in turn."""
    rows = []
    for chosen, rejected in zip(documents[0::2], documents[1::2], strict=True):
        split = chosen["is_target"].index(True) + 1
        assert rejected["is_target"].index(True) + 1 == split
        prompt = chosen["tokens"][:split]
        assert rejected["tokens"][:split] == prompt
        # What follows the last target, such as a line feed after <|im_end|>, has no loss here and is cut.
        ends = [len(one["tokens"]) - one["is_target"][::-1].index(True) for one in (chosen, rejected)]
        answers = [one["tokens"][split : end + 1] for one, end in zip((chosen, rejected), ends, strict=True)]
        rows.append({"prompt_ids": prompt, "chosen_ids": answers[0], "rejected_ids": answers[1]})
    return rows


def dpo(job: dict[str, Any], model: Any, tokenizer: Any) -> dict[str, Any]:
    """Train on preferences."""
    rows = [row for documents in job["steps"] for row in pair_up(documents)]
    held_out = pair_up(job["held_out"])
    Dpo.groups = number([len(documents) // 2 for documents in job["steps"]])
    arguments = trl.DPOConfig(
        **settings(job), beta=job["beta"], max_length=None, per_device_eval_batch_size=len(held_out)
    )
    trainer = Dpo(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(held_out),
        processing_class=tokenizer,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    trainer.evaluate()  # its return value lacks rewards
    return {"losses": losses, "held_out_margin": trainer.state.log_history[-1]["eval_rewards/margins"]}


if __name__ == "__main__":
    main()
