"""Put a probe into plain values: the content of its JSON file and of its page.

s: tokens of the prompt.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from trainer.inference.token_text import token_text
from trainer.interpret.documents import NearDocuments
from trainer.interpret.lens import Distribution
from trainer.interpret.probe import Probe
from trireme.strict_json import finite_or_null
from trireme.tokenizer.tokenizer import Tokenizer

VERSION = 1
"""Version of the JSON format."""
_DIGITS = 6


def to_record(
    found: Probe,
    *,
    tokenizer: Tokenizer,
    model: Mapping[str, Any],
    prompt: str,
    documents: NearDocuments | None,
    documents_note: str,
) -> dict[str, Any]:
    """Return the content of the JSON file; docs/inference/probe.md describes it.

    Args:
        model: what the user should know about the model: its name, step, checkpoint and the like.
        documents: near training documents; None if they were not searched.
        documents_note: why they were not searched, or what was searched.
    """
    words = _Words(tokenizer)
    record = {
        "version": VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": dict(model),
        "prompt": prompt,
        "tokens": words.name_all(found.tokens),
        "target": words.name(found.target),
        "predictions": [words.describe(here) for here in found.output],
        "lens": [
            {"layer": number, "predictions": [words.describe(here) for here in layer]}
            for number, layer in found.lens.items()
        ],
        "attention": [
            {
                "layer": number,
                # A token gives nothing to those after it.
                "heads": [[_round(row[: query + 1]) for query, row in enumerate(head)] for head in maps.tolist()],
            }
            for number, maps in found.attention.items()
        ],
        "attribution": None
        if found.attribution is None
        else {**asdict(found.attribution), "completeness_gap": found.attribution.completeness_gap},
        "neurons": [
            {
                "layer": number,
                "neurons": [{**asdict(neuron), "activations": _round(neuron.activations)} for neuron in neurons],
            }
            for number, neurons in found.neurons.items()
        ],
        "experts": [{"layer": number, **asdict(activity)} for number, activity in found.experts.items()],
        "documents": None if documents is None else _describe_documents(documents, words),
        "documents_note": documents_note,
    }
    plain: dict[str, Any] = finite_or_null(record)
    return plain


class _Words:
    """Name tokens with their ids and texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def name(self, token: int) -> dict[str, Any]:
        if token not in self._known:
            self._known[token] = token_text(token, self._tokenizer)
        return {"id": token, "text": self._known[token]}

    def name_all(self, tokens: Sequence[int]) -> list[dict[str, Any]]:
        return [self.name(token) for token in tokens]

    def describe(self, here: Distribution) -> dict[str, Any]:
        top = [{**self.name(token), "probability": probability} for token, probability in here.top]
        return {**asdict(here), "top": top}

    def decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens))


def _describe_documents(documents: NearDocuments, words: _Words) -> dict[str, Any]:
    content = asdict(documents)
    for plain, near in zip(content["documents"], documents.documents, strict=True):
        first, last = near.num_before, near.num_before + near.longest
        parts = (near.tokens[:first], near.tokens[first:last], near.tokens[last:])
        del plain["tokens"], plain["num_before"]
        plain |= dict(zip(("text_before", "text", "text_after"), map(words.decode, parts), strict=True))
    return content


def _round(values: Sequence[float]) -> list[float]:
    return [round(value, _DIGITS) for value in values]
