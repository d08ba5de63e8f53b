"""`trainer.fill_mask`: its probabilities are transformers', under every layout, and bad input is refused by line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors

from tests.distributed.harness import run_distributed
from tests.huggingface.models import BERT, randomize, transformers
from tests.train.small_run import run_command
from trainer.huggingface.importing import import_model, open_source
from trainer.inference.batch_model import load_batch_model, open_for_batches
from trainer.inference.mask_filler import TextEncoder, fill_masks
from trainer.inference.options import ModelOptions
from trainer.parallel.world import end_layout
from trireme.tokenizer.words import find_mask_token

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "in",
    "house",
    "paris",
    "is",
    "capital",
    "of",
    "france",
    ".",
    "##s",
]
TEXTS = ["the cat [MASK] on the mat.", "paris is the [MASK] of [MASK]", "[MASK] [MASK] house", "a [MASK]"]


def write_tokenizer(directory: Path) -> None:
    """A WordPiece tokenizer as BERT's, small."""
    vocabulary = {name: number for number, name in enumerate([*SPECIAL, *WORDS])}
    backend = Backend(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    backend.add_special_tokens(SPECIAL)
    backend.save(str(directory / "tokenizer.json"))
    names = {"mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    (directory / "tokenizer_config.json").write_text(json.dumps(names))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bert")
    model = randomize(transformers.BertForMaskedLM(transformers.BertConfig(**BERT)))
    with torch.no_grad():
        # So that places and tokens differ.
        model.bert.embeddings.position_embeddings.weight.mul_(20)
        model.cls.predictions.transform.LayerNorm.weight.mul_(4)
    model.save_pretrained(directory)
    write_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def run_directory(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    import_model(open_source(source), run)
    return run


@pytest.fixture(scope="module")
def expected(source: Path) -> list[list[list[tuple[int, float]]]]:
    """Ids and probabilities of the three likeliest tokens for each mask of each text, by transformers alone."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(source / "tokenizer.json"), mask_token="[MASK]", pad_token="[PAD]"
    )
    model = transformers.BertForMaskedLM.from_pretrained(source).eval()
    results = []
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model(ids).logits[0][ids[0] == tokenizer.mask_token_id]
        best = logits.softmax(-1)[:, : len(SPECIAL) + len(WORDS)]
        best = (best / best.sum(-1, keepdim=True)).topk(3)
        results.append(
            [
                list(zip(ids, shares, strict=True))
                for ids, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
        )
    first, second = (mask[0][1] for mask in results[1])
    assert abs(first - second) > 3e-4, "masks of one text differ by more than is allowed below"
    return results


def assert_equal(found: list[Any], expected: list[Any]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            assert [token for token, _ in mine] == [token for token, _ in other]
            # Logits are of size 10, and differ by 5e-6 of that at most.
            assert [p for _, p in mine] == pytest.approx([p for _, p in other], rel=2e-4)


def test_command(run_directory: Path, expected: list[Any], tmp_path: Path) -> None:
    file, output = tmp_path / "texts.jsonl", tmp_path / "filled.jsonl"
    file.write_text("".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(TEXTS)))
    done = run_command(
        "trainer.fill_mask",
        str(run_directory),
        "--input",
        str(file),
        "--output",
        str(output),
        "--top-k",
        "3",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(record["id"], record["text"]) for record in records] == list(enumerate(TEXTS))
    found = [[[(one["token_id"], one["probability"]) for one in mask] for mask in r["masks"]] for r in records]
    assert_equal(found, expected)
    names = [*SPECIAL, *WORDS]
    assert records[0]["masks"][0][0]["token"] == names[expected[0][0][0][0]].removeprefix("##")


def test_table(run_directory: Path, expected: list[Any], tmp_path: Path) -> None:
    done = run_command("trainer.fill_mask", str(run_directory), "--text", TEXTS[1], "--top-k", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "mask",
        f"{expected[1][0][0][1]:.2%}",
        "mask",
        f"{expected[1][1][0][1]:.2%}",
    ]


def fill(path: Path, layouts: list[tuple[int, int]]) -> list[Any]:
    """Fill in the texts under each (tensor, pipeline) size, in batches of one and two."""
    results = []
    for tensor, pipeline in layouts:
        options = ModelOptions(
            path=path, tensor_model_parallel_size=tensor, pipeline_model_parallel_size=pipeline, max_batch_size=2
        )
        saved, tokenizer = open_for_batches(options)
        mask_id = find_mask_token(tokenizer)
        assert mask_id is not None
        loaded = load_batch_model(options, saved=saved, tokenizer=tokenizer, purpose="fill in masks")
        encoder = TextEncoder(tokenizer, mask_id=mask_id, max_length=96)
        found: dict[int, Any] = {}
        rows = [encoder.encode(text) for text in TEXTS]
        for part in fill_masks(loaded.model, rows, mask_id=mask_id, top_k=3, vocab_size=loaded.vocab_size):
            found |= part
        results.append([found[number] for number in range(len(rows))] if found else None)
        end_layout()
    return results


def test_layouts(run_directory: Path, expected: list[Any]) -> None:
    layouts = [(2, 1), (1, 1)]  # the second has two replicas
    first, others = run_distributed(fill, 2, run_directory, layouts)
    for found in first:
        assert_equal(found, expected)
    assert others == [None, None]


def test_pipeline(run_directory: Path, expected: list[Any]) -> None:
    (found,), _ = run_distributed(fill, 3, run_directory, [(1, 3)])[:2]
    assert_equal(found, expected)


def test_refused_input(run_directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    lines = [
        json.dumps({"text": "no mask"}),
        "{",
        json.dumps({"prompt": "a [MASK]"}),
        json.dumps({"text": "[CLS] a [MASK]"}),
        json.dumps({"text": "a " * 95 + "[MASK]"}),
    ]
    file.write_text("\n".join(lines))
    done = run_command("trainer.fill_mask", str(run_directory), "--input", str(file), cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for number, part in enumerate(
        ["contains no [MASK]", "must be JSON", 'an object with "text"', "special token [CLS]", "has 98 tokens"], start=1
    ):
        assert f"texts.jsonl:{number}: " in done.stderr and part in done.stderr
    none = run_command("trainer.fill_mask", str(run_directory), cwd=tmp_path)
    assert none.returncode == 2 and "--text, --input" in none.stderr
