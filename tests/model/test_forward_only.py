"""Linear layers without gradients are one product: the same numbers as Megatron-Core's, and close to them packed."""

from dataclasses import replace

import pytest

from tests.checkpoint.fragments import MODEL, build_chunks, open_world

import torch  # isort: skip - after the CPU shim

from trainer.config.parallel import ParallelConfig
from trainer.model.forward_only import ColumnLinear, RowLinear, pack_linear_layers
from trainer.model.packed_weights import can_pack, multiply, pack

IDS = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(1))
POSITIONS = torch.arange(12).expand(2, -1)
SHAPES = {
    "llama": replace(MODEL, num_query_groups=2, init_method_std=0.3),
    "gpt2": replace(
        MODEL,
        init_method_std=0.3,
        position_embedding_type="learned_absolute",
        normalization="LayerNorm",
        activation="gelu",
        add_bias_linear=True,
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_equal_bit_for_bit_with_and_without_gradients(name: str) -> None:
    with open_world(ParallelConfig()) as world:
        (chunk,) = build_chunks(ParallelConfig(), world, model=SHAPES[name])
        chunk.eval()
        with torch.no_grad():
            for parameter in chunk.parameters():
                if parameter.dim() == 1:  # biases are drawn as zeros
                    parameter.add_(torch.linspace(-1, 1, parameter.numel()))
            without = chunk(IDS, POSITIONS, None)
        assert torch.equal(chunk(IDS, POSITIONS, None).detach(), without)


@pytest.mark.parametrize("name", SHAPES)
def test_packed_weights_compute_the_same(name: str) -> None:
    with open_world(ParallelConfig()) as world, torch.no_grad():
        (chunk,) = build_chunks(ParallelConfig(), world, model=SHAPES[name])
        chunk.eval()
        expected = chunk(IDS, POSITIONS, None)
        layers = [module for module in chunk.modules() if isinstance(module, ColumnLinear | RowLinear)]
        assert len(layers) == 4 * MODEL.num_layers
        pack_linear_layers(chunk)
        assert all(layer.packed is not None and layer.weight.numel() == 0 for layer in layers)
        # Sums in another order: a few fp32 roundings of logits of size 10.
        torch.testing.assert_close(chunk(IDS, POSITIONS, None), expected, rtol=1e-4, atol=1e-4)


def test_a_packed_product_has_its_bias() -> None:
    weight, bias, rows = torch.randn(5, 7), torch.randn(5), torch.randn(2, 3, 7)
    assert can_pack(weight)
    assert not can_pack(weight.bfloat16())
    expected = rows.double() @ weight.double().T + bias.double()
    for packed in (None, pack(weight)):
        # 7 products of size 1 in fp32.
        torch.testing.assert_close(multiply(rows, weight, bias, packed=packed).double(), expected, rtol=0, atol=1e-5)
