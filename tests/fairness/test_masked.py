"""A masked language model's pairs: pseudo-log-likelihoods are those of transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.huggingface.models import BERT, randomize, transformers
from tests.inference.test_fill_mask import write_tokenizer
from tests.train.small_run import run_command
from trainer.huggingface.importing import import_model, open_source

PAIRS = [("the cat sat on the mat.", "the dog sat on the mat."), ("a house in paris", "the houses of france is a cat")]


def test_pairs_of_an_encoder(tmp_path: Path) -> None:
    source, run = tmp_path / "bert", tmp_path / "run"
    model = randomize(transformers.BertForMaskedLM(transformers.BertConfig(**BERT))).eval()
    model.save_pretrained(source)
    write_tokenizer(source)
    import_model(open_source(source), run)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"), mask_token="[MASK]")
    expected = np.array([[score(model, tokenizer, text) for text in pair] for pair in PAIRS])
    data = tmp_path / "pairs.jsonl"
    lines = [{"sent_more": more, "sent_less": less, "bias_type": more} for more, less in PAIRS]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run_command("trainer.bias", str(run), "--data", str(data), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout.splitlines()[-1])["sets"]
    ratios = {one["subset"]: one["value"] for one in found["figures"] if one["name"] == "log_ratio"}
    for (more, _), (first, second) in zip(PAIRS, expected, strict=True):
        # Sums of up to ten log-probabilities in fp32.
        assert ratios[more] == pytest.approx(first - second, abs=2e-4)
    assert found["template"] == "each token masked in turn"
    refused = run_command("trainer.bias", str(run), "--data", "choices_en", cwd=tmp_path)
    assert refused.returncode == 2 and "is of the kind bbq" in refused.stderr


def score(model: torch.nn.Module, tokenizer: "transformers.PreTrainedTokenizerFast", text: str) -> float:
    """Sum over tokens of the log-probability of each while it is masked, by transformers alone."""
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    total = 0.0
    for place in range(1, ids.shape[1] - 1):
        masked = ids.clone()
        masked[0, place] = tokenizer.mask_token_id
        with torch.no_grad():
            # The tokenizer's tokens; those behind pad the vocabulary.
            logits = model(input_ids=masked).logits[0, place, : len(tokenizer)].double()
        total += float(logits.log_softmax(-1)[ids[0, place]])
    return total
