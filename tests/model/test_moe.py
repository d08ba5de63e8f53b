"""A mixture-of-experts layer, its losses and what it tells of them, against the same written out.

t: tokens, e: experts, k: experts of a token, h: hidden size.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.checkpoint.fragments import PADDED_VOCAB_SIZE, build_chunks, open_world
from trainer.config.model import ModelConfig
from trainer.config.parallel import ParallelConfig
from trainer.model import moe

SOFTMAX = ModelConfig(
    num_layers=2,
    hidden_size=16,
    ffn_hidden_size=40,
    num_attention_heads=2,
    num_query_groups=2,
    seq_length=24,
    vocab_size=PADDED_VOCAB_SIZE,
    init_method_std=0.3,
    num_moe_experts=5,
    moe_layer_freq=[0, 1],
    moe_ffn_hidden_size=12,
    moe_shared_expert_intermediate_size=8,
    moe_aux_loss_coeff=0.3,
    moe_z_loss_coeff=0.2,
)
PRE_SOFTMAX = dataclasses.replace(
    SOFTMAX, moe_router_pre_softmax=True, moe_router_topk=3, moe_router_load_balancing_type="seq_aux_loss"
)
SIGMOID = dataclasses.replace(
    SOFTMAX,
    moe_router_score_function="sigmoid",
    moe_router_topk_scaling_factor=2.5,
    moe_shared_expert_intermediate_size=None,
    moe_z_loss_coeff=None,
    moe_router_load_balancing_type="none",
)


@contextmanager
def open_layer(model: ModelConfig, parallel: ParallelConfig | None = None) -> Iterator[Any]:
    """The experts' layer of a new model, whose losses have gradients of scale 1."""
    parallel = parallel or ParallelConfig()
    with open_world(parallel) as world:
        (chunk,) = build_chunks(parallel, world, model=model)
        moe.MoEAuxLossAutoScaler.set_loss_scale(torch.ones(1))
        assert not chunk.decoder.layers[0].is_moe_layer
        yield chunk.decoder.layers[1].mlp


def run_mlp(mlp: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    gate, up = functional.linear(x, mlp.linear_fc1.weight).chunk(2, dim=-1)
    return functional.linear(functional.silu(gate) * up, mlp.linear_fc2.weight)


def weigh(logits: torch.Tensor, model: ModelConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and indices [t, k] of the chosen experts, from logits [t, e]."""
    if model.moe_router_score_function == "sigmoid":
        scores, indices = logits.sigmoid().topk(model.moe_router_topk)
        return scores / scores.sum(dim=-1, keepdim=True) * (model.moe_router_topk_scaling_factor or 1), indices
    if model.moe_router_pre_softmax:
        scores, indices = logits.softmax(dim=-1).topk(model.moe_router_topk)
        return scores, indices
    scores, indices = logits.topk(model.moe_router_topk)
    return scores.softmax(dim=-1), indices


def balance(logits: torch.Tensor, model: ModelConfig) -> torch.Tensor:
    """e * sum over experts of (share of choices) * (mean probability), of tokens [t, e]."""
    chosen = torch.zeros_like(logits).scatter(1, logits.topk(model.moe_router_topk).indices, 1)
    shares = chosen.mean(dim=0) / model.moe_router_topk
    return logits.shape[1] * (shares * logits.softmax(dim=-1).mean(dim=0)).sum()


@pytest.mark.parametrize("model", [SOFTMAX, PRE_SOFTMAX, SIGMOID], ids=["softmax", "pre-softmax", "sigmoid"])
def test_layer_is_its_experts_weighted(model: ModelConfig) -> None:
    assert model.num_moe_experts is not None
    with open_layer(model) as layer:
        x = torch.randn(model.seq_length, 3, model.hidden_size, generator=torch.Generator().manual_seed(3))
        output, bias = layer.train()(x)
        assert bias is None
        goal = torch.randn(output.shape, generator=torch.Generator().manual_seed(4))
        (output * goal).sum().backward()
        account = layer.router.take_account()
        names = [name for name, _ in layer.named_parameters()]
        gradients = [parameter.grad.clone() for parameter in layer.parameters()]
        layer.zero_grad()

        logits = functional.linear(x, layer.router.weight)
        flat = logits.flatten(0, 1)
        weights, indices = weigh(flat, model)
        everything = torch.stack([run_mlp(expert, x.flatten(0, 1)) for expert in layer.experts.local_experts])
        expected = sum(
            weights[:, [rank]] * everything[indices[:, rank], torch.arange(len(flat))]
            for rank in range(model.moe_router_topk)
        ).view_as(x)
        if layer.shared_experts is not None:
            expected = expected + run_mlp(layer.shared_experts, x)
        z_loss = flat.logsumexp(dim=-1).square().mean()
        if model.moe_router_load_balancing_type == "seq_aux_loss":
            balance_loss = torch.stack([balance(logits[:, sequence], model) for sequence in range(3)]).mean()
        else:
            balance_loss = balance(flat, model)
        is_balanced = model.moe_router_load_balancing_type != "none"
        losses = is_balanced * model.moe_aux_loss_coeff * balance_loss + (model.moe_z_loss_coeff or 0) * z_loss
        ((expected * goal).sum() + losses).backward()

        torch.testing.assert_close(output, expected)
        for name, gradient, parameter in zip(names, gradients, layer.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5, msg=name)
        assert account is not None
        assert float(account[0]) == pytest.approx(float(balance_loss) if is_balanced else 0, rel=1e-5)
        assert float(account[1]) == pytest.approx(float(z_loss) if model.moe_z_loss_coeff else 0, rel=1e-5)
        assert account[2:].tolist() == indices.flatten().bincount(minlength=model.num_moe_experts).tolist()


def test_only_passes_that_train_are_counted_and_each_once() -> None:
    with open_layer(SOFTMAX) as layer:
        x = torch.randn(SOFTMAX.seq_length, 2, SOFTMAX.hidden_size)
        layer.eval()(x)
        with torch.no_grad():
            layer.train()(x)
        assert layer.router.take_account() is None
        layer(x)
        layer(x)
        account = layer.router.take_account()
        assert account is not None
        assert account[2:].sum() == 2 * 2 * SOFTMAX.seq_length * SOFTMAX.moe_router_topk
        assert layer.router.take_account() is None


def test_an_expert_without_tokens_has_a_gradient_of_zero() -> None:
    with open_layer(SOFTMAX) as layer:
        with torch.no_grad():
            layer.router.weight[0] = 0
            layer.router.weight[1:] = torch.eye(SOFTMAX.hidden_size)[:4] * 50
        x = torch.rand(SOFTMAX.seq_length, 1, SOFTMAX.hidden_size) + 0.1
        layer.train()(x)[0].sum().backward()
        assert layer.router.take_account()[2] == 0
        idle, busy = layer.experts.local_experts[0], layer.experts.local_experts[1:]
        assert all(parameter.grad is not None and not parameter.grad.any() for parameter in idle.parameters())
        assert any(parameter.grad.any() for expert in busy for parameter in expert.parameters())


def test_recomputed_layer_is_counted_once_and_has_the_same_gradients() -> None:
    parallel = ParallelConfig(recompute_granularity="selective", recompute_modules=["moe"])
    gradients, accounts = [], []
    x = torch.randn(SOFTMAX.seq_length, 2, SOFTMAX.hidden_size, generator=torch.Generator().manual_seed(5))
    for layout in (ParallelConfig(), parallel):
        with open_layer(SOFTMAX, layout) as layer:
            assert layer.moe_layer_recompute == (layout is parallel)
            leaf = x.clone().requires_grad_()
            layer.train()(leaf)[0].square().sum().backward()
            gradients.append([leaf.grad, *(parameter.grad for parameter in layer.parameters())])
            accounts.append(layer.router.take_account())
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True)), "bit for bit"
    assert torch.equal(*accounts)
