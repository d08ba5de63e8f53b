"""Calibration reaches each linear layer once, in order, with the inputs of the quantized and of the full model."""

import pytest
import torch

from tests.checkpoint.fragments import PADDED_VOCAB_SIZE, open_world
from tests.inference.models import CAPPED, EXPERTS, GPT2, LLAMA, build
from trainer.compression.calibration import calibrate, linear_layers
from trainer.compression.gptq import Hessian
from trainer.config.model import ModelConfig
from trainer.config.parallel import ParallelConfig
from trainer.model.gpt import GPT

ROWS = torch.randint(0, PADDED_VOCAB_SIZE, (4, 13), generator=torch.Generator().manual_seed(0))


def inputs_of(model: GPT) -> dict[str, torch.Tensor]:
    """The inputs of all linear layers, [t, k], by name."""
    found, names = {}, {module: name for name, module in model.named_modules()}
    handles = [
        linear.register_forward_pre_hook(
            lambda module, inputs: found.update({names[module]: inputs[0].reshape(-1, inputs[0].shape[-1])})
        )
        for layer in model.decoder.layers
        for linear in linear_layers(layer).values()
    ]
    with torch.no_grad():
        model(ROWS, torch.arange(ROWS.shape[1]).expand_as(ROWS), None)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("config", [GPT2, LLAMA, CAPPED, EXPERTS], ids=["gpt2", "llama", "capped", "experts"])
def test_each_linear_layer_sees_both_models(config: ModelConfig) -> None:
    with open_world(ParallelConfig()) as world:
        model = build(config, world)
        full = inputs_of(model)
        names = {
            linear.weight: f"decoder.layers.{number}.{name}"
            for number, layer in enumerate(model.decoder.layers)
            for name, linear in linear_layers(layer).items()
        }
        seen: dict[str, tuple[torch.Tensor | None, torch.Tensor]] = {}

        def halve(weight: torch.Tensor, hessian: Hessian | None) -> None:
            name = names[weight]
            assert name not in seen
            moved = torch.zeros(0) if hessian is None else hessian.move(torch.eye(weight.shape[1]))
            seen[name] = None if hessian is None else hessian.matrix, moved
            weight.data.mul_(0.5)

        calibrate(model, ROWS, halve)
        assert seen.keys() == set(names.values())
        quantized = inputs_of(model)
        for name, (matrix, moved) in seen.items():
            if name not in quantized or not len(quantized[name]):
                assert matrix is None, "no token reached this expert"
                continue
            inputs = quantized[name]
            expected = Hessian(inputs.shape[1])
            # An expert's tokens differ between the two models.
            expected.add(inputs, None if ".experts." in name else full[name])
            assert matrix is not None
            torch.testing.assert_close(matrix, expected.matrix, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(moved, expected.move(torch.eye(inputs.shape[1])), rtol=1e-3, atol=1e-3)
        first = "decoder.layers.0.self_attention.linear_qkv"
        assert torch.equal(seen[first][1], torch.eye(config.hidden_size)), "nothing is quantized before it"
        assert not torch.equal(seen[first.replace("0", "1")][1], torch.eye(config.hidden_size))
