"""Keep what a CPU run never uses out of its imports: torch.compile's machinery, and wandb in Megatron-Core.

Megatron-Core and DeepSpeed decorate helpers with `torch.compile` and look for wandb while they are imported; torch's
optimizers import TorchDynamo, and with it Inductor, to say that it should leave them alone. That was 2 of the 4 seconds
of processor time between a process's start and its first step. A CPU run compiles nothing but what
`model/kernels.py` is asked to, and `metrics/wandb.py` reports to W&B itself.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, cast

import torch
import torch.utils.checkpoint

_TORCH: Any = torch


@contextlib.contextmanager
def light_imports() -> Iterator[None]:
    """Inside, decorating with `torch.compile` does nothing, and wandb is not installed unless it is in use already."""
    former, has_wandb = (_TORCH.compile, _TORCH._disable_dynamo), "wandb" in sys.modules
    _TORCH.compile = _TORCH._disable_dynamo = _leave_as_it_is
    if not has_wandb:
        sys.modules["wandb"] = cast(Any, None)
    try:
        yield
    finally:
        _TORCH.compile, _TORCH._disable_dynamo = former
        if not has_wandb:
            sys.modules.pop("wandb", None)


def leave_torch_uncompiled() -> None:
    """Have torch's optimizers and recomputation not import TorchDynamo, whose way around them they ask for.

    `torch._disable_dynamo` keeps what it has found as an attribute of the function; here that is the function itself.
    Adam's step breaks graphs before and after what it does without gradients; here it only does that.
    """
    code = _TORCH._disable_dynamo(_leave_as_it_is).__code__
    for holder in (torch.optim.Optimizer, torch.utils.checkpoint):
        for function in vars(holder).values():
            if isinstance(function, FunctionType) and function.__code__ is code:
                wrapped: Any = function.__wrapped__  # type: ignore[attr-defined]
                vars(wrapped).setdefault("__dynamo_disable", wrapped)
    step: Any = torch.optim.Adam.step
    if hasattr(step, "__wrapped__"):
        torch.optim.Adam.step = torch.no_grad()(step.__wrapped__)  # type: ignore[method-assign]


def _leave_as_it_is(function: Callable[..., Any] | None = None, *args: Any, **settings: Any) -> Any:
    """Stand for a decorator, with and without arguments of its own."""
    return function if function is not None else lambda decorated: decorated
