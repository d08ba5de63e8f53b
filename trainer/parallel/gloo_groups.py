"""Share process groups of the same ranks on a host without CUDA."""

import contextlib
import functools
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from torch import distributed


@contextlib.contextmanager
def share_groups() -> Iterator[None]:
    """Make `distributed.new_group` return the group that it has created for the same ranks before in this world.

    Megatron-Core creates about 17 groups for each rank of a layout; with gloo each has three threads, one of which
    wakes up a hundred times a second. With four ranks at most four sets differ, and another layout has mostly the same
    ones. So groups outlive a layout: gloo ends the threads of a destroyed group with its last reference, and
    Megatron-Core keeps references permanently (a cache of rotary embeddings, hooks of its gradient buffers).

    Ranks may share a group between uses that are issued in the same order on each of them. This holds for the uses of a
    layout, which one thread issues one after the other. Another thread needs its own group, created outside of this
    context, as the checkpoint manager does. The default group is never shared: it has its own timeout.

    All ranks must enter. Does nothing for groups that are not gloo's.
    """
    if distributed.get_backend() != "gloo":
        yield
        return
    create, made = distributed.new_group, _groups_of(distributed.group.WORLD)

    def share(ranks: list[int] | None = None, timeout: timedelta | None = None, **others: Any) -> Any:
        if ranks is None or others.get("backend") not in (None, "gloo") or others.get("use_local_synchronization"):
            return create(ranks, timeout=timeout, **others)
        # Identified by the arguments, and kept by non-members too: torch numbers groups, equally on all ranks. gloo
        # takes no options, and a description has no effect.
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
    """Release the shared groups of a world that has ended; their threads end with the last reference."""
    _groups_of.cache_clear()


@functools.lru_cache(maxsize=1)
def _groups_of(default_group: distributed.ProcessGroup) -> dict[tuple[tuple[int, ...], timedelta | None], Any]:
    """Return the groups created in the world of a default group, which torch does not list."""
    return {}
