"""Standard output for the figures alone: libraries, and the processes that are started, write elsewhere."""

import os
import sys
from typing import TextIO


def take_stdout() -> TextIO:
    """Return standard output, and let all else that is written to it from now on go to standard error.

    To be called before libraries are imported that write to it: some do by descriptor, or keep `sys.stdout`.
    """
    sys.stdout.flush()
    figures = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return figures
