"""Avoid imports that a CPU run never uses: torch.compile's machinery, and wandb in Megatron-Core.

Megatron-Core and DeepSpeed decorate helpers with `torch.compile` and import wandb if it is installed; torch's
optimizers import TorchDynamo, and with it Inductor, only to exclude themselves from compilation. That was 2 of the 4
seconds of processor time between a process's start and its first step. A CPU run compiles only what `model/kernels.py`
is configured to, and `metrics/wandb.py` reports to W&B itself.
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
    """Make `torch.compile` decorators do nothing, and hide wandb unless it is imported already."""
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
    """Keep torch's optimizers and activation recomputation from importing TorchDynamo to exclude themselves from it.

    `torch._disable_dynamo` caches its result as an attribute of the function; here that is the function itself. Adam's
    step adds graph breaks around its no_grad code; here it only runs that code.
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
    """Replace a decorator, with or without arguments, by one that does nothing."""
    return function if function is not None else lambda decorated: decorated
