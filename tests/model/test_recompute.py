"""Activations that are computed again: the same bits, dropout included, from less memory."""

import dataclasses
from dataclasses import dataclass

import pytest

from tests.checkpoint.fragments import MODEL, PADDED_VOCAB_SIZE, build_chunks, open_world
from trainer.config.model import ModelConfig
from trainer.config.parallel import ParallelConfig

import torch  # isort: skip - behind the shim

LLAMA = dataclasses.replace(
    MODEL, num_query_groups=2, qk_layernorm=True, hidden_dropout=0.2, attention_dropout=0.3, seq_length=64
)
GPT2 = dataclasses.replace(
    MODEL,
    position_embedding_type="learned_absolute",
    normalization="LayerNorm",
    activation="gelu",
    add_bias_linear=True,
    hidden_dropout=0.2,
    seq_length=64,
)
LEVERS = {
    "uniform 1": ParallelConfig(recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1),
    "uniform 2": ParallelConfig(recompute_granularity="full", recompute_method="uniform", recompute_num_layers=2),
    "block 3": ParallelConfig(recompute_granularity="full", recompute_method="block", recompute_num_layers=3),
    "core_attn": ParallelConfig(recompute_granularity="selective", recompute_modules=["core_attn"]),
    "layernorm": ParallelConfig(recompute_granularity="selective", recompute_modules=["layernorm"]),
    "mlp": ParallelConfig(recompute_granularity="selective", recompute_modules=["mlp"]),
    "selective": ParallelConfig(recompute_granularity="selective", recompute_modules=["core_attn", "layernorm", "mlp"]),
}


@dataclass(frozen=True)
class Step:
    """What a forward and a backward pass left behind."""

    losses: torch.Tensor
    gradients: dict[str, torch.Tensor]
    kept_bytes: int
    """Of activations, when the forward pass was done."""
    next_random_numbers: torch.Tensor


def take_step(model: ModelConfig, parallel: ParallelConfig, *, starts: torch.Tensor | None = None) -> Step:
    with open_world(ParallelConfig(), seed=7) as world:
        (chunk,) = build_chunks(parallel, world, model=model)
        chunk.train()
        generator = torch.Generator().manual_seed(3)
        tokens = torch.randint(0, PADDED_VOCAB_SIZE, (2, model.seq_length + 1), generator=generator)
        positions = torch.arange(model.seq_length).expand(2, -1)
        kept: list[torch.Tensor] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            losses = chunk(tokens[:, :-1], positions, starts, labels=tokens[:, 1:])
        # Storages, and not tensors: two operations often keep the same one, and a discarded output keeps none.
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
        for parameter in chunk.parameters():
            storages.pop(parameter.untyped_storage().data_ptr(), None)
        kept.clear()
        losses.mean().backward()
        gradients = {name: parameter.grad for name, parameter in chunk.named_parameters()}
        return Step(losses.detach(), gradients, sum(storages.values()), torch.rand(4))


@pytest.fixture(scope="module", params=[LLAMA, GPT2], ids=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> ModelConfig:
    return request.param


@pytest.fixture(scope="module")
def plain(model: ModelConfig) -> Step:
    """Everything kept."""
    return take_step(model, ParallelConfig())


def assert_equal_bits(ours: Step, expected: Step) -> None:
    assert torch.equal(ours.losses, expected.losses)
    assert ours.gradients.keys() == expected.gradients.keys()
    assert [
        name for name, gradient in ours.gradients.items() if not torch.equal(gradient, expected.gradients[name])
    ] == []
    assert torch.equal(ours.next_random_numbers, expected.next_random_numbers), "the streams of dropout go on alike"


@pytest.mark.parametrize("lever", LEVERS)
def test_results_are_equal_bit_for_bit_from_less_memory(lever: str, model: ModelConfig, plain: Step) -> None:
    step = take_step(model, LEVERS[lever])
    assert_equal_bits(step, plain)
    print(f"{lever}: {step.kept_bytes / plain.kept_bytes:.2f} of {plain.kept_bytes} bytes")
    assert step.kept_bytes < plain.kept_bytes


def test_dropout_is_at_work(model: ModelConfig, plain: Step) -> None:
    without = take_step(dataclasses.replace(model, hidden_dropout=0.0, attention_dropout=0.0), ParallelConfig())
    assert not torch.equal(without.losses, plain.losses)


def test_levers_save_in_the_order_that_one_expects(model: ModelConfig, plain: Step) -> None:
    kept = {lever: take_step(model, parallel).kept_bytes for lever, parallel in LEVERS.items()}
    assert kept["uniform 2"] < kept["uniform 1"] < kept["block 3"] < plain.kept_bytes
    assert kept["uniform 1"] < kept["selective"] < min(kept["core_attn"], kept["layernorm"], kept["mlp"])
    assert kept["uniform 2"] < plain.kept_bytes / 3


def test_documents_are_recomputed_too() -> None:
    starts = torch.zeros(2, LLAMA.seq_length, dtype=torch.int32)
    starts[0, 20:], starts[1, 7:] = 20, 7
    expected = take_step(LLAMA, ParallelConfig(), starts=starts)
    for lever in ("uniform 2", "selective"):
        assert_equal_bits(take_step(LLAMA, LEVERS[lever], starts=starts), expected)
    assert not torch.equal(expected.losses, take_step(LLAMA, ParallelConfig()).losses)
