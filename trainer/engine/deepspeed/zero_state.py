"""Read and restore fp32 weights and moments, as fragments, where each ZeRO stage keeps them."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import nn

from trainer.engine.base import OPTIMIZER_STATES, OptimizerFragment
from trainer.engine.optimizer import adam_state
from trainer.model.sharding import ShardedParameter


def build_zero_state(
    optimizer: Any,
    *,
    adamw: torch.optim.AdamW,
    parameters: Sequence[ShardedParameter],
    groups: ProcessGroupCollection,
    zero_stage: int,
) -> "ZeroState":
    """Build the access to the optimizer state of a ZeRO stage.

    Args:
        optimizer: returned by `deepspeed.initialize`.
        adamw: the optimizer that was passed to it.
        parameters: described before DeepSpeed took them: stage 3 leaves them without a shape.
    """
    if zero_stage == 0:
        return WholeState(adamw, parameters=parameters, is_owner=groups.dp_cp.rank() == 0)
    if zero_stage < 3:
        return SplitState(optimizer, adamw=adamw, parameters=parameters)
    return PartitionedState(optimizer, adamw=adamw, parameters=parameters, dp_rank=groups.dp_cp.rank())


class WholeState:
    """Access the state of stage 0: every data-parallel rank holds all of it, and the fp32 weights are the model's."""

    def __init__(self, adamw: torch.optim.AdamW, *, parameters: Sequence[ShardedParameter], is_owner: bool) -> None:
        self._adamw, self._parameters, self._is_owner = adamw, parameters, is_owner

    def fragments(self) -> list[OptimizerFragment]:
        """Return the state as views; writing into them changes it."""
        fragments = []
        for sharded in self._parameters:
            parameter, state = sharded.parameter, adam_state(self._adamw, sharded.parameter)
            fragments.append(
                OptimizerFragment(
                    sharded=sharded,
                    flat_start=0,
                    num_elements=parameter.numel(),
                    states={
                        "param": parameter.detach().view(-1),
                        "exp_avg": state["exp_avg"].view(-1),
                        "exp_avg_sq": state["exp_avg_sq"].view(-1),
                    },
                    is_owner=self._is_owner,
                )
            )
        return fragments

    def restore(self, *, num_updates: int) -> None:
        """Set Adam's step count; the fragments are the model's weights."""
        _set_step_counts(self._adamw, _tensors_of(self._adamw), num_updates=num_updates)

    def release_copies(self) -> None:
        """Do nothing: fragments are views."""


class SplitState:
    """Access the state of stages 1 and 2: each data-parallel rank holds an equal part of a group's flat parameters."""

    def __init__(self, optimizer: Any, *, adamw: torch.optim.AdamW, parameters: Sequence[ShardedParameter]) -> None:
        self._optimizer, self._adamw, self._parameters = optimizer, adamw, parameters

    def fragments(self) -> list[OptimizerFragment]:
        """Return the state as views; writing into them changes it."""
        self._link_moments()
        fragments = []
        for sharded in self._parameters:
            mapping = sharded.parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is None:  # another data-parallel rank owns all of it
                continue
            address = mapping.lp_fragment_address
            states = {"param": mapping.hp_fragment, **mapping.optim_fragment}
            fragments.append(
                OptimizerFragment(
                    sharded=sharded,
                    flat_start=address.start,
                    num_elements=address.numel,
                    states={name: states[name].detach().view(-1)[: address.numel] for name in OPTIMIZER_STATES},
                    is_owner=True,
                )
            )
        return fragments

    def restore(self, *, num_updates: int) -> None:
        """Copy the fragments into the model's weights, and set Adam's step count."""
        _set_step_counts(self._adamw, _tensors_of(self._adamw), num_updates=num_updates)
        self._optimizer.update_lp_params()

    def release_copies(self) -> None:
        """Do nothing: fragments are views."""

    def _link_moments(self) -> None:
        """Link fragments to Adam's moments: DeepSpeed does it after its first step, and for its first group only."""
        for tensor in _tensors_of(self._adamw):
            adam_state(self._adamw, tensor)
        self._optimizer._hp_optimizer_states_linked = False
        self._optimizer._lazy_init_hp_params_optimizer_state()


class PartitionedState:
    """Access the state of stage 3: each parameter is split into equal parts, one per data-parallel rank, with padding.

    The parts of a group's parameters are concatenated in one flat tensor, which the optimizer steps. Offloaded to NVMe,
    it is in memory only during the step, so fragments are copies then, which `restore` writes back.
    """

    def __init__(
        self, optimizer: Any, *, adamw: torch.optim.AdamW, parameters: Sequence[ShardedParameter], dp_rank: int
    ) -> None:
        self._optimizer, self._adamw, self._parameters = optimizer, adamw, parameters
        self._dp_rank = dp_rank
        self._copies: dict[int, dict[str, torch.Tensor]] = {}

    def fragments(self) -> list[OptimizerFragment]:
        """Return the state as views or, offloaded to NVMe, as copies, which `restore` writes back."""
        groups = [self._states_of(group) for group in range(len(self._optimizer.fp32_partitioned_groups_flat))]
        fragments = []
        for sharded in self._parameters:
            group, start, part_size = self._optimizer.grad_position[self._optimizer.get_param_id(sharded.parameter)]
            flat_start = self._dp_rank * part_size
            num_elements = min(part_size, _full_size(sharded) - flat_start)
            if num_elements <= 0:  # all of this rank's part is padding
                continue
            fragments.append(
                OptimizerFragment(
                    sharded=sharded,
                    flat_start=flat_start,
                    num_elements=num_elements,
                    states={name: groups[group][name][start : start + num_elements] for name in OPTIMIZER_STATES},
                    is_owner=True,
                )
            )
        return fragments

    @torch.no_grad()
    def restore(self, *, num_updates: int) -> None:
        """Copy the fragments into the model's weights, and set Adam's step count."""
        optimizer = self._optimizer
        # As its step does: release gathered weights, renew the parts, gather again what stays gathered.
        optimizer._partition_all_parameters()
        for group, master in enumerate(optimizer.fp32_partitioned_groups_flat):
            with self._in_memory(group) as states:
                for name, copy in self._copies.get(group, {}).items():
                    states[name].copy_(copy)
                _set_step_counts(self._adamw, [master], num_updates=num_updates)
                optimizer._reassign_or_swap_out_partitioned_parameters(group)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)

    def release_copies(self) -> None:
        """Free the fragments that are copies; writing into them has no effect any more."""
        self._copies.clear()

    def _states_of(self, group: int) -> dict[str, torch.Tensor]:
        """Return a group's fp32 weights and moments, [n] each, or copies of them."""
        with self._in_memory(group) as states:
            if not self._optimizer._swappable_optimizer_subgroup(group):
                return states
            self._copies[group] = {name: states[name].clone() for name in OPTIMIZER_STATES}
            return self._copies[group]

    @contextmanager
    def _in_memory(self, group: int) -> Iterator[dict[str, torch.Tensor]]:
        """Read a group from its files if it is offloaded to NVMe, and write it back afterwards."""
        is_swapped = self._optimizer._swappable_optimizer_subgroup(group)
        if is_swapped:
            self._optimizer._optimizer_states_and_gradient_swap_in(group)
        master = self._optimizer.fp32_partitioned_groups_flat[group]
        yield {"param": master.detach(), **adam_state(self._adamw, master)}
        if is_swapped:
            self._optimizer._optimizer_states_and_gradient_swap_out(group)


ZeroState = WholeState | SplitState | PartitionedState
"""The optimizer state of this rank."""


def _full_size(sharded: ShardedParameter) -> int:
    return sum(math.prod(block.local_shape) for block in sharded.blocks)


def _tensors_of(adamw: torch.optim.AdamW) -> list[nn.Parameter]:
    return [tensor for group in adamw.param_groups for tensor in group["params"]]


def _set_step_counts(adamw: torch.optim.AdamW, tensors: Iterable[torch.Tensor], *, num_updates: int) -> None:
    for tensor in tensors:
        adam_state(adamw, tensor)["step"].fill_(float(num_updates))
