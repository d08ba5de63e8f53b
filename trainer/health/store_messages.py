"""Exchange messages between ranks outside of collectives, through the job's TCP store.

A rank that hangs in a collective, or has exited, can neither send nor receive; the store does not need it. Every rank
has its own connection, so that messages work while another thread waits for the store.
"""

import datetime
import json
import os
from pathlib import Path
from typing import Any

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed.distributed_c10d import _get_default_store

from trireme.processes import STORE_FILE

MESSAGE = "message"
"""Key of the message to all ranks: a request for their state (kind ask), or to exit (kind end)."""

_PREFIX = "trireme"
_TIMEOUT = datetime.timedelta(seconds=10)


class StoreMessages:
    """Write and read keys in the store; every value is JSON.

    Raises:
        RuntimeError: from every method, if the store does not respond.
    """

    def __init__(self, store: Store) -> None:
        self._store = PrefixStore(_PREFIX, store)

    def write(self, name: str, value: Any) -> None:
        """Replace the value of a key."""
        self._store.set(name, json.dumps(value))

    def write_first(self, name: str, value: Any) -> bool:
        """Write a key unless it exists; return whether it has this value now."""
        text = json.dumps(value)
        return bool(self._store.compare_set(name, "", text) == text.encode())

    def read(self, name: str) -> Any | None:
        """Return the value of a key; None if nobody has written it."""
        return json.loads(self._store.get(name)) if self._store.check([name]) else None

    def post_end(self, *, code: int, text: str, launcher: str) -> None:
        """Make all ranks exit, unless such a message exists already.

        Args:
            code: the exit code of each.
            text: the reason.
            launcher: the launcher that explains the reason in detail, itself or by its ranks.
        """
        present = self.read(MESSAGE)
        if present is None or present["kind"] != "end":
            self.write(MESSAGE, {"kind": "end", "code": code, "text": text, "launcher": launcher})

    def erase(self, name: str) -> None:
        """Delete a key."""
        self._store.delete_key(name)


def open_store_messages() -> StoreMessages:
    """Connect to the job's store, on a separate connection; the default process group must exist."""
    store = _get_default_store()
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    connection = store.clone()  # type: ignore[attr-defined]
    connection.set_timeout(_TIMEOUT)
    return StoreMessages(connection)


def leave_store_address() -> None:
    """Write the store's address to a file for this host's launcher, if the job has other hosts."""
    path = os.environ.get(STORE_FILE)
    if path and os.environ.get("GROUP_WORLD_SIZE", "1") != "1" and os.environ.get("LOCAL_RANK") == "0":
        Path(path).write_text(f"{os.environ['MASTER_ADDR']} {os.environ['MASTER_PORT']}")


def messages_of_launcher(path: Path) -> StoreMessages | None:
    """Connect the launcher to the store whose address its ranks have written; None if it is unknown or unreachable."""
    try:
        host, port = path.read_text().split()
        return StoreMessages(TCPStore(host, int(port), is_master=False, timeout=_TIMEOUT, wait_for_workers=False))
    except (OSError, ValueError, RuntimeError):
        return None
