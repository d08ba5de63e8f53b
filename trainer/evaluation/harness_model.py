"""Present a model to EleutherAI's lm-evaluation-harness; imported only where the extra `evaluation` is installed."""

from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from trainer.evaluation.likelihood import ContinuationRequest, LikelihoodModel
from trainer.inference.files import show_progress
from trainer.inference.request import GenerationRequest
from trainer.inference.sampling import SamplingConfig
from trireme.errors import ConfigError, Violation

DEFAULT_MAX_NEW_TOKENS = 256
"""Of tasks that name none: the harness's own default."""


class HarnessModel(TemplateLM):
    """Answer the harness's requests; only rank 0 has one.

    Texts are encoded as transformers' tokenizer of the same file does by default: with the tokens that it puts before a
    text, if any. Text that spells a special token stays text, except in a rendered chat template.

    Args:
        model: of this process.
        seed: of sampling, for tasks that sample.
    Raises:
        ConfigError: the tokenizer has neither a token that begins nor one that ends a document.
    """

    def __init__(self, model: LikelihoodModel, *, seed: int) -> None:
        super().__init__()
        self._likelihoods, self._seed = model, seed
        self._text_tokenizer = model.loaded.tokenizer
        self._template = model.loaded.chat_template
        self._has_rendered = False
        tokenizer = self._text_tokenizer
        prefix = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
        if prefix is None:
            message = "has neither a token that begins a document nor one that ends it, which the harness needs"
            fix = "Name its eos_token in tokenizer_config.json."
            raise ConfigError([Violation(path="--tokenizer", value=tokenizer.path, message=message, fix=fix)])
        self._prefix = prefix

    @property
    def eot_token_id(self) -> int:
        """Return the token that ends a text."""
        eos = self._text_tokenizer.eos_id
        return self._prefix if eos is None else eos

    @property
    def prefix_token_id(self) -> int:
        """Return the token that stands before a text without context: that which begins a document, if there is one."""
        return self._prefix

    @property
    def tokenizer_name(self) -> str:
        """Return the tokenizer's hash, by which the harness names caches of requests."""
        return self._text_tokenizer.sha256

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Encode a text, by default with the tokens that the tokenizer puts before every text."""
        tokenizer = self._text_tokenizer
        opening = tokenizer.opening_ids if add_special_tokens in (None, True) else ()
        if self._has_rendered:
            first = tokenizer.token_name(self._prefix)
            if add_special_tokens is None and first and string.startswith(first):
                opening = ()
            return [*opening, *tokenizer.encode_with_special(string)]
        return [*opening, *tokenizer.encode(string)]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a conversation with the model's template."""
        assert self._template is not None, "checked before the start"
        self._has_rendered = True
        return self._template.render(chat_history, add_generation_prompt=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return what the harness records about the template."""
        return None if self._template is None or not chat_template else "chat_template.jinja"

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return log-likelihood and greediness of continuations, without the harness's bar for encoding them."""
        found: list[tuple[float, bool]] = super().loglikelihood(list(requests), disable_tqdm=True)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of whole texts, in windows of the model's context that do not overlap."""
        pairs: list[ContinuationRequest] = []
        owners: list[int] = []
        for number, (text,) in enumerate(request.args for request in requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self._prefix,
                max_seq_len=self._likelihoods.loaded.context_length,
                context_len=1,
            )
            for context, continuation in map(make_disjoint_window, windows):
                pairs.append(ContinuationRequest(context=tuple(context), continuation=tuple(continuation)))
                owners.append(number)
        sums = [0.0] * len(requests)
        for owner, score in zip(owners, self._score(pairs), strict=True):
            sums[owner] += score.logprob
        return sums

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate a text for each request, up to its stop strings."""
        asked = [self._generation(*request.args) for request in requests]
        return [completion.text for completion in self._likelihoods.generate(asked)]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        pairs = [
            ContinuationRequest(context=tuple(context), continuation=tuple(continuation))
            for _, context, continuation in requests
        ]
        return [(score.logprob, score.is_greedy) for score in self._score(pairs)]

    def _score(self, pairs: list[ContinuationRequest]) -> list[Any]:
        with show_progress("Score", len(pairs), unit="texts", is_shown=bool(pairs)) as show:
            return self._likelihoods.score(pairs, show=show)

    def _generation(self, context: str, options: dict[str, Any]) -> GenerationRequest:
        loaded = self._likelihoods.loaded
        settings: dict[str, Any] = dict(normalize_gen_kwargs(options, DEFAULT_MAX_NEW_TOKENS))
        count = settings["max_gen_toks"]
        if count >= loaded.context_length:
            message = f"must be less than the model's context of {loaded.context_length} tokens"
            raise ConfigError(
                [Violation(path="generation_kwargs.max_gen_toks", value=count, message=message, fix="Set it lower.")]
            )
        names = ("top_k", "top_p", "min_p", "repetition_penalty")
        sampling: dict[str, Any] = {name: settings[name] for name in names if settings.get(name) is not None}
        ids = self.tok_encode(context)[-(loaded.context_length - count) :] or [self._prefix]
        return GenerationRequest(
            prompt=tuple(ids),
            max_new_tokens=count,
            sampling=SamplingConfig(temperature=settings.get("temperature", 0.0), **sampling),
            seed=self._seed,
            stop=tuple(text for text in handle_stop_sequences(settings.get("until"), eos=None) if text),
            stop_ids=loaded.stop_ids,
        )
