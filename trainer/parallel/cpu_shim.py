"""Let Megatron-Core run on a host without CUDA. Does nothing with CUDA.

Megatron-Core requires CUDA in schedules, point-to-point buffers, rotary tables and its random-state tracker. Every
loaded `megatron.core` module gets a *view* of `torch`: the same classes and functions, except that factory functions
place `device="cuda"` on the CPU and that `torch.cuda` is replaced. Nothing else in the process changes, except
`torch.Tensor.cuda`, which returns the tensor itself.

A view costs nothing measurable in a step; a global `TorchFunctionMode` costs 25 to 40 % of a small one.
"""

import contextlib
import functools
import importlib.machinery
import logging
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from trainer.parallel.light_imports import leave_torch_uncompiled, light_imports

_CPU = torch.device("cpu")
_FACTORIES = (
    "arange",
    "as_tensor",
    "empty",
    "empty_like",
    "eye",
    "full",
    "full_like",
    "linspace",
    "ones",
    "ones_like",
    "rand",
    "randint",
    "randn",
    "tensor",
    "zeros",
    "zeros_like",
)


def install() -> None:
    """Install the shim once; must run before `megatron.core` is first imported. Does nothing with CUDA."""
    if torch.cuda.is_available() or any(isinstance(finder, _MegatronFinder) for finder in sys.meta_path):
        return
    if "megatron.core" in sys.modules:
        raise RuntimeError("trainer.parallel.cpu_shim.install() must run before megatron.core is imported")
    leave_torch_uncompiled()
    # Megatron-Core 0.19 imports torch's extension builder, which in a CUDA build of torch warns that there is no GPU.
    logging.getLogger("torch.utils.cpp_extension").addFilter(lambda record: "No CUDA runtime" not in str(record.msg))
    sys.meta_path.insert(0, _MegatronFinder(_torch_view()))
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
    _disable_compiled_helpers()
    _track_cpu_random_state()
    _copy_recomputed()
    _copy_split_sizes()
    _pad_unequal_parts()


def is_installed() -> bool:
    """Return whether Megatron-Core uses the CPU view of torch in this process."""
    return any(isinstance(finder, _MegatronFinder) for finder in sys.meta_path)


@contextlib.contextmanager
def cuda_type_names() -> Iterator[None]:
    """Make `Tensor.type()` return torch.cuda.FloatTensor for a CPU tensor; does nothing with CUDA.

    For the constructors of Megatron-Core's optimizers, which distinguish weights of 16 and 32 bits by these names.
    """
    if not is_installed():
        yield
        return
    name_type = torch.Tensor.type

    def name_cuda_type(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        named = name_type(tensor, *args, **kwargs)
        return named.replace("torch.", "torch.cuda.", 1) if isinstance(named, str) else named

    torch.Tensor.type = name_cuda_type  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.Tensor.type = name_type  # type: ignore[method-assign]


class _MegatronFinder:
    """Give each `megatron.core` module its view of torch as soon as the module has been executed.

    Modules of DeepSpeed are also imported with `light_imports`, but keep torch.
    """

    def __init__(self, view: types.ModuleType) -> None:
        self.view = view

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find the module as Python does, with its loader's exec_module extended."""
        if not name.startswith(("megatron.core", "deepspeed")):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
            execute = spec.loader.exec_module

            def execute_then_rebind(module: types.ModuleType) -> None:
                with light_imports():
                    execute(module)
                if name.startswith("megatron.core") and module.__dict__.get("torch") is torch:
                    module.__dict__["torch"] = self.view

            spec.loader.exec_module = execute_then_rebind  # type: ignore[method-assign]
        return spec


class _TorchView(types.ModuleType):
    """Copy torch's namespace; what torch loads lazily is looked up in torch."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class _NullCudaObject:
    """Replace a stream, an event or nvtx: every method exists and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def record_event(self, *args: Any) -> "_NullCudaObject":
        """Return an event: the token dispatcher of experts waits for it."""
        return self

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


def _torch_view() -> types.ModuleType:
    view = _TorchView("torch")
    view.__dict__.update(torch.__dict__)
    for name in _FACTORIES:
        view.__dict__[name] = _on_cpu(getattr(torch, name))
    view.__dict__["cuda"] = _cuda_stand_in()
    return view


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def create(*args: Any, **kwargs: Any) -> torch.Tensor:
        device = kwargs.get("device")
        if isinstance(device, int) or str(device).startswith("cuda"):
            kwargs["device"] = _CPU
        if "pin_memory" in kwargs:  # context parallelism pins its rotary slice; a CPU build of torch cannot pin memory
            kwargs["pin_memory"] = False
        return factory(*args, **kwargs)

    return create


def _cuda_stand_in() -> types.ModuleType:
    """`torch.cuda` for code that assumes a device: the CPU is the current one, streams and events do nothing."""
    stand_in = types.ModuleType("torch.cuda")
    stand_in.__dict__.update({name: value for name, value in vars(torch.cuda).items() if not name.startswith("__")})
    null = _NullCudaObject()
    vars(stand_in).update(
        current_device=lambda: _CPU,
        device_count=lambda: 1,
        synchronize=lambda *args: None,
        empty_cache=lambda: None,
        set_device=lambda *args: None,
        Stream=_NullCudaObject,
        Event=_NullCudaObject,
        current_stream=lambda *args: null,
        default_stream=lambda *args: null,
        stream=lambda *args: contextlib.nullcontext(),
        nvtx=null,
        manual_seed=torch.manual_seed,
        get_rng_state=lambda *args: torch.get_rng_state(),
        set_rng_state=lambda state, *args: torch.set_rng_state(state),
        memory_allocated=lambda *args: 0,
        max_memory_allocated=lambda *args: 0,
    )
    return stand_in


def _disable_compiled_helpers() -> None:
    """Disable torch.compile of Megatron-Core's fused helpers, which takes minutes on a CPU."""
    from megatron.core import jit  # noqa: PLC0415 - the view must be installed first

    jit.disable_jit_fuser()


def _track_cpu_random_state() -> None:
    """Make the tensor-parallel random-state tracker (dropout) keep the CPU generator's states."""
    from megatron.core.tensor_parallel import random as mcore_random  # noqa: PLC0415 - as above

    mcore_random._get_cuda_rng_state = lambda *args, **kwargs: torch.get_rng_state()
    mcore_random._set_cuda_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)
    # The tracked generator is the CPU's own here, so its change inside a fork is intended.
    logging.getLogger(mcore_random.__name__).addFilter(lambda record: "CPU RNG state changed" not in str(record.msg))


def _copy_recomputed() -> None:
    """Copy a recomputed output into the memory of the first; Megatron-Core 0.19 compiles C++ to share it instead."""
    from megatron.core.tensor_parallel import random as mcore_random  # noqa: PLC0415 - as above

    def share_storage(output: torch.Tensor, recomputed: torch.Tensor) -> None:
        source = recomputed.untyped_storage()
        output.untyped_storage().resize_(source.size())
        output.untyped_storage().copy_(source)

    mcore_random._get_share_storage = lambda: share_storage


def _copy_split_sizes() -> None:
    """Copy split sizes of experts' tokens to numpy arrays, which Megatron-Core does for CUDA tensors only."""
    from megatron.core.transformer.moe import token_dispatcher  # noqa: PLC0415 - as above

    def move(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        return tensor.numpy() if as_numpy and isinstance(tensor, torch.Tensor) else tensor

    token_dispatcher.maybe_move_tensor_to_cpu = move


def _pad_unequal_parts() -> None:
    """Pad parts of gather and scatter to equal sizes, which gloo requires; NCCL supports unequal ones.

    With expert tensor parallelism, ranks hold different numbers of tokens.
    """
    from megatron.core.tensor_parallel import mappings  # noqa: PLC0415 - as above

    gather_equal, scatter_equal = mappings._gather_along_first_dim, mappings._reduce_scatter_along_first_dim

    def gather(
        part: torch.Tensor, group: Any, sizes: Sequence[int] | None = None, use_global_buffer: bool = False
    ) -> torch.Tensor:
        if sizes is None or group.size() == 1:
            return gather_equal(part, group, None, use_global_buffer)
        longest = max(*sizes, 1)
        padded = gather_equal(_pad(part, longest), group).unflatten(0, (-1, longest))
        return torch.cat([rows[:size] for rows, size in zip(padded, sizes, strict=True)])

    def scatter(
        whole: torch.Tensor, group: Any, sizes: Sequence[int] | None = None, use_global_buffer: bool = False
    ) -> torch.Tensor:
        if sizes is None or group.size() == 1:
            return scatter_equal(whole, group, None, use_global_buffer)
        longest = max(*sizes, 1)
        padded = torch.cat([_pad(part, longest) for part in whole.split(list(sizes))])
        return scatter_equal(padded, group)[: sizes[group.rank()]]

    mappings._gather_along_first_dim, mappings._reduce_scatter_along_first_dim = gather, scatter


def _pad(part: torch.Tensor, length: int) -> torch.Tensor:
    """Pad [n, ...] with zeros to [length, ...]."""
    return torch.cat([part, part.new_zeros(length - len(part), *part.shape[1:])])
