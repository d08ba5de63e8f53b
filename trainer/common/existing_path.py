"""What exists of a path that is yet to be made."""

import os.path
from pathlib import Path


def nearest_existing(path: Path) -> Path:
    """The path itself, or the first above it that exists; absolute.

    It is a file where one stands in the way. What may not be looked at, and what is no name to the file system, counts
    as missing: the directory that hides or refuses it is the answer.
    """
    absolute = path.absolute()
    # Not Path.exists, which raises where a directory may not be entered.
    return next(place for place in (absolute, *absolute.parents) if os.path.exists(place))
