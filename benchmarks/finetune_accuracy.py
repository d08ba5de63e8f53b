"""Compare the accuracy of a fine-tuned classifier with transformers' Trainer and with a bag of words, over three seeds.

all-MiniLM-L6-v2 is trained on 3,000 sentences of movie reviews for one epoch and tested on 1,000 others. Both sides
have the learning rate 5e-5 with linear decay, no weight decay, clipping at 1, dropout 0.1 and fp32. The Trainer takes
batches of 16 sentences; ours is the recipe `experiment=classify_minilm`, whose batches of 4 packed rows hold 18.7 on
average. The bag of words is scikit-learn's logistic regression on words and pairs of words, weighted by tf-idf.

    python -m benchmarks.finetune_accuracy [--seeds 1 2 3] [--threads 2] [--outputs outputs]

`make encoder-model` and `make recipe-data` write the inputs. Requires scikit-learn (`pip install scikit-learn`) for the
bag of words, which is left out otherwise. Some 20 minutes on two idle cores. Prints one JSON line.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.output import take_stdout

FIGURES = take_stdout() if __name__ == "__main__" else sys.stdout  # before libraries are imported that write to it

import torch  # noqa: E402 - see above
import transformers  # noqa: E402 - as above

from trainer.metrics.jsonl import read_records  # noqa: E402 - as above

REPOSITORY = Path(__file__).resolve().parents[1]
Texts = list[tuple[str, int]]


def main() -> int:
    """Train both sides with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: %(default)s)")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="of the make targets (default: outputs)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()
    outputs = arguments.outputs.absolute()
    train, test = (read_texts(outputs / "recipe_data" / f"movies_{name}.csv") for name in ("train", "validation"))
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    with tempfile.TemporaryDirectory(prefix="trireme-accuracy-") as directory:
        folder = Path(directory)
        prepare(folder, outputs, environment)
        command = ("trainer.export_hf", outputs / "minilm", folder / "model", "--gate", "off")
        run(*command, environment=environment)
        ours, peer = [], []
        for seed in arguments.seeds:
            ours.append(train_ours(folder, outputs, seed, environment))
            peer.append(train_peer(folder, train, test, seed))
    difference = statistics.mean(ours) - statistics.mean(peer)
    errors = [statistics.stdev(side) / len(side) ** 0.5 if len(side) > 1 else 0.0 for side in (ours, peer)]
    standard_error = (errors[0] ** 2 + errors[1] ** 2) ** 0.5
    figures = {
        "benchmark": "finetune_accuracy",
        "ours": ours,
        "transformers_trainer": peer,
        "our_mean": round(statistics.mean(ours), 4),
        "peer_mean": round(statistics.mean(peer), 4),
        "standard_error_of_the_difference": round(standard_error, 4),
        "is_at_least_peer": difference >= -standard_error,
        "bag_of_words": bag_of_words(train, test) if find_spec("sklearn") else None,
        "seeds": arguments.seeds,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    print(json.dumps(figures), file=FIGURES)
    return 0


def read_texts(path: Path) -> Texts:
    """Read sentences and their classes."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [(row["text"], int(row["label"] == "positive")) for row in csv.DictReader(stream)]


def prepare(folder: Path, outputs: Path, environment: dict[str, str]) -> None:
    """Write the rows of the recipe."""
    data = outputs / "recipe_data"
    run(
        *("data_tools.prepare_examples", "--task", "classify", "--checkpoint", outputs / "minilm"),
        *("--seq-length", 128, "--input", data / "movies_train.csv", "--validation", data / "movies_validation.csv"),
        *("--output", folder / "rows" / "reviews"),
        environment=environment,
    )


def run(module: str, *arguments: object, environment: dict[str, str]) -> None:
    """Run a command of this project."""
    line = [sys.executable, "-m", module, *map(str, arguments)]
    subprocess.run(line, check=True, stdout=sys.stderr, env=environment, cwd=REPOSITORY)


def train_ours(folder: Path, outputs: Path, seed: int, environment: dict[str, str]) -> float:
    """Run the recipe; return the accuracy after its last step."""
    rows = folder / "rows" / "reviews"
    run(
        *("launch.finetune", "experiment=classify_minilm", f"pretrained_checkpoint={outputs / 'minilm'}"),
        *(f"data.train=[{{paths:[{rows}]}}]", f"data.validation=[{{paths:[{rows}.validation]}}]"),
        *(f"output_dir={folder}/runs", f"run_name=seed_{seed}", f"training.seed={seed}", "checkpoint=off"),
        *("training.eval_interval=1000", "logging.wandb.mode=disabled"),
        environment=environment,
    )
    records = read_records(folder / "runs" / f"seed_{seed}" / "metrics.jsonl")
    return float([record["accuracy"] for record in records if record["kind"] == "validation"][-1])


def train_peer(folder: Path, train: Texts, test: Texts, seed: int) -> float:
    """Train with transformers' Trainer; return its accuracy."""
    transformers.set_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder / "model", num_labels=2, **dropout
    )
    datasets = [
        [{**tokenizer(text, truncation=True, max_length=128), "label": label} for text, label in texts]
        for texts in (train, test)
    ]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "peer"),
        num_train_epochs=1,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=50,
        learning_rate=5e-5,
        lr_scheduler_type="linear",
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=seed,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    trainer: Any = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=datasets[0],
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    output = trainer.predict(datasets[1])
    return float((output.predictions.argmax(axis=1) == output.label_ids).mean())


def bag_of_words(train: Texts, test: Texts) -> float:
    """Train a logistic regression on words and pairs of words; return its accuracy."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - optional
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - as above

    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    model = LogisticRegression(C=10.0, max_iter=1000).fit(
        words.fit_transform([text for text, _ in train]), [label for _, label in train]
    )
    return float(model.score(words.transform([text for text, _ in test]), [label for _, label in test]))


if __name__ == "__main__":
    sys.exit(main())
