"""What a run draws its samples from, and how far it had drawn when the mixture last changed.

While data sets and weights stay as they are, a sample's origin follows from its number alone. When a resumed run names
other data sets or weights, the new mixture begins at the resumed sample and each data set goes on where it was, so
nothing is repeated or skipped. A checkpoint keeps `Mixture.to_record` for that.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from trainer.data.blend import Blend


@dataclass(frozen=True, kw_only=True)
class MixtureEntry:
    """One data set of a run, or one that the run has used before."""

    identity: str
    """Digest of what the data set holds, see `TokenDataset.identity`; it survives a move to another directory."""
    weight: float
    """Share of samples relative to the other weights; 0 for a data set that is used no more."""
    stream: int
    """Number that selects the data set's own order, given once and kept when the list of data sets changes."""
    drawn: int
    """Samples that the run had drawn from it when this mixture began."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The data sets of a run from one sample on."""

    first_sample: int
    """Global number of the first sample that this mixture gives."""
    entries: tuple[MixtureEntry, ...]
    """The configured data sets in their order, then those that are used no more."""

    @property
    def active(self) -> tuple[MixtureEntry, ...]:
        """The configured data sets, in their order."""
        return tuple(entry for entry in self.entries if entry.weight)

    def to_record(self) -> dict[str, Any]:
        """Turn into plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Mixture":
        """Turn back what `to_record` made."""
        entries = tuple(MixtureEntry(**entry) for entry in record["entries"])
        return cls(first_sample=record["first_sample"], entries=entries)


def continue_mixture(
    identities: Sequence[str], *, weights: Sequence[float], former: Mixture | None, consumed_samples: int
) -> Mixture:
    """Find the mixture of a run that starts or resumes at consumed_samples.

    Args:
        identities: one per configured data set.
        weights: one per configured data set.
        former: the mixture that gave the samples before; None when the same one always did.
    """
    if former is None:
        pairs = enumerate(zip(identities, weights, strict=True))
        fresh = (MixtureEntry(identity=i, weight=w, stream=stream, drawn=0) for stream, (i, w) in pairs)
        return Mixture(first_sample=0, entries=tuple(fresh))
    before = former.active
    is_same_data = [entry.identity for entry in before] == list(identities)
    if is_same_data and Blend([entry.weight for entry in before]).shares == Blend(weights).shares:
        return former
    counts = Blend([entry.weight for entry in before]).counts(consumed_samples - former.first_sample)
    known = [replace(entry, drawn=entry.drawn + count) for entry, count in zip(before, counts, strict=True)]
    known += [entry for entry in former.entries if not entry.weight]
    next_stream = 1 + max(entry.stream for entry in known)
    entries = []
    for identity, weight in zip(identities, weights, strict=True):
        found = next((entry for entry in known if entry.identity == identity), None)
        if found is None:
            found = MixtureEntry(identity=identity, weight=weight, stream=next_stream, drawn=0)
            next_stream += 1
        else:
            known.remove(found)
        entries.append(replace(found, weight=weight))
    return Mixture(first_sample=consumed_samples, entries=(*entries, *(replace(entry, weight=0.0) for entry in known)))
