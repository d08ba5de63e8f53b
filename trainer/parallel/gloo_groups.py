"""Fewer process groups on a host without CUDA: those of the same ranks are one group."""

import contextlib
import functools
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from torch import distributed


@contextlib.contextmanager
def share_groups() -> Iterator[None]:
    """Inside, `distributed.new_group` answers with the group that it made of the same ranks before in this world.

    Megatron-Core makes about 17 groups for each rank of a layout; on gloo each has three threads, one of which wakes up
    a hundred times a second. Of four ranks at most four sets differ, and another layout has mostly the same ones. So
    groups outlive a layout: gloo ends the threads of a destroyed group with its last reference, and Megatron-Core keeps
    references for good (a cache of rotary embeddings, hooks of its gradient buffers).

    Ranks may share a group between uses that are issued in the same order on each of them. So it is with the uses of a
    layout, which the thread of the steps issues one after the other. Another thread needs a group of its own, and gets
    it where it is made outside of this, as the checkpoint's. The default group is never shared: it has its own timeout.

    All ranks enter alike. Does nothing where the groups are not gloo's.
    """
    if distributed.get_backend() != "gloo":
        yield
        return
    create, made = distributed.new_group, _groups_of(distributed.group.WORLD)

    def share(ranks: list[int] | None = None, timeout: timedelta | None = None, **others: Any) -> Any:
        if ranks is None or others.get("backend") not in (None, "gloo") or others.get("use_local_synchronization"):
            return create(ranks, timeout=timeout, **others)
        # Known by the arguments, and kept by those who are no members too: torch numbers groups, alike on all ranks.
        # gloo takes no options, and a description is for the reader.
        key = (tuple(sorted(ranks)), timeout)
        if key not in made:
            made[key] = create(ranks, timeout=timeout, **others)
        return made[key]

    distributed.new_group = share  # type: ignore[assignment]
    try:
        yield
    finally:
        distributed.new_group = create


def forget_groups() -> None:
    """Let go of the shared groups, whose threads end when nothing else holds them; their world has ended."""
    _groups_of.cache_clear()


@functools.lru_cache(maxsize=1)
def _groups_of(default_group: distributed.ProcessGroup) -> dict[tuple[tuple[int, ...], timedelta | None], Any]:
    """What was made in the world of a default group; torch cannot be asked for it."""
    return {}
