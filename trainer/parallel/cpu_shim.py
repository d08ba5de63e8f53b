"""Let Megatron-Core run on a host without CUDA. Inert where CUDA is present.

Megatron-Core 0.16 names CUDA in schedules, point-to-point buffers, rotary tables and its random-state tracker. Every
loaded `megatron.core` module gets a *view* of `torch`: the same classes and functions, except that factory functions
place `device="cuda"` on the CPU and that `torch.cuda` is a stand-in. Nothing else in the process sees a difference,
but for `torch.Tensor.cuda`, which returns the tensor itself.

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
    """Install the shim once; must run before `megatron.core` is first imported. Does nothing where CUDA is present."""
    if torch.cuda.is_available() or any(isinstance(finder, _MegatronFinder) for finder in sys.meta_path):
        return
    if "megatron.core" in sys.modules:
        raise RuntimeError("trainer.parallel.cpu_shim.install() must run before megatron.core is imported")
    leave_torch_uncompiled()
    sys.meta_path.insert(0, _MegatronFinder(_torch_view()))
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
    _disable_compiled_helpers()
    _track_cpu_random_state()
    _copy_split_sizes()
    _pad_unequal_parts()


def is_installed() -> bool:
    """Whether Megatron-Core sees the CPU view of torch in this process."""
    return any(isinstance(finder, _MegatronFinder) for finder in sys.meta_path)


@contextlib.contextmanager
def cuda_type_names() -> Iterator[None]:
    """Inside, `Tensor.type()` says torch.cuda.FloatTensor of a CPU tensor; does nothing where CUDA is present.

    For the constructors of Megatron-Core's optimizers, which tell weights of 16 and 32 bits by these names.
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
    """Gives each `megatron.core` module its view of torch as soon as the module has been executed.

    Those of DeepSpeed are imported lightly, too, and keep torch.
    """

    def __init__(self, view: types.ModuleType) -> None:
        self.view = view

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find the module as Python would, with its loader's exec_module extended."""
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
    """Copy of torch's namespace; what torch loads lazily is looked up in torch."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class _NullCudaObject:
    """Stands for a stream, an event or nvtx: every method exists and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def record_event(self, *args: Any) -> "_NullCudaObject":
        """A stream's method whose result is used: the dispatcher of experts' tokens waits for the event."""
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
        if "pin_memory" in kwargs:  # context parallelism pins its rotary slice; a CPU build of torch refuses to pin
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
    """Megatron-Core decorates its fused helpers with torch.compile at import; compiling them on a CPU costs minutes."""
    from megatron.core import jit  # noqa: PLC0415 - the view must be installed first

    jit.disable_jit_fuser()


def _track_cpu_random_state() -> None:
    """Make the tensor-parallel random-state tracker (dropout) keep the CPU generator's states."""
    from megatron.core.tensor_parallel import random as mcore_random  # noqa: PLC0415 - as above

    mcore_random._get_cuda_rng_state = lambda *args, **kwargs: torch.get_rng_state()
    mcore_random._set_cuda_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)
    # The tracked generator is the CPU's own here, so its change inside a fork is the purpose, not an accident.
    logging.getLogger(mcore_random.__name__).addFilter(lambda record: "CPU RNG state changed" not in str(record.msg))


def _copy_split_sizes() -> None:
    """Experts' tokens are exchanged by split sizes in numpy arrays, which Megatron-Core makes of CUDA tensors only."""
    from megatron.core.transformer.moe import token_dispatcher  # noqa: PLC0415 - as above

    def move(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        return tensor.numpy() if as_numpy and isinstance(tensor, torch.Tensor) else tensor

    token_dispatcher.maybe_move_tensor_to_cpu = move


def _pad_unequal_parts() -> None:
    """Ranks that cut experts hold tokens of different number; gloo gathers and scatters equal parts only.

    So parts are padded to the largest, and cut again. NCCL takes unequal ones.
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
    """[n, ...] to [length, ...], zeros behind."""
    return torch.cat([part, part.new_zeros(length - len(part), *part.shape[1:])])
