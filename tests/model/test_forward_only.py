"""Linear layers without gradients are one product: the same numbers as Megatron-Core's, and close to them packed."""

from dataclasses import replace

import pytest

from tests.checkpoint.fragments import MODEL, build_chunks, open_world

import torch  # isort: skip - after the CPU shim

from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear

from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.model.forward_only import ColumnLinear, RowLinear, pack_linear_layers
from trainer.model.gpt import build_transformer_config
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


@pytest.mark.parametrize(("is_column", "skip_bias_add"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_layer_of_one_rank_has_the_output_and_gradients_of_megatron_core(
    is_column: bool, skip_bias_add: bool
) -> None:
    further = {"gather_output": False} if is_column else {"input_is_parallel": True}
    parent, kind = (ColumnParallelLinear, ColumnLinear) if is_column else (RowParallelLinear, RowLinear)
    with open_world(ParallelConfig()) as world:
        config = build_transformer_config(MODEL, parallel=ParallelConfig(), precision=PrecisionConfig())
        results = []
        for layer_kind in (parent, kind):
            layer = layer_kind(
                *(16, 24), config=config, init_method=torch.nn.init.zeros_, bias=True, skip_bias_add=skip_bias_add,
                tp_group=world.groups.tp, **further,
            )  # fmt: skip
            generator = torch.Generator().manual_seed(1)
            for weights in (layer.weight, layer.bias):
                weights.data = torch.randn(weights.shape, generator=generator)
            input_ = torch.randn(5, 2, 16, generator=generator).requires_grad_()
            output, bias = layer(input_)
            total = output if bias is None else output + bias
            total.square().sum().backward()
            results.append((total.detach(), input_.grad, layer.weight.grad, layer.bias.grad))
    for mine, expected in zip(*results[::-1], strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-4)  # roundings of sums of 24 squares


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
