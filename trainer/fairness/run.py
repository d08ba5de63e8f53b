"""Measure the figures of files with a model, under any layout; all ranks call these functions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from trainer.evaluation.likelihood import LikelihoodModel
from trainer.fairness.figures import measure_choices, measure_completions, measure_pairs, measure_pronouns
from trainer.fairness.intervals import Figure
from trainer.fairness.items import ChoiceItem, CompletionItem, Item, ItemFile, Kind, PairItem, PronounItem
from trainer.fairness.masked import encode_pairs, score_masked
from trainer.fairness.report import SetResult
from trainer.fairness.scoring import (
    CHOICE_TEMPLATES,
    PRONOUN_TEMPLATES,
    ItemScorer,
    Sampling,
    Show,
    WrittenText,
    draw_items,
)
from trainer.inference.batch_model import load_batch_model
from trainer.inference.files import show_progress
from trainer.inference.loading import load_model
from trainer.inference.options import ModelOptions
from trainer.inference.sampling import SamplingConfig
from trainer.saved_run import SavedRun
from trireme.errors import ConfigError, Violation
from trireme.tokenizer.tokenizer import Tokenizer
from trireme.tokenizer.words import find_mask_token

_PURPOSE = "be measured"


def measure_causal(
    files: Sequence[ItemFile],
    options: ModelOptions,
    *,
    limit: int | None,
    seed: int,
    per_byte: bool,
    num_samples: int,
    max_new_tokens: int,
    choose_sampling: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> tuple[list[SetResult], list[WrittenText], Mapping[str, Any]]:
    """Measure a causal language model.

    Args:
        limit: items of each file at most, drawn at random; None takes all.
        per_byte: see `ItemScorer.score_choices`.
        choose_sampling: takes the model's generation_config.json, and returns the fields of a `SamplingConfig`.
    Returns:
        on rank 0 the results, the texts of completions, and how they were sampled; on others nothing.
    Raises:
        ConfigError: the model cannot be loaded so, or no item of a file fits into its context.
        RunStopped: its logits are not finite.
    """
    loaded = load_model(options, purpose=_PURPOSE, packs_weights=False)
    model = LikelihoodModel(loaded, batch_size=options.max_batch_size)
    if not loaded.is_driver:
        model.follow()
        return [], [], {}
    fields = choose_sampling(loaded.generation_config)
    sampling = Sampling(
        config=SamplingConfig(**fields), num_samples=num_samples, max_new_tokens=max_new_tokens, seed=seed
    )
    scorer = ItemScorer(model)
    results, texts = [], []
    try:
        for file in files:
            items = draw_items(file.items, limit=limit, seed=seed)
            with show_progress(file.name, len(items), unit="items", is_shown=True) as show:
                kept, figures, written = _measure(
                    scorer, file.kind, items, sampling=sampling, per_byte=per_byte, show=show
                )
            texts += written
            template = _template(file, sampling=sampling)
            results.append(_result(file, figures, num_items=kept, num_drawn=len(items), template=template))
    finally:
        model.stop()
    return results, texts, {**fields, "num_samples": num_samples, "max_new_tokens": max_new_tokens}


def _measure(
    scorer: ItemScorer, kind: Kind, items: Sequence[Item], *, sampling: Sampling, per_byte: bool, show: Show
) -> tuple[int, list[Figure], list[WrittenText]]:
    """Return how many items were scored, their figures, and generated texts."""
    seed = sampling.seed
    if kind == Kind.PAIRS:
        pairs, logprobs = scorer.score_pairs(cast("Sequence[PairItem]", items), show=show)
        return len(pairs), measure_pairs(pairs, logprobs, seed=seed) if pairs else [], []
    if kind == Kind.CHOICES:
        choices, chosen = scorer.score_choices(cast("Sequence[ChoiceItem]", items), per_byte=per_byte, show=show)
        return len(choices), measure_choices(choices, chosen, seed=seed) if choices else [], []
    if kind == Kind.PRONOUNS:
        pronouns, logprobs = scorer.score_pronouns(cast("Sequence[PronounItem]", items), show=show)
        return len(pronouns), measure_pronouns(pronouns, logprobs, seed=seed) if pronouns else [], []
    prompts, texts = scorer.write_texts(cast("Sequence[CompletionItem]", items), sampling, show=show)
    scores = np.array([text.sentiment for text in texts]).reshape(len(prompts), sampling.num_samples)
    return len(prompts), measure_completions(prompts, scores, seed=seed) if prompts else [], texts


def measure_masked(
    files: Sequence[ItemFile],
    options: ModelOptions,
    *,
    saved: SavedRun,
    tokenizer: Tokenizer,
    limit: int | None,
    seed: int,
) -> list[SetResult]:
    """Measure a masked language model with pairs of sentences, by pseudo-log-likelihoods.

    Returns:
        the results on rank 0; on others figures without meaning.
    Raises:
        ConfigError: the tokenizer has no mask token, the model cannot be loaded so or has no output layer, or no item
            of a file fits into its context.
    """
    config, mask_id = saved.state.model_config(), find_mask_token(tokenizer)
    if not config.has_output_layer:
        message, fix = "has no output layer: it predicts no tokens", "Give a masked language model."
        raise ConfigError([Violation(path="PATH", value=saved.checkpoint, message=message, fix=fix)])
    if mask_id is None:
        message, fix = "has no mask token", "Give the model's tokenizer with --tokenizer."
        raise ConfigError([Violation(path="--tokenizer", value=tokenizer.path, message=message, fix=fix)])
    loaded = load_batch_model(options, saved=saved, tokenizer=tokenizer, purpose=_PURPOSE)
    results = []
    for file in files:
        items = cast("Sequence[PairItem]", draw_items(file.items, limit=limit, seed=seed))
        kept, rows, places = encode_pairs(items, tokenizer=tokenizer, mask_id=mask_id, max_length=config.num_positions)
        with show_progress(file.name, len(items), unit="items", is_shown=loaded.model.is_driver) as show:
            logprobs = score_masked(
                loaded.model, rows, places, num_items=len(kept), vocab_size=loaded.vocab_size, show=show
            )
        figures = measure_pairs(kept, logprobs, seed=seed) if kept else []
        template = "each token masked in turn"
        results.append(_result(file, figures, num_items=len(kept), num_drawn=len(items), template=template))
    return results


def _result(file: ItemFile, figures: Sequence[Figure], *, num_items: int, num_drawn: int, template: str) -> SetResult:
    if not num_items:
        message, fix = "has no item that fits into the model's context", "Name another file."
        raise ConfigError([Violation(path="--data", value=file.name, message=message, fix=fix)])
    return SetResult(
        file=file,
        num_items=num_items,
        num_too_long=num_drawn - num_items,
        figures=figures,
        template=template,
    )


def _template(file: ItemFile, *, sampling: Sampling) -> str:
    """Return the form in which the items of a file are put, in the language of the first."""
    language = file.items[0].language
    if file.kind == Kind.CHOICES:
        return "".join(CHOICE_TEMPLATES.get(language, CHOICE_TEMPLATES["en"]))
    if file.kind == Kind.PRONOUNS:
        return "".join(PRONOUN_TEMPLATES.get(language, PRONOUN_TEMPLATES["en"]))
    if file.kind == Kind.COMPLETIONS:
        return f"{sampling.num_samples} texts of at most {sampling.max_new_tokens} tokens after each prompt"
    return "whole sentences"
