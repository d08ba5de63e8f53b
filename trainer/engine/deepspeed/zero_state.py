"""Where each ZeRO stage keeps fp32 weights and moments: handed out as fragments, and made the model's weights again."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import nn

from trainer.engine.base import OPTIMIZER_STATES, OptimizerFragment
from trainer.engine.optimizer import adam_state
from trainer.model.sharding import ShardedParameter


class ZeroState(Protocol):
    """The optimizer state that this rank holds."""

    def fragments(self) -> list[OptimizerFragment]:
        """Everything of it that a checkpoint holds; writing into the fragments changes it."""
        ...

    def restore(self, *, num_updates: int) -> None:
        """Make what was written into the fragments the weights of the model, after `num_updates` of Adam's steps."""
        ...

    def release_copies(self) -> None:
        """Let go of the fragments that had to be copied; writing into them has no effect any more."""
        ...


def build_zero_state(
    optimizer: Any,
    *,
    adamw: torch.optim.AdamW,
    parameters: Sequence[ShardedParameter],
    groups: ProcessGroupCollection,
    zero_stage: int,
) -> ZeroState:
    """Choose the form that a stage has.

    Args:
        optimizer: what `deepspeed.initialize` returned.
        adamw: the optimizer that it was given.
        parameters: described before DeepSpeed took them: stage 3 leaves them without a shape.
    """
    if zero_stage == 0:
        return _WholeState(adamw, parameters=parameters, is_owner=groups.dp_cp.rank() == 0)
    if zero_stage < 3:
        return _SplitState(optimizer, adamw=adamw, parameters=parameters)
    return _PartitionedState(optimizer, adamw=adamw, parameters=parameters, dp_rank=groups.dp_cp.rank())


class _WholeState:
    """Stage 0: every data-parallel rank holds all of it, and the fp32 weights are the model's."""

    def __init__(self, adamw: torch.optim.AdamW, *, parameters: Sequence[ShardedParameter], is_owner: bool) -> None:
        self._adamw, self._parameters, self._is_owner = adamw, parameters, is_owner

    def fragments(self) -> list[OptimizerFragment]:
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
        _set_step_counts(self._adamw, _tensors_of(self._adamw), num_updates=num_updates)

    def release_copies(self) -> None:
        """There are none."""


class _SplitState:
    """Stages 1 and 2: all parameters of a group laid end to end, and each data-parallel rank holds an equal part."""

    def __init__(self, optimizer: Any, *, adamw: torch.optim.AdamW, parameters: Sequence[ShardedParameter]) -> None:
        self._optimizer, self._adamw, self._parameters = optimizer, adamw, parameters

    def fragments(self) -> list[OptimizerFragment]:
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
        _set_step_counts(self._adamw, _tensors_of(self._adamw), num_updates=num_updates)
        self._optimizer.update_lp_params()

    def release_copies(self) -> None:
        """There are none."""

    def _link_moments(self) -> None:
        """DeepSpeed ties fragments to Adam's moments after its first step, and then for its first group only."""
        for tensor in _tensors_of(self._adamw):
            adam_state(self._adamw, tensor)
        self._optimizer._hp_optimizer_states_linked = False
        self._optimizer._lazy_init_hp_params_optimizer_state()


class _PartitionedState:
    """Stage 3: each parameter cut into as many equal parts as there are data-parallel ranks, the last ones padded.

    The parts of a group's parameters lie end to end in one flat tensor, which the optimizer steps. Offloaded to files
    it is in memory only while it is stepped, so fragments are copies then, which `restore` writes back.
    """

    def __init__(
        self, optimizer: Any, *, adamw: torch.optim.AdamW, parameters: Sequence[ShardedParameter], dp_rank: int
    ) -> None:
        self._optimizer, self._adamw, self._parameters = optimizer, adamw, parameters
        self._dp_rank = dp_rank
        self._copies: dict[int, dict[str, torch.Tensor]] = {}

    def fragments(self) -> list[OptimizerFragment]:
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
        optimizer = self._optimizer
        # As its step does: let go of what is gathered, renew the parts, gather again what always stays gathered.
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
        self._copies.clear()

    def _states_of(self, group: int) -> dict[str, torch.Tensor]:
        """A group's fp32 weights and moments: [n] each, or copies of them."""
        with self._in_memory(group) as states:
            if not self._optimizer._swappable_optimizer_subgroup(group):
                return states
            self._copies[group] = {name: states[name].clone() for name in OPTIMIZER_STATES}
            return self._copies[group]

    @contextmanager
    def _in_memory(self, group: int) -> Iterator[dict[str, torch.Tensor]]:
        """Read a group from its files, where it lies in files, and write it back afterwards."""
        is_swapped = self._optimizer._swappable_optimizer_subgroup(group)
        if is_swapped:
            self._optimizer._optimizer_states_and_gradient_swap_in(group)
        master = self._optimizer.fp32_partitioned_groups_flat[group]
        yield {"param": master.detach(), **adam_state(self._adamw, master)}
        if is_swapped:
            self._optimizer._optimizer_states_and_gradient_swap_out(group)


def _full_size(sharded: ShardedParameter) -> int:
    return sum(math.prod(block.local_shape) for block in sharded.blocks)


def _tensors_of(adamw: torch.optim.AdamW) -> list[nn.Parameter]:
    return [tensor for group in adamw.param_groups for tensor in group["params"]]


def _set_step_counts(adamw: torch.optim.AdamW, tensors: Iterable[torch.Tensor], *, num_updates: int) -> None:
    for tensor in tensors:
        adam_state(adamw, tensor)["step"].fill_(float(num_updates))
