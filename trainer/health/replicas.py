"""Check that ranks that hold replicas of the same weights hold the same bits, to detect silent data corruption.

Data-parallel ranks update their replicas from the same summed gradients, so they stay bit-identical; so do the weights
that tensor-parallel ranks share under sequence parallelism, whose gradients are summed over those ranks.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import distributed, nn

from trainer.health.rank_processes import RankProcess
from trireme.errors import EXIT_REPLICAS_DIFFER, RunStopped

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection

_LOGGER = logging.getLogger(__name__)
NUM_TENSORS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class ReplicaSet:
    """Hold the weights of this rank that every rank of a group holds."""

    group: distributed.ProcessGroup
    parameters: Mapping[str, nn.Parameter]
    """By name, in the same order on every rank of the group."""


def find_replicas(chunks: Sequence[nn.Module], *, groups: "ProcessGroupCollection") -> list[ReplicaSet]:
    """Find the weights of this rank that other ranks hold too.

    Experts have their own data-parallel groups; Megatron-Core marks them `allreduce=False`.
    """
    named = {
        f"chunk{index}.{name}": parameter
        for index, chunk in enumerate(chunks)
        for name, parameter in chunk.named_parameters()
    }
    dense = {name: parameter for name, parameter in named.items() if getattr(parameter, "allreduce", True)}
    experts = {name: parameter for name, parameter in named.items() if name not in dense}
    shared = {name: parameter for name, parameter in dense.items() if getattr(parameter, "sequence_parallel", False)}
    sets = [
        ReplicaSet(group=groups.dp_cp, parameters=dense),
        ReplicaSet(group=groups.expt_dp, parameters=experts) if experts else None,
        ReplicaSet(group=groups.tp, parameters=shared) if shared else None,
    ]
    return [found for found in sets if found is not None and found.group.size() > 1]


class ReplicaCheck:
    """Compare the replicas of weights.

    Args:
        processes: every rank's process, for the message.
        mismatch: stop the run, or warn.
        on_odd: receives the ranks that differ from the majority, on rank 0.
    """

    def __init__(
        self,
        sets: Sequence[ReplicaSet],
        *,
        processes: Sequence[RankProcess],
        device: torch.device,
        mismatch: Literal["stop", "warn"],
        on_odd: Callable[[Collection[int]], None],
    ) -> None:
        self._on_odd = on_odd
        self._sets, self._processes, self._device, self._mismatch = sets, processes, device, mismatch

    def check(self, *, step: int) -> bool:
        """Return whether all replicas agree, the same on every rank; all ranks call this after a step.

        Takes two small collectives for each set of replicas, and one over all ranks; names are sent only if something
        differs.

        Raises:
            RunStopped: on every rank, if replicas differ and health.replica_mismatch=stop.
        """
        hashes = [hash_parameters(list(replicas.parameters.values()), self._device) for replicas in self._sets]
        differs = torch.zeros(1, dtype=torch.int64, device=self._device)
        for replicas, own in zip(self._sets, hashes, strict=True):
            lowest, highest = own.clone(), own.clone()
            distributed.all_reduce(lowest, op=distributed.ReduceOp.MIN, group=replicas.group)
            distributed.all_reduce(highest, op=distributed.ReduceOp.MAX, group=replicas.group)
            differs |= (lowest != highest).any()
        distributed.all_reduce(differs, op=distributed.ReduceOp.MAX)
        if not differs.item():
            return True
        self._report(hashes, step=step)
        return False

    def _report(self, hashes: Sequence[torch.Tensor], *, step: int) -> None:
        findings: list[tuple[str, tuple[int, ...]]] = []
        for replicas, own in zip(self._sets, hashes, strict=True):
            gathered = [torch.empty_like(own) for _ in range(replicas.group.size())]
            distributed.all_gather(gathered, own, group=replicas.group)
            if replicas.group.rank() == 0:
                ranks = distributed.get_process_group_ranks(replicas.group)
                findings += describe_differences(
                    list(replicas.parameters),
                    {rank: rows.tolist() for rank, rows in zip(ranks, gathered, strict=True)},
                    processes=self._processes,
                )
        everyone: list[list[tuple[str, tuple[int, ...]]] | None] = [None] * len(self._processes)
        distributed.all_gather_object(everyone, findings)
        # Each group's first rank reports; two groups may report the same of one rank, as of norms.
        reported = dict.fromkeys(finding for of_rank in everyone for finding in of_rank or ())
        odd = {rank for _, ranks in reported for rank in ranks}
        if distributed.get_rank() == 0:
            self._on_odd(odd)
        lines = "\n".join(f"  {line}" for line, _ in reported)
        text = f"After step {step}, replicas of the same weights differ:\n{lines}"
        if self._mismatch == "stop":
            text += "\nThis step was not saved. Exclude the host and resume the run from its latest checkpoint."
            # Raised on every rank, printed by one.
            message = text if distributed.get_rank() == 0 else ""
            raise RunStopped(message, exit_code=EXIT_REPLICAS_DIFFER)
        if distributed.get_rank() == 0:
            _LOGGER.error("%s", text)


def hash_parameters(parameters: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Return two numbers for each tensor that change with any of its bits: [n, 2] int64, computed on its device.

    They are the exclusive or of all elements, and the sum of their bits taken as integers.
    """
    rows = []
    for parameter in parameters:
        values = parameter.detach().contiguous().view(-1)
        bits = values.view({4: torch.int32, 2: torch.int16, 1: torch.int8}[values.element_size()])
        rows.append(torch.stack([torch.hash_tensor(values).view(torch.int64), bits.sum(dtype=torch.int64)]))
    return torch.stack(rows) if rows else torch.zeros(0, 2, dtype=torch.int64, device=device)


def describe_differences(
    names: Sequence[str], hashes: Mapping[int, Sequence[Sequence[int]]], *, processes: Sequence[RankProcess]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Describe which ranks differ from the majority, and in which tensors; without a majority, which ranks disagree.

    Args:
        names: of the tensors.
        hashes: by rank, one row for each tensor.
    Yields:
        A description, and the ranks that differ from the majority; no ranks if there is no majority.
    """
    odd: dict[tuple[int, ...], list[str]] = {}
    undecided: list[str] = []
    for index, name in enumerate(names):
        rows = {rank: tuple(found[index]) for rank, found in hashes.items()}
        counts = Counter(rows.values())
        if len(counts) == 1:
            continue
        value, count = counts.most_common(1)[0]
        if 2 * count > len(rows):
            odd.setdefault(tuple(rank for rank, row in rows.items() if row != value), []).append(name)
        else:
            undecided.append(name)
    for ranks, tensors in odd.items():
        named = ", ".join(str(processes[rank]) for rank in ranks)
        verb = "differs" if len(ranks) == 1 else "differ"
        yield f"{named} {verb} from the other {len(hashes) - len(ranks)} in {_shorten(tensors)}", ranks
    if undecided:
        named = " and ".join(str(processes[rank]) for rank in hashes)
        yield f"{named} disagree, without a majority, in {_shorten(undecided)}", ()


def _shorten(names: Sequence[str]) -> str:
    more = f" and {len(names) - NUM_TENSORS_SHOWN} more tensors" if len(names) > NUM_TENSORS_SHOWN else ""
    return ", ".join(names[:NUM_TENSORS_SHOWN]) + more
