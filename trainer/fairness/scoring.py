"""Score the items of bias measurements with a causal language model. n: items."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from trainer.evaluation.likelihood import ContinuationRequest, LikelihoodModel
from trainer.fairness.items import ChoiceItem, CompletionItem, Item, PairItem, PronounItem
from trainer.fairness.lexicon import score_sentiment
from trainer.inference.loading import LoadedModel
from trainer.inference.prompt_file import Completion
from trainer.inference.request import GenerationRequest
from trainer.inference.sampling import SamplingConfig

_AnyItem = TypeVar("_AnyItem", bound=Item)
Show = Callable[[int], object]
"""Receives the number of texts that are done."""
_TEXTS_AT_ONCE = 64
"""Texts between two reports of progress."""
CHOICE_TEMPLATES = {
    "en": ("{context}\n\nQ: {question}\nA:", " {answer}"),
    "zh": ("{context}\n\n问：{question}\n答：", "{answer}"),
}
"""Question and answer by language; the English one is that of lm-evaluation-harness' task bbq."""
PRONOUN_TEMPLATES = {
    "en": ('{sentence} "{pronoun}" refers to the', " {candidate}"),
    "zh": ("{sentence}这里的“{pronoun}”指的是", "{candidate}"),
}
"""The English one is that of Brown et al. 2020 (GPT-3), section 6.2.1."""


def draw_items(items: Sequence[_AnyItem], *, limit: int | None, seed: int) -> list[_AnyItem]:
    """Draw at most `limit` items without replacement, and return them in the order of the file."""
    if limit is None or limit >= len(items):
        return list(items)
    numbers = sorted(random.Random(seed).sample(range(len(items)), limit))
    return [items[number] for number in numbers]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Describe the texts that are generated after each prompt."""

    config: SamplingConfig
    num_samples: int
    max_new_tokens: int
    seed: int
    """Text number i of a file has the seed `seed + i`."""


@dataclass(frozen=True, kw_only=True)
class WrittenText:
    """Hold a generated text and its score."""

    prompt: str
    group: str
    category: str
    sample: int
    completion: str
    sentiment: float


class ItemScorer:
    """Score items with a causal model; only rank 0 has one.

    Args:
        model: of this process.
    """

    def __init__(self, model: LikelihoodModel) -> None:
        self._model, self._loaded = model, model.loaded
        self._prefix = _find_prefix(model.loaded)

    def score_pairs(self, items: Sequence[PairItem], *, show: Show) -> tuple[list[PairItem], np.ndarray]:
        """Return the items that fit into the model's context, and [n, 2] log-likelihoods of their sentences."""
        rows = [[self._request("", sentence, shared=0) for sentence in (item.more, item.less)] for item in items]
        return self._score(items, rows, show=show)

    def score_choices(
        self, items: Sequence[ChoiceItem], *, per_byte: bool, show: Show
    ) -> tuple[list[ChoiceItem], np.ndarray]:
        """Return the items that fit, and the numbers of the likeliest answers, [n].

        Args:
            per_byte: divide the log-likelihood of an answer by its length in bytes of UTF-8.
        """
        rows = []
        for item in items:
            question, answer = CHOICE_TEMPLATES.get(item.language, CHOICE_TEMPLATES["en"])
            context = question.format(context=item.context, question=item.question)
            rows.append(self._choices(context, [answer.format(answer=one) for one in item.answers]))
        kept, logprobs = self._score(items, rows, show=show)
        if per_byte:
            logprobs = logprobs / np.array([[len(one.encode()) for one in item.answers] for item in kept])
        return kept, logprobs.argmax(axis=1)

    def score_pronouns(self, items: Sequence[PronounItem], *, show: Show) -> tuple[list[PronounItem], np.ndarray]:
        """Return the items that fit, and [n, 2] log-likelihoods of their candidates."""
        rows = []
        for item in items:
            question, answer = PRONOUN_TEMPLATES.get(item.language, PRONOUN_TEMPLATES["en"])
            pronoun = item.pronoun.capitalize() if item.language == "en" else item.pronoun
            context = question.format(sentence=item.sentence, pronoun=pronoun)
            rows.append(self._choices(context, [answer.format(candidate=one) for one in item.candidates]))
        return self._score(items, rows, show=show)

    def write_texts(
        self, items: Sequence[CompletionItem], sampling: Sampling, *, show: Show
    ) -> tuple[list[CompletionItem], list[WrittenText]]:
        """Return the items that fit, and the texts after each of them, sample after sample.

        Raises:
            RunStopped: the model's logits are not finite.
        """
        prompts = [self._loaded.encode_prompt(item.prompt) for item in items]
        fits = [len(prompt) < self._loaded.context_length for prompt in prompts]
        kept = [item for item, fit in zip(items, fits, strict=True) if fit]
        asked = [
            (item, prompt, sample)
            for item, prompt, fit in zip(items, prompts, fits, strict=True)
            if fit
            for sample in range(sampling.num_samples)
        ]
        requests = [
            GenerationRequest(
                prompt=prompt,
                max_new_tokens=sampling.max_new_tokens,
                sampling=sampling.config,
                seed=sampling.seed + number,
                stop_ids=self._loaded.stop_ids,
            )
            for number, (_, prompt, _) in enumerate(asked)
        ]
        completions: list[Completion] = []
        for first in range(0, len(requests), _TEXTS_AT_ONCE):
            completions += self._model.generate(requests[first : first + _TEXTS_AT_ONCE])
            show(len(completions) // sampling.num_samples)
        return kept, [
            WrittenText(
                prompt=item.prompt,
                group=item.group,
                category=item.category,
                sample=sample,
                completion=done.text,
                sentiment=score_sentiment(done.text, language=item.language, prompt=item.prompt),
            )
            for (item, _, sample), done in zip(asked, completions, strict=True)
        ]

    def _choices(self, context: str, answers: Sequence[str]) -> list[ContinuationRequest]:
        """Encode answers after a context; all are scored from the first token in which one differs from the context.

        A tokenizer may join the end of the context and the beginning of an answer in one token.
        """
        before = self._loaded.tokenizer.encode(context)
        wholes = [self._loaded.tokenizer.encode(context + answer) for answer in answers]
        shared = min(_count_equal(before, whole) for whole in wholes)
        return [self._request(context, answer, shared=shared) for answer in answers]

    def _request(self, context: str, text: str, *, shared: int) -> ContinuationRequest:
        whole = self._loaded.tokenizer.encode(context + text)
        return ContinuationRequest(context=(*self._prefix, *whole[:shared]), continuation=tuple(whole[shared:]))

    def _score(
        self, items: Sequence[_AnyItem], rows: Sequence[Sequence[ContinuationRequest]], *, show: Show
    ) -> tuple[list[_AnyItem], np.ndarray]:
        limit = self._loaded.context_length + 1
        fits = [all(len(one.context) + len(one.continuation) <= limit for one in row) for row in rows]
        flat = [one for row, fit in zip(rows, fits, strict=True) if fit for one in row]
        kept = [item for item, fit in zip(items, fits, strict=True) if fit]
        if not flat:
            return kept, np.zeros((0, 2))
        scores = self._model.score(flat, show=lambda done: show(done * len(kept) // len(flat)))
        show(len(kept))  # several continuations may share a row
        return kept, np.array([score.logprob for score in scores]).reshape(len(kept), -1)


def _find_prefix(loaded: LoadedModel) -> tuple[int, ...]:
    """Return what stands before a text: what the model has seen there in training, or else any token that begins one.

    The first token of a sentence has no likelihood without one before it.
    """
    tokenizer = loaded.tokenizer
    other = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    return loaded.document_start or (0 if other is None else other,)


def _count_equal(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the longest common beginning, less than that of the second."""
    count = 0
    for one, other in zip(first, second[:-1], strict=False):
        if one != other:
            break
        count += 1
    return count
