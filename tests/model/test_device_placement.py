"""Every tensor of a forward and backward pass lies on the accelerator, shown where there is none.

torch's fake tensors have a device and no memory, and refuse to meet those of another device as CUDA's would. Here the
device is one that exists for Python alone ("gpu"), since a build for CPUs cannot even name CUDA's streams: what
Megatron-Core places on "cuda" goes there, and a tensor says of itself that it is on CUDA. A model is built on the host
and moved, as on a GPU, so whatever the code creates on the CPU by mistake stays behind.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import ModuleType

import pytest

from trainer.parallel import cpu_shim

cpu_shim.install()

import torch  # noqa: E402
from megatron.core.tensor_parallel.random import CudaRNGStatesTracker  # noqa: E402
from torch import distributed, nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.nn.attention import SDPBackend  # noqa: E402
from torch.nn.attention.flex_attention import BlockMask  # noqa: E402
from torch.testing._internal.distributed import fake_pg  # noqa: E402
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend  # noqa: E402

from tests.engine.runs import DROPPING, GPT2, LLAMA  # noqa: E402
from trainer.config.model import ModelConfig  # noqa: E402
from trainer.config.optim import PrecisionConfig  # noqa: E402
from trainer.config.parallel import ParallelConfig  # noqa: E402
from trainer.data.micro_batch import MicroBatch  # noqa: E402
from trainer.engine import forward  # noqa: E402
from trainer.model import attention, gpt, kernels, norm  # noqa: E402
from trainer.model.activation import geglu, geglu_tanh, plain_swiglu  # noqa: E402
from trainer.model.cross_entropy import CrossEntropyForm, differentiate, summarize  # noqa: E402
from trainer.model.gpt import build_model_chunks, build_transformer_config  # noqa: E402
from trainer.model.megatron_patches import install_megatron_patches  # noqa: E402
from trainer.model.rotary import plain_rotary  # noqa: E402
from trainer.model.target_positions import TargetPositions  # noqa: E402
from trainer.parallel.world import World, start_world, stop_world  # noqa: E402

BF16 = PrecisionConfig(params_dtype="bf16")
SELECTIVE = ParallelConfig(recompute_granularity="selective", recompute_modules=["core_attn", "layernorm", "mlp"])
# What is compiled on a GPU, as it is before a compiler has seen it.
UNCOMPILED = kernels.Kernels(
    rms_norm=norm.rms_norm,
    layer_norm=norm.layer_norm,
    swiglu=plain_swiglu,
    geglu=geglu,
    geglu_tanh=geglu_tanh,
    rotary=plain_rotary,
    cross_entropy=CrossEntropyForm(summarize=summarize, differentiate=differentiate),
)


def layout(**sizes: object) -> ParallelConfig:
    return ParallelConfig(**sizes)  # type: ignore[arg-type]


# Model, layout, whether documents are told apart, form of the kernels.
RUNS = {
    "llama": (LLAMA, layout(), False, "compiled"),
    "llama documents": (LLAMA, layout(), True, "eager"),
    "gpt2": (GPT2, layout(), False, "eager"),
    "gpt2 documents": (GPT2, layout(), True, "compiled"),
    "dropout documents": (DROPPING, layout(), True, "compiled"),
    "recomputed": (replace(LLAMA, rope_scaling_factor=8.0), SELECTIVE, True, "compiled"),
    "tp2 sp dropout": (DROPPING, layout(tensor_model_parallel_size=2, sequence_parallel=True), False, "compiled"),
    "tp2 gpt2": (GPT2, layout(tensor_model_parallel_size=2), False, "compiled"),
    "cp2": (LLAMA, layout(context_parallel_size=2), False, "compiled"),
    "cp2 dropout documents": (DROPPING, layout(context_parallel_size=2), True, "eager"),
    "cp2 a2a documents": (LLAMA, layout(context_parallel_size=2, cp_comm_type="a2a"), True, "compiled"),
}


@pytest.fixture(scope="module")
def device() -> Iterator[torch.device]:
    _setup_privateuseone_for_python_backend("gpu")
    yield torch.device("gpu", 0)
    # It stays registered; torch.distributed.checkpoint would use its streams, which it does not have.
    torch.gpu.is_available = lambda: False


@pytest.fixture
def accelerated(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Inside, every tensor is a fake one, and "cuda" is the device."""
    monkeypatch.setattr(cpu_shim, "_CPU", device)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor, *args, **options: tensor.to(device))
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: tensor.device.type == device.type))
    monkeypatch.setattr(attention, "_sdpa_kernels", lambda device: [SDPBackend.MATH])
    monkeypatch.setattr(attention, "attend_in_blocks", shape_of_blocks)
    monkeypatch.setattr(gpt, "_place", place)
    monkeypatch.setattr(gpt, "find_target_positions", half_of_them)
    # Random states are no tensors of a model, and real.
    monkeypatch.setattr(CudaRNGStatesTracker, "fork", lambda *names: contextlib.nullcontext())
    monkeypatch.setenv("LOCAL_RANK", "0")
    with FakeTensorMode(), torch.autograd.set_multithreading_enabled(False):
        yield device


def place(chunks: Sequence[nn.Module], *, device: torch.device, dtype: torch.dtype) -> list[nn.Module]:
    """As `Module.to`, which cannot give a fake parameter another device."""
    for chunk in chunks:
        for module in chunk.modules():
            for name, parameter in module.named_parameters(recurse=False):
                moved = nn.Parameter(parameter.detach().to(device=device, dtype=dtype))
                moved.__dict__.update({key: value for key, value in vars(parameter).items() if key not in vars(moved)})
                setattr(module, name, moved)
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
    return list(chunks)


def shape_of_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    block_mask: BlockMask,
    scale: float | None,
    enable_gqa: bool,
    softcapping: float | None = None,
) -> torch.Tensor:
    """For FlexAttention, which only a compiler can follow: its mask for one query and key, and a result."""
    first = torch.zeros(1, dtype=torch.int64, device=query.device)
    assert block_mask.mask_mod(first, first, first, first).device == query.device
    assert block_mask.kv_num_blocks.device == query.device
    repeats = query.shape[1] // key.shape[1]
    mixed = (key * value).mean(dim=2, keepdim=True).repeat_interleave(repeats, dim=1)
    return query * mixed


def start(parallel: ParallelConfig) -> World:
    size = parallel.model_parallel_size
    distributed.init_process_group("fake", rank=0, world_size=size, store=fake_pg.FakeStore())
    return start_world(parallel, timeout_seconds=60, seed=1)


def half_of_them(loss_mask: torch.Tensor, *, num_ranks: int, rank: int, device: torch.device) -> TargetPositions:
    """As `find_target_positions`, which reads the mask: fake tensors hold nothing."""
    assert loss_mask.device.type == "cpu"
    positions = torch.arange(loss_mask.numel()).view(num_ranks, -1)[:, ::2].contiguous()
    shape = (loss_mask.shape[0], loss_mask.shape[1])
    return TargetPositions(positions=positions.to(device), shape=shape, rank=rank)


def micro_batch(model: ModelConfig, *, has_documents: bool) -> MicroBatch:
    ids = torch.zeros(2, model.seq_length, dtype=torch.int64)
    return MicroBatch(
        tokens=ids,
        labels=ids,
        loss_mask=torch.ones(2, model.seq_length),
        position_ids=ids,
        sample_ids=(),
        document_starts=ids.int() if has_documents else None,
    )


def step(
    model: ModelConfig, parallel: ParallelConfig, *, device: torch.device, has_documents: bool, form: kernels.Kernels
) -> None:
    """What engines have the schedule do with a micro batch."""
    world = start(parallel)
    try:
        install_megatron_patches(rotary=form.rotary)
        (chunk,) = build_model_chunks(
            model,
            transformer_config=build_transformer_config(model, parallel=parallel, precision=BF16),
            padded_vocab_size=512,
            pp_rank=0,
            groups=world.groups,
            device=device,
            seed=None,
            reset_position_ids=has_documents,
            kernels=form,
        )
        batch = micro_batch(model, has_documents=has_documents)
        objective = forward.PREDICT_NEXT
        weight = forward._gradient_weight([batch], objective=objective, groups=world.groups, device=device)
        run = forward._forward_step(weight, objective=objective, observe=None, cp_group=world.groups.cp, device=device)
        output, weigh = run(iter([batch]), chunk)
        loss, logged = weigh(output)
        loss.backward()
        assert loss.device == logged.device == device
        for name, parameter in chunk.named_parameters():
            assert parameter.grad is not None and parameter.grad.device == device, name
            assert parameter.grad.dtype is torch.bfloat16, name
    finally:
        stop_world()


def take_run(name: str, device: torch.device) -> None:
    model, parallel, has_documents, form = RUNS[name]
    model = replace(model, hidden_size=128)  # heads of 16 channels, which FlexAttention takes
    form_kernels = UNCOMPILED if form == "compiled" else kernels.EAGER
    step(model, parallel, device=device, has_documents=has_documents, form=form_kernels)


@pytest.mark.parametrize("name", RUNS)
def test_nothing_stays_on_the_host(name: str, accelerated: torch.device) -> None:
    take_run(name, accelerated)


def forgotten_begins(batch: int, length: int, *, device: torch.device) -> torch.Tensor:
    return torch.zeros(batch, length, dtype=torch.int32)


def forgotten_columns(rows: torch.Tensor, *, columns: torch.Tensor, **others: torch.Tensor) -> torch.Tensor:
    """Of a backward pass."""
    is_target = torch.arange(rows.shape[1]) == columns[:, None]
    return torch.where(is_target, rows, 0.0)


@pytest.mark.parametrize(
    ("name", "target", "mistake"),
    [
        ("cp2", (attention, "one_document"), forgotten_begins),
        (
            "gpt2",
            (kernels, "EAGER"),
            replace(
                kernels.EAGER,
                cross_entropy=CrossEntropyForm(summarize=summarize, differentiate=forgotten_columns),
            ),
        ),
    ],
    ids=["forward", "backward"],
)
def test_what_stays_there_is_found(
    name: str,
    target: tuple[ModuleType, str],
    mistake: object,
    accelerated: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(*target, mistake)
    with pytest.raises(RuntimeError, match="same device"):
        take_run(name, accelerated)
