"""Measure the CPU speed of fine-tuning steps against transformers' Trainer: the same rows, and what packing gains.

Two tasks: answers of an assistant (shape of SmolLM2-135M), and classes of texts (shape of all-MiniLM-L6-v2, dropout
0.1); each in fp32 with AdamW, clipping and the same threads, in alternating rounds of one process. Weights are random:
speed does not depend on them.

same_rows  both sides get equal tensors: packed dialogs with positions that begin anew (the Trainer's model masks
           by them), and texts padded to one length
packing    each side as it is used: the Trainer pads dialogs and texts to the longest of its batch, ours are packed;
           figures are tokens per second without padding

`make chat-model`, `make encoder-model` and `make recipe-data` write the inputs. Some five minutes on two idle cores.
Prints one JSON line.

    python -m benchmarks.finetune [--rounds 5] [--threads 2] [--outputs outputs]
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.output import take_stdout

FIGURES = take_stdout() if __name__ == "__main__" else sys.stdout  # before libraries are imported that write to it

from trainer.parallel import cpu_shim  # noqa: E402 - see above

cpu_shim.install()  # before Megatron-Core is imported below

import torch  # noqa: E402 - as above
import transformers  # noqa: E402 - as above

from trainer.build import wire_model  # noqa: E402 - as above
from trainer.config.engine import DeepSpeedEngineConfig  # noqa: E402 - as above
from trainer.config.load import load_config  # noqa: E402 - as above
from trainer.config.model import ModelConfig  # noqa: E402 - as above
from trainer.config.optim import OptimizerConfig, PrecisionConfig  # noqa: E402 - as above
from trainer.config.parallel import ParallelConfig  # noqa: E402 - as above
from trainer.data.labelled_rows import RowsConfig  # noqa: E402 - as above
from trainer.data.loader import build_loader  # noqa: E402 - as above
from trainer.data.micro_batch import MicroBatch  # noqa: E402 - as above
from trainer.engine.deepspeed.engine import DeepSpeedEngine  # noqa: E402 - as above
from trainer.engine.objective import ScoreObjective, TokenObjective  # noqa: E402 - as above
from trainer.parallel.cpu_memory import keep_freed_memory  # noqa: E402 - as above
from trainer.parallel.world import World, start_world, stop_world  # noqa: E402 - as above

OPTIMIZER = OptimizerConfig(lr=1e-5, weight_decay=0.0, adam_beta2=0.999)
DROPOUT = 0.1
MIN_SECONDS = 4.0
"""Shortest round: quick steps are taken several times."""
Step = Callable[[], int]
"""Trains one step, and returns its number of tokens without padding."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Name shards, and how many rows are a step."""

    task: str
    prefix: Path
    seq_length: int
    batch_size: int


def main() -> int:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: %(default)s)")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="of the make targets (default: outputs)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # where it is missing, accelerate takes all cores
    logging.disable(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    world = start_world(ParallelConfig(), timeout_seconds=600, seed=1)
    keep_freed_memory()  # as every run on a CPU does; the Trainer in this process has it too
    with tempfile.TemporaryDirectory(prefix="trireme-finetune-") as directory:
        folder = Path(directory)
        results = {
            "sft": measure_sft(folder, arguments, world),
            "classify": measure_classify(folder, arguments, world),
        }
    stop_world()
    figures = {
        "benchmark": "finetune",
        "peer": f"transformers {transformers.__version__} Trainer, sdpa",
        "torch": torch.__version__,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        **results,
    }
    print(json.dumps(figures), file=FIGURES, flush=True)
    return 0


def measure_sft(folder: Path, arguments: argparse.Namespace, world: World) -> dict[str, Any]:
    """Measure answers of an assistant."""
    start, file = arguments.outputs / "smollm2", arguments.outputs / "recipe_data" / "chats.jsonl"
    packed, single = (
        prepare(folder, "sft", start, file, seq_length=512, batch_size=size, pack=pack, further=["--drop-duplicates"])
        for size, pack in ((1, True), (8, False))
    )
    config = load_config([f"pretrained_checkpoint={start}", "model.seq_length=512"])
    ours = OurTrainer(config.model, packed, world=world)
    peer = PeerTrainer(peer_llama(config.model), folder)
    shared = list(read_batches(packed, 8))
    peer.check_packing(shared[0])
    same = compare(
        ours.stepper(shared), peer.stepper([as_packed_inputs(batch) for batch in shared]), rounds=arguments.rounds
    )
    padded = [pad_to_longest(batch, is_causal=True) for batch in read_batches(single, 4)]
    packing = compare(ours.stepper(shared), peer.stepper(padded), rounds=arguments.rounds)
    return {"same_rows": same, "packing": packing}


def measure_classify(folder: Path, arguments: argparse.Namespace, world: World) -> dict[str, Any]:
    """Measure classes of texts."""
    start, file = arguments.outputs / "minilm", arguments.outputs / "recipe_data" / "movies_train.csv"
    padded = prepare(folder, "classify", start, file, seq_length=72, batch_size=16, pack=False)
    packed = prepare(folder, "classify", start, file, seq_length=128, batch_size=4, pack=True)
    model = load_config([f"pretrained_checkpoint={start}"]).model
    model = replace(
        model,
        **{"head": "classification", "num_labels": 2, "pooler": "tanh"},
        **{"hidden_dropout": DROPOUT, "attention_dropout": DROPOUT, "head_dropout": DROPOUT},
    )
    peer = PeerTrainer(peer_bert(model), folder)
    batches = list(read_batches(padded, 8))
    ours = OurTrainer(replace(model, seq_length=72), padded, world=world)
    same = compare(
        ours.stepper(batches), peer.stepper([as_padded_inputs(batch) for batch in batches]), rounds=arguments.rounds
    )
    ours = OurTrainer(replace(model, seq_length=128), packed, world=world)
    dynamic = [pad_to_longest(batch, is_causal=False) for batch in batches]
    packing = compare(ours.stepper(list(read_batches(packed, 8))), peer.stepper(dynamic), rounds=arguments.rounds)
    return {"same_rows": same, "packing": packing}


def compare(ours: Step, peer: Step, *, rounds: int) -> dict[str, Any]:
    """Time both sides in alternating rounds, after one that is not counted."""
    rates: dict[str, list[float]] = {"ours": [], "peer": []}
    cpu_rates: dict[str, list[float]] = {"ours": [], "peer": []}
    for index in range(rounds + 1):
        order = [("ours", ours), ("peer", peer)]
        for name, step in order if index % 2 == 0 else order[::-1]:
            started, cpu_started, count = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - started < MIN_SECONDS:
                count += step()
            if index > 0:
                rates[name].append(count / (time.perf_counter() - started))
                cpu_rates[name].append(count / (time.process_time() - cpu_started))
    ratios = [mine / theirs for mine, theirs in zip(rates["ours"], rates["peer"], strict=True)]
    cpu_ratios = [mine / theirs for mine, theirs in zip(cpu_rates["ours"], cpu_rates["peer"], strict=True)]
    return {
        "median_ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "median_cpu_time_ratio": round(statistics.median(cpu_ratios), 3),
        "our_tokens_per_second": round(statistics.median(rates["ours"]), 2),
        "peer_tokens_per_second": round(statistics.median(rates["peer"]), 2),
    }


class OurTrainer:
    """Train a model of ours with the engine that a run on one CPU has."""

    def __init__(self, model: ModelConfig, rows: Rows, *, world: World) -> None:
        precision = PrecisionConfig(params_dtype="fp32")
        padded_vocab_size = -(-(model.vocab_size or 0) // 128) * 128
        chunks = wire_model(
            model,
            parallel=ParallelConfig(),
            precision=precision,
            padded_vocab_size=padded_vocab_size,
            world=world,
            seed=1,
        )
        self._engine = DeepSpeedEngine(
            chunks,
            config=DeepSpeedEngineConfig(zero_stage=0),
            optimizer=OPTIMIZER,
            precision=precision,
            groups=world.groups,
            device=world.device,
            objective=TokenObjective() if rows.task == "sft" else ScoreObjective("single"),
        )

    def stepper(self, batches: Sequence[MicroBatch]) -> Step:
        """Return a step over the next batch."""
        following = cycle(batches)

        def step() -> int:
            batch = next(following)
            self._engine.train_step([batch], learning_rate=OPTIMIZER.lr)
            return count_tokens(batch)

        return step


class PeerTrainer:
    """Train a model of transformers with its Trainer; a step is timed with all that the Trainer does around it."""

    def __init__(self, model: Any, folder: Path) -> None:
        self._model = model
        self._folder = folder
        self._trainer: Any = None

    def check_packing(self, batch: MicroBatch) -> None:
        """Assert that packed dialogs do not see each other on this side either."""
        inputs = as_packed_inputs(batch)
        tokens, labels = inputs["input_ids"], inputs["labels"]
        starts = batch.document_starts
        assert starts is not None
        self._model.eval()
        with torch.no_grad():
            together = self._model(input_ids=tokens, position_ids=inputs["position_ids"]).logits
            inside = starts[0] == int(starts[0].unique()[1])
            alone = self._model(input_ids=tokens[:, inside]).logits
        assert torch.allclose(together[:, inside], alone, atol=1e-4), "packed dialogs see each other"
        assert labels.shape == tokens.shape

    def stepper(self, batches: Sequence[dict[str, torch.Tensor]]) -> Step:
        """Return a step of the Trainer over the next batch."""
        sizes = cycle([int(batch.pop("num_tokens")) for batch in batches])
        steps = self._run(cycle(batches))

        def step() -> int:
            next(steps)
            return next(sizes)

        return step

    def _run(self, batches: Iterator[dict[str, torch.Tensor]]) -> Iterator[None]:
        """Yield after each optimizer step: the Trainer's own parts, in the order of its loop."""
        arguments = transformers.TrainingArguments(
            output_dir=str(self._folder / "peer"),
            per_device_train_batch_size=1,
            learning_rate=OPTIMIZER.lr,
            weight_decay=0.0,
            adam_beta2=0.999,
            max_grad_norm=OPTIMIZER.clip_grad,
            max_steps=10**6,
            report_to=[],
            use_cpu=True,
            bf16=False,
        )
        trainer: Any = transformers.Trainer(model=self._model, args=arguments)
        trainer.create_optimizer_and_scheduler(num_training_steps=10**6)
        trainer.current_gradient_accumulation_steps = 1  # which train() sets
        # Not prepared by accelerate: in this process, whose world has one rank, it would wrap the model in DDP.
        model, optimizer = self._model, trainer.optimizer
        model.train()
        for batch in batches:
            num_items = (batch["labels"] != -100).sum() if batch["labels"].ndim > 1 else None
            trainer.training_step(model, dict(batch), num_items)
            trainer.accelerator.clip_grad_norm_(model.parameters(), OPTIMIZER.clip_grad)
            optimizer.step()
            trainer.lr_scheduler.step()
            model.zero_grad()
            yield


def count_tokens(batch: MicroBatch) -> int:
    """Return the number of tokens in documents with targets: all but padding."""
    assert batch.document_starts is not None
    row, column = torch.nonzero(batch.loss_mask > 0, as_tuple=True)
    found = set(zip(row.tolist(), batch.document_starts[row, column].tolist(), strict=True))
    return sum(int((batch.document_starts[row] == start).sum()) for row, start in found)


def as_packed_inputs(batch: MicroBatch) -> dict[str, torch.Tensor]:
    """Return equal tensors for a causal model of transformers, which shifts labels itself."""
    labels = torch.full_like(batch.tokens, -100)
    labels[:, 1:] = torch.where(batch.loss_mask > 0, batch.labels, -100)[:, :-1]
    return {
        "input_ids": batch.tokens,
        "position_ids": batch.position_ids,
        "labels": labels,
        "num_tokens": torch.tensor(count_tokens(batch)),
    }


def as_padded_inputs(batch: MicroBatch) -> dict[str, torch.Tensor]:
    """Return equal tensors for a classifier of transformers: one text a row, then padding."""
    assert batch.document_starts is not None
    return {
        "input_ids": batch.tokens,
        "attention_mask": (batch.document_starts == 0).long(),
        "labels": batch.labels[:, 0],
        "num_tokens": torch.tensor(count_tokens(batch)),
    }


def pad_to_longest(batch: MicroBatch, *, is_causal: bool) -> dict[str, torch.Tensor]:
    """Return rows of one example as usual collators do, padded to the longest of the batch."""
    inputs = as_packed_inputs(batch) if is_causal else as_padded_inputs(batch)
    assert batch.document_starts is not None
    mask = (batch.document_starts == 0).long()
    longest = int(mask.sum(dim=1).max())
    inputs = {name: value[:, :longest] if value.ndim > 1 else value for name, value in inputs.items()}
    inputs.pop("position_ids", None)
    return {**inputs, "attention_mask": mask[:, :longest]}


def prepare(
    folder: Path,
    task: str,
    start: Path,
    file: Path,
    *,
    seq_length: int,
    batch_size: int,
    pack: bool,
    further: Sequence[str] = (),
) -> Rows:
    """Write rows by the command."""
    prefix = folder / f"{task}_{'packed' if pack else 'single'}"
    line = ["-m", "data_tools.prepare_examples", "--task", task, "--input", str(file), "--checkpoint", str(start)]
    line += ["--seq-length", str(seq_length), "--output", str(prefix / "rows"), "--pack" if pack else "--no-pack"]
    subprocess.run([sys.executable, *line, *further], check=True, stdout=sys.stderr, env={**os.environ})
    return Rows(task=task, prefix=prefix / "rows", seq_length=seq_length, batch_size=batch_size)


def read_batches(rows: Rows, number: int) -> Iterator[MicroBatch]:
    """Yield the first batches of a run."""
    datasets = load_config([f"data.train=[{{paths:[{rows.prefix}]}}]", "model=quickstart"]).data.train
    with build_loader(
        datasets,
        seed=1,
        seq_length=rows.seq_length,
        dp_rank=0,
        dp_size=1,
        micro_batch_size=rows.batch_size,
        global_batch_size=rows.batch_size,
        rows=RowsConfig(task=rows.task),  # type: ignore[arg-type]
    ) as loader:
        for _ in range(number):
            (batch,) = loader.next_step()
            yield batch


def peer_llama(model: ModelConfig) -> Any:
    """Build the same shape in transformers."""
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            num_hidden_layers=model.num_layers,
            hidden_size=model.hidden_size,
            intermediate_size=model.ffn_hidden_size,
            num_attention_heads=model.num_attention_heads,
            num_key_value_heads=model.num_query_groups,
            vocab_size=model.vocab_size,
            max_position_embeddings=2048,
            rope_theta=model.rotary_base,
            tie_word_embeddings=not model.untie_embeddings_and_output_weights,
            attn_implementation="sdpa",
            use_cache=False,
        )
    )


def peer_bert(model: ModelConfig) -> Any:
    """Build the same shape in transformers."""
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            num_hidden_layers=model.num_layers,
            hidden_size=model.hidden_size,
            intermediate_size=model.ffn_hidden_size,
            num_attention_heads=model.num_attention_heads,
            vocab_size=model.vocab_size,
            hidden_dropout_prob=DROPOUT,
            attention_probs_dropout_prob=DROPOUT,
            num_labels=2,
            attn_implementation="sdpa",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
