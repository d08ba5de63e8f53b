"""Give several files their final names all at once: an exchange that was killed is finished by the next start.

The new files are built in WORK/built. When they are complete and durable, WORK/files.json lists them, and the former
files that they replace; from then on the exchange is decided, and any number of interruptions ends with the new files.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from trireme.files import sync_directory, write_whole
from trireme.stop_signals import holding_signals

BUILT_NAME = "built"
FILE_LIST_NAME = "files.json"


def list_exchange(work: Path, *, remove: Sequence[str], publish: Sequence[str]) -> None:
    """Make the built files durable, and decide that they replace the former ones.

    Args:
        work: directory on the file system of the final names.
        remove: former files, by name; those that mark their output as complete first.
        publish: all built files, in the order in which they get their final names.
    Raises:
        OSError: the list cannot be written; the former files stay.
    """
    for name in publish:
        with open(work / BUILT_NAME / name, "rb") as stream:
            os.fsync(stream.fileno())
    sync_directory(work / BUILT_NAME)
    content = {"remove": list(remove), "publish": list(publish)}
    write_whole(work / FILE_LIST_NAME, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def is_decided(work: Path) -> bool:
    """Return whether an exchange was decided there that is not finished."""
    return (work / FILE_LIST_NAME).exists()


def finish_exchange(work: Path, directory: Path) -> None:
    """Give all files on the list their final names in a directory; an interrupted exchange is resumed.

    Stop signals wait until it is done. Afterwards `work` can be removed.

    Raises:
        OSError: a file cannot be renamed; the next call goes on from there.
    """
    built = work / BUILT_NAME
    with holding_signals():
        todo = json.loads((work / FILE_LIST_NAME).read_text(encoding="utf-8"))
        waiting = [name for name in todo["publish"] if (built / name).exists()]
        if len(waiting) == len(todo["publish"]):
            for name in todo["remove"]:
                (directory / name).unlink(missing_ok=True)
            sync_directory(directory)
        for name in waiting:
            os.replace(built / name, directory / name)
        sync_directory(directory)
        (work / FILE_LIST_NAME).unlink()
