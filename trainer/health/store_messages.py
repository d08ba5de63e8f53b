"""The job's notice board: what ranks tell each other beside the collectives, through the store that joined them.

A rank that hangs in a collective, or has left, can neither send nor receive; the store needs nobody's turn. Every rank
has a connection of its own to it, so that the board answers while another thread waits at the store.
"""

import datetime
import json
import os
from pathlib import Path
from typing import Any

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed.distributed_c10d import _get_default_store

from trireme.processes import STORE_FILE

NOTICE = "notice"
"""Key of what all ranks must know: that one asks where they stand (kind ask), or that the run ends (kind end)."""

_PREFIX = "trireme"
_TIMEOUT = datetime.timedelta(seconds=10)


class StoreMessages:
    """Keys that ranks write and read; every value is JSON.

    Raises:
        RuntimeError: from every method, when the store does not answer.
    """

    def __init__(self, store: Store) -> None:
        self._store = PrefixStore(_PREFIX, store)

    def write(self, name: str, value: Any) -> None:
        """Replace what the key says."""
        self._store.set(name, json.dumps(value))

    def write_first(self, name: str, value: Any) -> bool:
        """Write unless somebody else has; whether this value is there now."""
        text = json.dumps(value)
        return bool(self._store.compare_set(name, "", text) == text.encode())

    def read(self, name: str) -> Any | None:
        """What the key says; None where nobody has written it."""
        return json.loads(self._store.get(name)) if self._store.check([name]) else None

    def post_end(self, *, code: int, text: str, launcher: str) -> None:
        """Have all ranks leave, unless that is posted.

        Args:
            code: the exit code of each.
            text: why.
            launcher: whose ranks, or who itself, explains it at length.
        """
        present = self.read(NOTICE)
        if present is None or present["kind"] != "end":
            self.write(NOTICE, {"kind": "end", "code": code, "text": text, "launcher": launcher})

    def erase(self, name: str) -> None:
        """Take the key away."""
        self._store.delete_key(name)


def open_store_messages() -> StoreMessages:
    """The board of this job, on a connection of its own; the default process group must exist."""
    store = _get_default_store()
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    connection = store.clone()  # type: ignore[attr-defined]
    connection.set_timeout(_TIMEOUT)
    return StoreMessages(connection)


def leave_store_address() -> None:
    """Tell the launcher of this host where the store is, if the job has other hosts."""
    path = os.environ.get(STORE_FILE)
    if path and os.environ.get("GROUP_WORLD_SIZE", "1") != "1" and os.environ.get("LOCAL_RANK") == "0":
        Path(path).write_text(f"{os.environ['MASTER_ADDR']} {os.environ['MASTER_PORT']}")


def messages_of_launcher(path: Path) -> StoreMessages | None:
    """The board, for the launcher whose ranks left the store's address; None where they did not or it is gone."""
    try:
        host, port = path.read_text().split()
        return StoreMessages(TCPStore(host, int(port), is_master=False, timeout=_TIMEOUT, wait_for_workers=False))
    except (OSError, ValueError, RuntimeError):
        return None
