"""Build AdamW with decoupled weight decay on the configured parameters."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import distributed, nn

from trainer.config.optim import OptimizerConfig
from trainer.model.sharding import ShardedParameter

_ROW_LENGTH = 1024
"""Elements of a gradient whose squares are added in fp32 on a CPU."""


def parameter_groups(parameters: Iterable[ShardedParameter], *, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Split parameters into those with and without weight decay; empty groups are omitted."""
    return _with_decay(_split_by_decay(parameters, config=config), config=config)


def _split_by_decay(
    parameters: Iterable[ShardedParameter], *, config: OptimizerConfig
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for sharded in parameters:
        assert isinstance(sharded.parameter, nn.Parameter)
        (decayed if _should_decay(sharded, config) else undecayed).append(sharded.parameter)
    return decayed, undecayed


def _with_decay(
    kinds: tuple[list[nn.Parameter], list[nn.Parameter]], *, config: OptimizerConfig
) -> list[dict[str, Any]]:
    groups = zip(kinds, (config.weight_decay, 0.0), strict=True)
    return [{"params": kind, "weight_decay": decay} for kind, decay in groups if kind]


def build_adamw(
    parameters: Sequence[ShardedParameter],
    *,
    config: OptimizerConfig,
    model_parallel_group: distributed.ProcessGroup | None = None,
) -> torch.optim.AdamW:
    """Build torch's fused AdamW over `parameters`; all ranks call this.

    Args:
        model_parallel_group: its ranks get equally many parameter groups, because DeepSpeed sums the norm of each group
            over them: if a pipeline stage has no parameter of a kind (the embedding alone), a placeholder element that
            is no part of the model replaces it. None omits such a group.
    """
    kinds = _split_by_decay(parameters, config=config)
    if model_parallel_group is not None:
        like = parameters[0].parameter
        is_somewhere = torch.tensor([bool(kind) for kind in kinds], dtype=torch.int32, device=like.device)
        distributed.all_reduce(is_somewhere, op=distributed.ReduceOp.MAX, group=model_parallel_group)
        for kind, is_needed in zip(kinds, is_somewhere.tolist(), strict=True):
            if is_needed and not kind:
                kind.append(nn.Parameter(torch.zeros(1, dtype=like.dtype, device=like.device)))
    return torch.optim.AdamW(_with_decay(kinds, config=config), **_adam_arguments(config))


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that clips by the global norm first and skips the update if the norm is not finite.

    For ZeRO-0 in fp32, where DeepSpeed does not wrap the optimizer: it reads `overflow` and `_global_grad_norm` of the
    optimizer that it is given.
    """

    def __init__(
        self,
        parameters: Sequence[ShardedParameter],
        *,
        config: OptimizerConfig,
        model_parallel_group: distributed.ProcessGroup,
    ) -> None:
        super().__init__(parameter_groups(parameters, config=config), **_adam_arguments(config))
        self.overflow = False
        self._global_grad_norm = 0.0
        self._clip_grad = config.clip_grad
        self._device = parameters[0].parameter.device
        self._counted = [sharded.parameter for sharded in parameters if sharded.is_main_replica]
        self._model_parallel_group = model_parallel_group

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the weights, or set `overflow` if the gradient norm over all ranks is not finite."""
        gradients = [p.grad for p in self._counted if p.grad is not None]
        squares = sum_of_squares(gradients, device=self._device)
        distributed.all_reduce(squares, group=self._model_parallel_group)
        self._global_grad_norm = float(squares.sqrt())
        self.overflow = not bool(torch.isfinite(squares))
        if self.overflow:
            return
        scale_in_step(self, clip_factor(self._global_grad_norm, clip_grad=self._clip_grad))
        super().step()


def scale_in_step(adamw: torch.optim.AdamW, factor: float) -> None:
    """Make the next step multiply all gradients by a factor while it reads them, instead of in a pass of its own.

    Source: the contract of torch.amp.GradScaler with fused optimizers, which divide by `grad_scale`.
    """
    adamw.grad_scale = None if factor == 1 else torch.tensor(1 / factor)  # type: ignore[attr-defined]


def sum_of_squares(gradients: list[torch.Tensor], *, device: torch.device) -> torch.Tensor:
    """Return the sum of the squares of all elements of all tensors, fp64; 0 without tensors.

    On a CPU, torch's norms add fp32 sequentially and are off by up to 7e-4 at 10^7 elements, so those of short rows are
    added in fp64 (off by less than 1e-6). A GPU's norms add in a tree.
    """
    if not gradients:
        return torch.zeros((), dtype=torch.float64, device=device)
    if device.type != "cpu":
        return torch.stack([norm.double().square() for norm in torch._foreach_norm(gradients)]).sum()
    return torch.cat([_norms_of_rows(gradient.detach().reshape(-1)) for gradient in gradients]).double().square().sum()


def _norms_of_rows(values: torch.Tensor) -> torch.Tensor:
    whole = len(values) // _ROW_LENGTH * _ROW_LENGTH
    rows = torch.linalg.vector_norm(values[:whole].view(-1, _ROW_LENGTH), dim=1, dtype=torch.float32)
    if whole == len(values):
        return rows
    rest = torch.linalg.vector_norm(values[whole:], dtype=torch.float32)
    return torch.cat([rows, rest[None]])


def clip_factor(grad_norm: float, *, clip_grad: float) -> float:
    """Return the factor that limits the global gradient norm to `clip_grad`; 0 disables clipping."""
    return min(1.0, clip_grad / (grad_norm + 1e-6)) if clip_grad > 0 else 1.0


def adam_state(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return AdamW's state of one tensor, created with zero moments if the optimizer has not stepped yet."""
    state = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
    return state


def _adam_arguments(config: OptimizerConfig) -> dict[str, Any]:
    return {
        "lr": config.lr,
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_eps,
        "fused": True,
    }


def _should_decay(sharded: ShardedParameter, config: OptimizerConfig) -> bool:
    key = sharded.blocks[0].key
    if key.endswith("bias"):
        return config.decay_biases
    if sharded.parameter.ndim == 1:
        return config.decay_norms
    if key.startswith("embedding."):
        return config.decay_embeddings
    return True
