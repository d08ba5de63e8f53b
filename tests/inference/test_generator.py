"""Generated texts are those of the whole forward pass, whatever else is generated at the same time."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.inference.models import (
    CONTEXT,
    GPT2,
    LLAMA,
    MODELS,
    PROMPTS,
    build,
    expected_tokens,
    generator_of,
    open_generator,
    request,
    tokens_of,
    uncached,
    whole_forward,
)

import torch  # isort: skip - after the CPU shim

from tests.checkpoint.fragments import PADDED_VOCAB_SIZE, open_world
from trainer.config.parallel import ParallelConfig
from trainer.inference.generator import Generator
from trainer.inference.request import FinishReason
from trainer.inference.sampling import SamplingConfig
from trainer.model.cache import CachedStep, KeyValueCache
from trainer.model.finite import find_not_finite
from trainer.model.gpt import GPT

COUNT = 12
"""New tokens: more than the window of the models that have one."""


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    return expected_tokens(LLAMA, COUNT)


@pytest.fixture
def both() -> Iterator[tuple[Generator, GPT]]:
    """A generator, and the same model without a cache."""
    with open_world(ParallelConfig()) as world:
        yield generator_of(build(LLAMA, world), world), build(LLAMA, world)


@pytest.fixture
def generator(both: tuple[Generator, GPT]) -> Generator:
    return both[0]


def test_the_output_layer_has_its_bias_and_the_head_before_it() -> None:
    """As a run with model.vocab_bias and model.head=mlm has trained them, also causally."""
    model = replace(GPT2, vocab_bias=True, head="mlm")
    with open_world(ParallelConfig()) as world:
        chunk, whole = build(model, world), build(model, world)
        for one in (chunk, whole):
            torch.nn.init.normal_(one.output_layer.bias, std=5, generator=torch.Generator().manual_seed(2))
        texts = tokens_of(generator_of(chunk, world).run([request(prompt, COUNT) for prompt in PROMPTS]))
        assert texts == [uncached(whole, prompt, COUNT) for prompt in PROMPTS]
        with torch.no_grad():
            whole.output_layer.bias.zero_()
        assert texts != [uncached(whole, prompt, COUNT) for prompt in PROMPTS]


@pytest.mark.parametrize("name", MODELS)
def test_prompts_of_unequal_length_continue_as_without_a_cache(name: str) -> None:
    with open_generator(MODELS[name]) as generator:
        texts = tokens_of(generator.run([request(prompt, COUNT) for prompt in PROMPTS]))
    assert texts == expected_tokens(MODELS[name], COUNT)
    assert len({tuple(text) for text in texts}) == len(texts)  # a model that always writes the same proves little


@pytest.mark.parametrize("name", MODELS)
def test_cached_logits_are_those_of_the_whole_forward_pass(name: str) -> None:
    tokens = torch.randint(0, PADDED_VOCAB_SIZE, (CONTEXT,), generator=torch.Generator().manual_seed(3)).tolist()
    with open_world(ParallelConfig()) as world, torch.inference_mode():
        chunk = build(MODELS[name], world)
        expected = whole_forward(chunk, tokens)
        cache = KeyValueCache(num_rows=3)
        logits, start = [], 0
        # A prompt, a part of several tokens behind it, then single ones; in the middle row.
        for count in (5, 4, *[1] * (CONTEXT - 9)):
            step = CachedStep(
                cache, rows=[1], starts=[start], counts=[count], max_length=CONTEXT, device=torch.device("cpu")
            )
            start += count
            logits.append(chunk(torch.tensor([tokens[start - count : start]]), step.position_ids, step)[0, -1])
    # Sums over keys in another order: a few fp32 roundings of logits of size 10.
    torch.testing.assert_close(torch.stack(logits), expected[[4, *range(8, CONTEXT)]], rtol=1e-4, atol=1e-4)


def test_texts_wait_for_room_and_come_out_the_same(expected: list[list[int]]) -> None:
    with open_generator(LLAMA, num_rows=2) as generator:
        requests = [request(prompt, COUNT) for prompt in PROMPTS]
        assert tokens_of(generator.run(requests)) == expected
        assert not generator.has_work


def test_a_prompt_in_parts_is_the_prompt(expected: list[list[int]]) -> None:
    with open_generator(LLAMA, prefill_tokens=2) as generator:
        assert tokens_of(generator.run([request(prompt, COUNT) for prompt in PROMPTS])) == expected


def test_texts_begin_and_end_while_others_go_on(generator: Generator, expected: list[list[int]]) -> None:
    lengths = [COUNT, 3, 9, 5]
    found: dict[int, list[int]] = {}
    begun = 0
    while begun < len(PROMPTS) or generator.has_work:
        if begun < len(PROMPTS):
            generator.add(request(PROMPTS[begun], lengths[begun]))
            begun += 1
        for piece in generator.step():
            found.setdefault(piece.request_id, []).extend(piece.tokens)
    assert [found[number] for number in range(4)] == [
        text[:length] for text, length in zip(expected, lengths, strict=True)
    ]


def test_a_prompt_that_continues_a_finished_text_starts_from_its_cache(both: tuple[Generator, GPT]) -> None:
    generator, plain = both
    prompt = [*range(1, 21)]
    (first,) = tokens_of(generator.run([request(prompt, 4)]))
    longer = [*prompt, *first, 7, 8]
    fed: list[int] = []
    run = generator._runner.run

    def count_fed(steps: list) -> list:  # type: ignore[type-arg]
        fed.extend(len(row.tokens) for step in steps for row in step.rows)
        return run(steps)

    generator._runner.run = count_fed  # type: ignore[assignment,method-assign]
    # Beside it a text with the same beginning, whose row is copied, and one with another.
    requests = [request(longer, 4), request([*prompt, 30], 4), request([40, 41, 42], 4)]
    texts = tokens_of(generator.run(requests))
    assert texts == [uncached(plain, one.prompt, 4) for one in requests]
    # The last token of the first text was never read: of 26 tokens 23 are known, of 21 the 20 of the prompt.
    assert sorted(fed[:3]) == [1, 3, 3]


def test_a_text_ends_at_an_end_token(generator: Generator, expected: list[list[int]]) -> None:
    end = expected[0][4]
    *_, last = pieces = list(generator.run([request(PROMPTS[0], COUNT, stop_ids=frozenset({end}))]))
    assert tokens_of(iter(pieces)) == [expected[0][: expected[0].index(end)]]
    assert last.finish_reason is FinishReason.STOP


def test_a_text_ends_before_a_stop_string(generator: Generator, expected: list[list[int]]) -> None:
    numbers = [str(token) for token in expected[0]]
    stop = f"{numbers[3]} {numbers[4]}"
    pieces = list(generator.run([request(PROMPTS[0], COUNT, stop=(stop,))]))
    whole = "".join(f"{number} " for number in numbers)
    assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish_reason is FinishReason.STOP


def test_a_text_ends_with_the_context_unless_it_may_go_on(both: tuple[Generator, GPT]) -> None:
    generator, plain = both
    *_, last = pieces = list(generator.run([request([1], 10 * CONTEXT)]))
    assert last.finish_reason is FinishReason.LENGTH
    # The last token of a full context is generated, and read by no one.
    assert len(tokens_of(iter(pieces))[0]) == CONTEXT
    (tokens,) = tokens_of(generator.run([request([1], 2 * CONTEXT, continues_past_context=True)]))
    assert len(tokens) == 2 * CONTEXT
    history = [1, *tokens]
    # The first token after a full context sees its latest half.
    seen = history[CONTEXT + 1 - CONTEXT // 2 : CONTEXT + 1]
    assert tokens[CONTEXT] == uncached(plain, seen, 1)[0]


def test_a_cancelled_text_frees_its_row(generator: Generator, expected: list[list[int]]) -> None:
    numbers = [generator.add(request(prompt, COUNT)) for prompt in PROMPTS]
    generator.step()
    generator.step()
    generator.cancel(numbers[0])
    generator.cancel(numbers[2])
    pieces = generator.step()
    assert {piece.request_id for piece in pieces} == {numbers[1], numbers[3]}
    assert generator.num_active == 2
    later = generator.add(request(PROMPTS[2], COUNT))
    found: dict[int, list[int]] = {}
    while generator.has_work:
        for piece in generator.step():
            found.setdefault(piece.request_id, []).extend(piece.tokens)
    assert found[later] == expected[2]
    assert found[numbers[1]] == expected[1][3:]


def test_padding_of_the_vocabulary_is_never_sampled() -> None:
    hot = SamplingConfig(temperature=50.0)
    with open_world(ParallelConfig()) as world:
        generator = generator_of(build(LLAMA, world), world)
        # Nearly even odds: five tokens of six are 10 or more.
        assert max(tokens_of(generator.run([request([1], 30, sampling=hot)]))[0]) >= 10
        generator._vocab_size = 10
        assert max(tokens_of(generator.run([request([1], 30, sampling=hot)]))[0]) < 10


def test_log_probabilities_are_those_of_the_model(both: tuple[Generator, GPT]) -> None:
    generator, plain = both
    pieces = list(generator.run([request(PROMPTS[2], 5, num_logprobs=3)]))
    history = list(PROMPTS[2])
    for piece in pieces:
        (entry,) = piece.logprobs
        wanted = whole_forward(plain, history)[-1].log_softmax(0)
        # Rounding of logits of size 10.
        assert entry.logprob == pytest.approx(float(wanted[entry.token]), abs=1e-4)
        assert [token for token, _ in entry.top] == wanted.topk(3).indices.tolist()
        assert [value for _, value in entry.top] == pytest.approx(wanted.topk(3).values.tolist(), abs=1e-4)
        history.append(entry.token)


def test_equal_seeds_give_equal_texts_alone_and_in_a_batch(generator: Generator) -> None:
    warm = SamplingConfig(temperature=1.0, top_p=0.9)
    one = request(PROMPTS[0], COUNT, sampling=warm, seed=7)
    (alone,) = tokens_of(generator.run([one]))
    together = tokens_of(generator.run([request(PROMPTS[1], COUNT), one, request(PROMPTS[3], COUNT)]))
    assert together[1] == alone
    (other,) = tokens_of(generator.run([request(PROMPTS[0], COUNT, sampling=warm, seed=8)]))
    assert other != alone


def test_logits_that_are_not_finite_end_a_text_with_an_error() -> None:
    with open_world(ParallelConfig()) as world:
        chunk = build(LLAMA, world)
        with torch.no_grad():
            dict(chunk.named_parameters())["decoder.final_layernorm.weight"].fill_(torch.nan)
        assert [text.split()[0] for text in find_not_finite([chunk])] == ["NaN"]
        (piece,) = generator_of(chunk, world).run([request([1, 2], 5)])
    assert piece.error is not None
    assert "not finite at token 2" in piece.error
