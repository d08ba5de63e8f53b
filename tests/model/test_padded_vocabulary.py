"""A vocabulary that is padded, so that ranks have equal shares of it: what is padding has no probability anywhere."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from tests.checkpoint.fragments import open_world
from tests.distributed.harness import run_distributed
from trainer.build import wire_model
from trainer.config.model import ModelConfig
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig

VOCAB_SIZE, PADDED = 100, 256
MODEL = ModelConfig(
    num_layers=2,
    hidden_size=32,
    ffn_hidden_size=48,
    num_attention_heads=4,
    num_query_groups=2,
    seq_length=16,
    vocab_size=VOCAB_SIZE,
    make_vocab_size_divisible_by=128,
)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one rank's model gave."""

    losses: torch.Tensor
    """[b, s]."""
    logits: torch.Tensor
    """[b, s, v] of this rank."""
    gathered: torch.Tensor
    """[b, s, v] of all ranks."""
    gradient: torch.Tensor
    """[v, h] of the output layer's rows on this rank."""


def run(tp_size: int) -> Seen:
    parallel = ParallelConfig(tensor_model_parallel_size=tp_size)
    with open_world(parallel) as world:
        (model,) = wire_model(
            MODEL, parallel=parallel, precision=PrecisionConfig(), padded_vocab_size=PADDED, world=world, seed=1
        )
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(VOCAB_SIZE, (2, 17), generator=generator)
        positions = torch.arange(16)[None].expand(2, -1)
        model.eval()
        losses = model(tokens[:, :-1], positions, None, labels=tokens[:, 1:])
        losses.mean().backward()
        weight = model.output_layer.weight
        assert isinstance(weight, nn.Parameter) and weight.grad is not None
        with torch.no_grad():
            return Seen(
                losses=losses.detach(),
                logits=model(tokens[:, :-1], positions, None),
                gathered=model(tokens[:, :-1], positions, None, runtime_gather_output=True),
                gradient=weight.grad,
            )


@pytest.mark.parametrize("tp_size", [1, 2])
def test_padding_has_no_probability_no_gradient_and_no_logit(tp_size: int) -> None:
    ranks = run_distributed(run, tp_size, tp_size)
    for rank, seen in enumerate(ranks):
        width = PADDED // tp_size
        real = min(max(VOCAB_SIZE - rank * width, 0), width)
        assert seen.logits.shape[-1] == width and seen.gathered.shape[-1] == PADDED
        assert torch.isfinite(seen.logits[..., :real]).all() and (seen.logits[..., real:] == -math.inf).all()
        assert torch.isfinite(seen.gathered[..., :VOCAB_SIZE]).all()
        assert (seen.gathered[..., VOCAB_SIZE:] == -math.inf).all()
        assert (seen.gradient[real:] == 0).all()
        generator = torch.Generator().manual_seed(1)
        labels = torch.randint(VOCAB_SIZE, (2, 17), generator=generator)[:, 1:]
        expected = -seen.gathered[..., :VOCAB_SIZE].double().log_softmax(-1).gather(-1, labels[..., None])[..., 0]
        torch.testing.assert_close(seen.losses.double(), expected, rtol=1e-6, atol=1e-6)
        # Weights of standard deviation 0.02 make all tokens about equally likely.
        assert seen.losses.mean().exp().item() == pytest.approx(VOCAB_SIZE, rel=0.05), "and not 256"
