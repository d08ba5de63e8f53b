"""Our forms of SwiGLU, rotary embedding and splitting against the plain ones, and compiled ones against them."""

import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest

from trainer.parallel import cpu_shim

cpu_shim.install()

import torch  # noqa: E402
import torch._inductor.config  # noqa: E402
from megatron.core.models.common.embeddings import rope_utils  # noqa: E402
from torch.nn import functional  # noqa: E402

from tests.checkpoint.fragments import MODEL, build_chunks, open_world  # noqa: E402
from trainer.config.parallel import ParallelConfig  # noqa: E402
from trainer.model import kernels, megatron_patches  # noqa: E402
from trainer.model.activation import swiglu  # noqa: E402
from trainer.model.kernels import EAGER, Kernels, choose_kernels, compile_kernels  # noqa: E402
from trainer.model.megatron_patches import install_megatron_patches, split_along_dim  # noqa: E402
from trainer.model.rotary import apply_rotary  # noqa: E402

# fp32: the order of two roundings may differ. bf16: half a unit in the last place of values below 8, times two.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-2}


def plain_swiglu(values: torch.Tensor) -> torch.Tensor:
    gate, up = values.chunk(2, dim=-1)
    return functional.silu(gate) * up


def check(
    ours: Callable[[torch.Tensor], torch.Tensor],
    plain: Callable[[torch.Tensor], torch.Tensor],
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(shape, generator=generator).to(dtype)
    results = []
    for function in (ours, plain):
        leaf = values.clone().requires_grad_()
        output = function(leaf)
        output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(dtype))
        assert leaf.grad is not None
        results.append((output.detach().float(), leaf.grad.float()))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swiglu(dtype: torch.dtype) -> None:
    check(swiglu, plain_swiglu, (5, 3, 48), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_is_megatron_cores(dtype: torch.dtype) -> None:
    angles = torch.arange(7.0)[:, None] / 10_000 ** (torch.arange(0, 16, 2) / 16)
    frequencies = torch.cat([angles, angles], dim=-1)[:, None, None, :]
    check(
        lambda heads: apply_rotary(heads, frequencies),
        lambda heads: rope_utils._apply_rotary_pos_emb_bshd(heads, frequencies),
        (7, 2, 3, 16),
        dtype,
    )


def test_rotary_keeps_lengths_and_depends_on_distance_only() -> None:
    angles = torch.arange(9.0)[:, None] / 10_000 ** (torch.arange(0, 8, 2) / 8)
    frequencies = torch.cat([angles, angles], dim=-1)[:, None, None, :]
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(3))
    queries, keys = (apply_rotary(x.expand(9, 1, 1, 8), frequencies)[:, 0, 0] for x in (query, key))
    torch.testing.assert_close(queries.norm(dim=-1), query.norm().expand(9))
    scores = queries @ keys.T
    torch.testing.assert_close(scores[3, 1], scores[8, 6])
    assert abs(scores[3, 1] - scores[3, 2]) > 1e-3


def test_rotary_slot_is_the_librarys_where_its_layers_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformer Engine may be installed without being used: its kernel refuses positions that differ by sequence."""
    install_megatron_patches(prefers_library_rotary=True)
    assert rope_utils.fused_apply_rotary_pos_emb is apply_rotary
    monkeypatch.setattr(megatron_patches, "_LIBRARY_ROTARY", torch.add)
    install_megatron_patches(prefers_library_rotary=True)
    assert rope_utils.fused_apply_rotary_pos_emb is torch.add
    install_megatron_patches()
    assert rope_utils.fused_apply_rotary_pos_emb is apply_rotary


def test_split() -> None:
    def joined(split: Callable[..., tuple[torch.Tensor, ...]]) -> Callable[[torch.Tensor], torch.Tensor]:
        def call(values: torch.Tensor) -> torch.Tensor:
            first, second, third = split(values, [8, 4, 4])
            return first[..., :4] * second + third.square()

        return call

    check(
        joined(lambda values, sizes: split_along_dim(values, 3, sizes)),
        joined(lambda values, sizes: torch.split(values, sizes, dim=3)),
        (5, 2, 3, 16),
        torch.float32,
    )


needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "clang++")),
    reason="inductor's kernels for a CPU need a C++ compiler",
)


@pytest.fixture(
    scope="module", params=["aot_eager", pytest.param("inductor", marks=[pytest.mark.long, needs_compiler])]
)
def compiled(request: pytest.FixtureRequest) -> Kernels:
    """aot_eager traces forward and backward pass and runs them with torch; inductor writes a kernel of each."""
    return compile_kernels(request.param)


@needs_compiler
def test_one_kernel_that_inductor_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is not long: 5 s of processor time, not 10, without vectors and headers compiled for the next."""
    monkeypatch.setattr("torch._inductor.cpu_vec_isa.valid_vec_isa_list", list)
    plainest = {"compile_threads": 1, "cpp.simdlen": 1, "cpp_cache_precompile_headers": False}
    with torch._inductor.config.patch(plainest):
        check(compile_kernels("inductor").swiglu, EAGER.swiglu, (6, 2, 32), torch.float32)
    torch._dynamo.reset()  # the long tests compile it as users do


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_forms_are_the_eager_ones(compiled: Kernels, dtype: torch.dtype) -> None:
    frequencies = torch.rand(6, 1, 1, 16, generator=torch.Generator().manual_seed(4))
    frequencies = torch.cat([frequencies, frequencies], dim=-1)
    weight, bias = torch.rand(2, 32, generator=torch.Generator().manual_seed(5)).to(dtype)
    check(compiled.swiglu, EAGER.swiglu, (6, 2, 32), dtype)
    check(lambda x: compiled.rotary(x, frequencies), lambda x: EAGER.rotary(x, frequencies), (6, 2, 3, 32), dtype)
    check(lambda x: compiled.rms_norm(x, weight, 1e-5), lambda x: EAGER.rms_norm(x, weight, 1e-5), (6, 2, 32), dtype)
    check(
        lambda x: compiled.layer_norm(x, weight, bias, 1e-5),
        lambda x: EAGER.layer_norm(x, weight, bias, 1e-5),
        (6, 2, 32),
        dtype,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_columns", [40, 33])
def test_compiled_cross_entropy_is_the_chunked_one(compiled: Kernels, dtype: torch.dtype, num_columns: int) -> None:
    ours, chunked = compiled.cross_entropy, EAGER.cross_entropy
    generator = torch.Generator().manual_seed(6)
    rows = (5 * torch.randn(9, 40, generator=generator)).to(dtype)
    for mine, other in zip(ours.summarize(rows), chunked.summarize(rows), strict=True):
        assert mine.dtype is torch.float32
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=0)
    maximum, total = chunked.summarize(rows)
    arguments = {
        "maximum": maximum,
        "softmax_scale": 0.5 / total,
        "columns": torch.randint(0, num_columns, (9,), generator=generator),
        "target_gradient": torch.tensor([-0.5, 0.0, -0.5] * 3),
        "num_columns": num_columns,
    }
    mine, other = ours.differentiate(rows, **arguments), chunked.differentiate(rows, **arguments)
    assert mine.dtype is dtype
    assert (mine[:, num_columns:] == 0).all() and (mine[:, :num_columns] != 0).all()
    tolerance = 1e-6 if dtype is torch.float32 else 2**-8  # one rounding
    torch.testing.assert_close(mine, other, rtol=tolerance, atol=1e-7)


def test_kernels_follow_the_device_unless_told_otherwise() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_kernels("auto", device=cpu) is EAGER
    assert choose_kernels("never", device=cuda) is EAGER
    assert choose_kernels("auto", device=cuda) is choose_kernels("always", device=cpu) is compile_kernels("inductor")


def test_a_model_is_made_of_the_kernels_that_it_asks_for(compiled: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses of a whole model, whose layers have every kind of kernel."""
    monkeypatch.setattr(kernels, "compile_kernels", lambda backend: compiled)
    losses = []
    for choice in ("never", "always"):
        model = replace(MODEL, normalization="RMSNorm", torch_compile=choice)
        with open_world(ParallelConfig()) as world:
            (chunk,) = build_chunks(ParallelConfig(), world, model=model)
            assert (rope_utils.fused_apply_rotary_pos_emb is apply_rotary) == (choice == "never")
            tokens = torch.arange(2 * model.seq_length).view(2, -1) % 60
            loss = chunk(tokens, torch.arange(model.seq_length).expand(2, -1), None, labels=tokens + 1).mean()
            loss.backward()
            norm = chunk.decoder.layers[0].input_layernorm.weight.grad
            losses.append((loss.detach(), norm.clone()))
    for mine, expected in zip(*losses, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)
    install_megatron_patches()
