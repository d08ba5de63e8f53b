"""Hold what a probe shows; imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """Hold what is computed about a prompt."""

    layers: tuple[int, ...]
    """Numbers, from 1, of the layers whose attention and neurons are shown."""
    top_k: int = 8
    """Most likely tokens of each place."""
    num_neurons: int = 8
    """Of each layer."""
    num_steps: int = 50
    """Points of the path of integrated gradients; 0 leaves attribution out."""
    baseline: Literal["zero", "mean"] = "mean"
    batch_size: int = 8
    ngram: int = 3
    num_documents: int = 8
    max_search_tokens: int = 1_000_000_000


def parse_layers(text: str, *, num_layers: int) -> tuple[int, ...]:
    """Return the numbers of `1,3,5-8` or `all`, ascending.

    Raises:
        ValueError: it is no such list, or names a layer that does not exist; says which.
    """
    if text.strip() == "all":
        return tuple(range(1, num_layers + 1))
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            numbers = range(int(first), int(last if dash else first) + 1)
        except ValueError as error:
            raise ValueError("must be numbers and ranges such as 1,3,5-8, or all") from error
        if not numbers or numbers[0] < 1 or numbers[-1] > num_layers:
            raise ValueError(f"must name layers from 1 to {num_layers}")
        found.update(numbers)
    return tuple(sorted(found))
