"""Check the options that the commands of compression share; imports nothing heavy."""

import argparse
from collections.abc import Sequence

from trireme.errors import Violation


def check_counts(arguments: argparse.Namespace, names: Sequence[str]) -> list[Violation]:
    """Report each of these options that is given and less than 1."""
    return [
        Violation(
            path=f"--{name.replace('_', '-')}", value=value, message="must be at least 1", fix="Use a larger number."
        )
        for name in names
        if (value := getattr(arguments, name)) is not None and value < 1
    ]
