"""Decoding with a cache gives what the whole forward pass gives."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.checkpoint.fragments import MODEL, PADDED_VOCAB_SIZE, build_chunks, open_world
from trainer.config.model import ModelConfig
from trainer.config.parallel import ParallelConfig
from trainer.model.finite import find_not_finite
from trainer.model.generation import CachedDecoder, SamplingConfig, generate_tokens
from trireme.errors import RunStopped

CPU = torch.device("cpu")
GREEDY = SamplingConfig(temperature=0.0)
GPT2 = replace(
    MODEL,
    position_embedding_type="learned_absolute",
    normalization="LayerNorm",
    activation="gelu",
    add_bias_linear=True,
    attention_dropout=0.5,
)
LLAMA = replace(MODEL, num_query_groups=2, qk_layernorm=True, untie_embeddings_and_output_weights=True)
MIXTURE = replace(LLAMA, num_moe_experts=4, moe_layer_freq=[0, 1], moe_shared_expert_intermediate_size=8)


@pytest.fixture(params=[GPT2, LLAMA, MIXTURE], ids=["gpt2", "llama", "mixture"])
def model(request: pytest.FixtureRequest) -> Iterator[torch.nn.Module]:
    with open_world(ParallelConfig()) as world:
        shape: ModelConfig = replace(request.param, init_method_std=0.3)
        (chunk,) = build_chunks(ParallelConfig(), world, model=shape)
        yield chunk.eval()


def whole_forward(model: torch.nn.Module, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        ids = torch.tensor([tokens])
        return model(ids, torch.arange(len(tokens))[None], None)[0]


def generate(model: torch.nn.Module, prompt: list[int], count: int, **changes: object) -> list[int]:
    arguments: dict[str, object] = {
        "max_new_tokens": count,
        "max_length": MODEL.seq_length,
        "sampling": GREEDY,
        "vocab_size": PADDED_VOCAB_SIZE,
        "eos_id": None,
        "generator": torch.Generator().manual_seed(1),
        "device": CPU,
    }
    return list(generate_tokens(model, prompt, **(arguments | changes)))  # type: ignore[arg-type]


def test_cached_logits_are_those_of_the_whole_forward_pass(model: torch.nn.Module) -> None:
    tokens = torch.randint(
        0, PADDED_VOCAB_SIZE, (MODEL.seq_length,), generator=torch.Generator().manual_seed(3)
    ).tolist()
    expected = whole_forward(model, tokens)
    decoder = CachedDecoder(model, max_length=MODEL.seq_length, device=CPU)  # type: ignore[arg-type]
    for _ in range(2):  # and again after a reset
        decoder.reset()
        logits = [decoder.feed(tokens[:5]), *(decoder.feed([token]) for token in tokens[5:])]
        # Sums over keys in another order: a few fp32 roundings of logits of size 10.
        torch.testing.assert_close(torch.stack(logits), expected[4:], rtol=1e-4, atol=1e-4)


def test_greedy_generation_is_the_argmax_of_the_whole_forward_pass(model: torch.nn.Module) -> None:
    prompt = [1, 2, 3]
    history = list(prompt)
    for _ in range(10):
        history.append(int(whole_forward(model, history)[-1].argmax()))
    assert generate(model, prompt, 10) == history[3:]


def test_it_ends_at_the_end_of_the_document(model: torch.nn.Module) -> None:
    tokens = generate(model, [1], 10)
    end = tokens[4]
    assert generate(model, [1], 10, eos_id=end) == tokens[: tokens.index(end)]


def test_text_may_be_longer_than_the_window(model: torch.nn.Module) -> None:
    length = MODEL.seq_length
    tokens = generate(model, [1], 2 * length)
    assert len(tokens) == 2 * length
    history = [1, *tokens]
    # The first token behind a full window sees its newest half.
    seen = history[length + 1 - length // 2 : length + 1]
    assert tokens[length] == int(whole_forward(model, seen)[-1].argmax())


def test_padding_rows_are_never_drawn(model: torch.nn.Module) -> None:
    hot = SamplingConfig(temperature=50.0)
    # Nearly even odds: five tokens of six are 10 or more.
    assert max(generate(model, [1], 50, sampling=hot)) >= 10
    assert max(generate(model, [1], 50, sampling=hot, vocab_size=10)) < 10


def test_logits_that_are_not_finite_are_said(model: torch.nn.Module) -> None:
    with torch.no_grad():
        list(model.parameters())[-1].fill_(torch.nan)
    with pytest.raises(RunStopped, match="logits contain NaN at token 2"):
        generate(model, [1, 2], 5)
    assert [text.split()[0] for text in find_not_finite([model])] == ["NaN"]  # type: ignore[list-item]
