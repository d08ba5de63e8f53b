"""Measure how many tokens a second models generate on this machine, in short rounds that alternate between them."""

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from trainer.inference.generator import Generator
from trainer.inference.loading import LoadedModel, load_model
from trainer.inference.options import ModelOptions
from trainer.inference.request import GenerationRequest
from trainer.inference.sampling import SamplingConfig
from trainer.parallel.world import World
from trainer.saved_run import SavedRun, open_saved_run

NUM_ROUNDS = 3
NUM_TEXTS = 8
"""Texts of the batch."""
_NEW_TOKENS, _SHORT_PROMPT, _PROMPT_TOKENS = 32, 8, 128
_MAX_SECONDS = 30.0
"""No round begins later; one is always measured."""
_LOGGER = logging.getLogger(__name__)

ParamsDtype = Literal["fp32", "bf16"]
Name = TypeVar("Name")


@dataclass(frozen=True, kw_only=True)
class DecodingSpeed:
    """Hold tokens a second, medians of the rounds."""

    one_text: float
    """New tokens of one text, after its prompt."""
    eight_texts: float
    """New tokens of `NUM_TEXTS` texts at once, all together."""
    prompt: float
    """Tokens of a prompt of 128 tokens, or of as many as fit into the model's context."""


@dataclass(frozen=True, kw_only=True)
class DecodingComparison:
    """Hold the speeds of two models, by the data type of their weights."""

    before: Mapping[str, DecodingSpeed]
    after: Mapping[str, DecodingSpeed]


def compare_decoding(
    before: SavedRun,
    after: Path,
    *,
    world: World,
    num_rounds: int,
    before_dtypes: Sequence[ParamsDtype],
    after_dtypes: Sequence[ParamsDtype],
    base: Path | None = None,
) -> DecodingComparison | None:
    """Measure a model before and after it was made smaller. All are in memory at once.

    Args:
        after: the checkpoint of the smaller model.
        world: of this process alone.
        num_rounds: 0 measures nothing.
        before_dtypes, after_dtypes: in which each is measured.
        base: where the base checkpoint of adapters before is.
    Returns:
        None without rounds, and for a model that does not generate text: an encoder, or one without a tokenizer.
    """
    config = before.state.model_config()
    if not num_rounds:
        return None
    if before.tokenizer_path is None or config.attention_mask != "causal" or not config.has_output_layer:
        _LOGGER.info("The model does not generate text, or has no tokenizer: the speed of decoding is not measured.")
        return None
    _LOGGER.info("Measuring the speed of decoding.")
    wanted = {
        **{("before", dtype): (before.checkpoint, base, dtype) for dtype in before_dtypes},
        **{("after", dtype): (open_saved_run(after, verify=False).checkpoint, None, dtype) for dtype in after_dtypes},
    }
    models = {
        name: load_model(
            ModelOptions(path=path, base=place, params_dtype=dtype, max_batch_size=NUM_TEXTS),
            world=world,
            verify=False,
            announces=False,  # the original would appear once for each data type
        )
        for name, (path, place, dtype) in wanted.items()
    }
    speeds = measure_decoding(models, num_rounds=num_rounds)
    return DecodingComparison(
        before={dtype: speeds["before", dtype] for dtype in before_dtypes},
        after={dtype: speeds["after", dtype] for dtype in after_dtypes},
    )


def measure_decoding(
    models: Mapping[Name, LoadedModel],
    *,
    num_rounds: int = NUM_ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, DecodingSpeed]:
    """Measure models in rounds, each of which measures all of them, in an order that reverses.

    Tokens are the most likely ones; texts do not end early.

    Args:
        models: whole ones in this process, with room for `NUM_TEXTS` texts; their caches are overwritten.
        num_rounds: at least 1; fewer are measured where they would begin after half a minute.
        clock: returns seconds.
    """
    found: dict[Name, list[DecodingSpeed]] = {name: [] for name in models}
    for model in models.values():
        _measure_once(model, seed=0, num_new=2, clock=clock)
    start = time.monotonic()
    for number in range(num_rounds):
        if number and time.monotonic() - start > _MAX_SECONDS:
            break
        for name in list(models)[:: 1 if number % 2 == 0 else -1]:
            # Prompts that no cache has from an earlier round.
            found[name].append(_measure_once(models[name], seed=number + 1, num_new=_NEW_TOKENS, clock=clock))
    names = ("one_text", "eight_texts", "prompt")
    return {
        key: DecodingSpeed(
            **{name: round(statistics.median(getattr(one, name) for one in measured), 1) for name in names}
        )
        for key, measured in found.items()
    }


def _measure_once(model: LoadedModel, *, seed: int, num_new: int, clock: Callable[[], float]) -> DecodingSpeed:
    random, generator = np.random.default_rng(seed), model.new_generator()
    length = min(_PROMPT_TOKENS, model.context_length - 1)
    short = min(_SHORT_PROMPT, length)
    num_new = max(1, min(num_new, model.context_length - short - 1))

    def new_requests(count: int, *, num_tokens: int, num_new: int) -> list[GenerationRequest]:
        prompts = random.integers(0, model.vocab_size, (count, num_tokens)).tolist()
        return [
            GenerationRequest(prompt=tuple(prompt), max_new_tokens=num_new, sampling=SamplingConfig(temperature=0.0))
            for prompt in prompts
        ]

    def decode(count: int) -> float:
        for request in new_requests(count, num_tokens=short, num_new=1 + num_new):
            generator.add(request)
        generator.step()  # reads the prompts, and adds the first token of each text
        start = clock()
        num_tokens = _finish(generator)
        return num_tokens / max(clock() - start, 1e-9)

    one, eight = decode(1), decode(NUM_TEXTS)
    (request,) = new_requests(1, num_tokens=length, num_new=1)
    generator.add(request)
    start = clock()
    _finish(generator)
    return DecodingSpeed(one_text=one, eight_texts=eight, prompt=length / max(clock() - start, 1e-9))


def _finish(generator: Generator) -> int:
    """Return the number of new tokens."""
    num_tokens = 0
    while generator.has_work:
        num_tokens += sum(len(piece.tokens) for piece in generator.step())
    return num_tokens
