"""Track the data sets and weights of a run, and how much of each data set was drawn when they last changed.

While data sets and weights do not change, a sample's origin follows from its number alone. When a resumed run names
other data sets or weights, the new mixture begins at the resumed sample and each data set continues where it was, so
nothing is repeated or skipped. Checkpoints store `Mixture.to_record` for that.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from trainer.data.blend import Blend


@dataclass(frozen=True, kw_only=True)
class DatasetIdentity:
    """Identify a data set, independent of the location and names of its shards."""

    content: str
    """Digest of headers, first and last tokens of its shards, and of seq_length."""
    checksum: str | None = None
    """Digest of the sha256 that the shards' manifests record; None if a shard has no manifest."""
    name: str | None = None
    """Digest of shard names and token counts, which older checkpoints recorded instead of `content`."""


@dataclass(frozen=True, kw_only=True)
class MixtureEntry:
    """Hold a data set that the run uses or has used before."""

    identity: str
    """`DatasetIdentity.content`; in an older checkpoint, `DatasetIdentity.name`."""
    weight: float
    """Share of samples relative to the other weights; 0 for a data set that is no longer used."""
    stream: int
    """Number that determines the data set's order, kept when the list of data sets changes."""
    drawn: int
    """Samples that the run had drawn from it when this mixture began."""
    checksum: str | None = None
    """`DatasetIdentity.checksum`."""

    def is_of(self, identity: DatasetIdentity) -> bool:
        """Return whether this is the data set of an identity."""
        if self.checksum is not None and identity.checksum is not None and self.checksum != identity.checksum:
            return False
        return self.identity in (identity.content, identity.name)

    def known_as(self, identity: DatasetIdentity) -> "MixtureEntry":
        """Return this entry with an updated identity of the data set."""
        return replace(self, identity=identity.content, checksum=identity.checksum or self.checksum)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Hold the data sets of a run from one sample on."""

    first_sample: int
    """Global number of the first sample of this mixture."""
    entries: tuple[MixtureEntry, ...]
    """The configured data sets in their order, then those that are no longer used."""

    @property
    def active(self) -> tuple[MixtureEntry, ...]:
        """The configured data sets, in their order."""
        return tuple(entry for entry in self.entries if entry.weight)

    def draws_as(self, other: "Mixture") -> bool:
        """Return whether both mixtures give the same samples, independent of the recorded identities."""
        mine, theirs = (
            [(entry.weight, entry.stream, entry.drawn) for entry in mixture.entries] for mixture in (self, other)
        )
        return self.first_sample == other.first_sample and mine == theirs

    def to_record(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Mixture":
        """Restore a mixture from `to_record`."""
        entries = tuple(MixtureEntry(**entry) for entry in record["entries"])
        return cls(first_sample=record["first_sample"], entries=entries)


def continue_mixture(
    identities: Sequence[DatasetIdentity], *, weights: Sequence[float], former: Mixture | None, consumed_samples: int
) -> Mixture:
    """Compute the mixture of a run that starts or resumes at consumed_samples.

    Args:
        identities: one per configured data set.
        weights: one per configured data set.
        former: the mixture of the samples before; None if it never changed.
    Returns:
        The former mixture with updated identities if data sets and weights are the same, else a new one.
    """
    if former is None:
        fresh = [
            MixtureEntry(identity=identity.content, checksum=identity.checksum, weight=weight, stream=stream, drawn=0)
            for stream, (identity, weight) in enumerate(zip(identities, weights, strict=True))
        ]
        return Mixture(first_sample=0, entries=tuple(fresh))
    before = former.active
    is_same_data = len(before) == len(identities) and all(
        entry.is_of(identity) for entry, identity in zip(before, identities, strict=True)
    )
    if is_same_data and Blend([entry.weight for entry in before]).shares == Blend(weights).shares:
        active = [entry.known_as(identity) for entry, identity in zip(before, identities, strict=True)]
        return replace(former, entries=(*active, *(entry for entry in former.entries if not entry.weight)))
    counts = Blend([entry.weight for entry in before]).counts(consumed_samples - former.first_sample)
    known = [replace(entry, drawn=entry.drawn + count) for entry, count in zip(before, counts, strict=True)]
    known += [entry for entry in former.entries if not entry.weight]
    next_stream = 1 + max(entry.stream for entry in known)
    entries = []
    for identity, weight in zip(identities, weights, strict=True):
        found = next((entry for entry in known if entry.is_of(identity)), None)
        if found is None:
            found = MixtureEntry(identity=identity.content, weight=weight, stream=next_stream, drawn=0)
            next_stream += 1
        else:
            known.remove(found)
        entries.append(replace(found.known_as(identity), weight=weight))
    return Mixture(first_sample=consumed_samples, entries=(*entries, *(replace(entry, weight=0.0) for entry in known)))


def describe_mixture_change(mixture: Mixture, *, former: Mixture, consumed_samples: int) -> list[str]:
    """Describe how each data set continues if a resume has changed the mixture; an empty list if it has not.

    Args:
        consumed_samples: where the run resumes.
    """
    if mixture.draws_as(former):
        return []
    streams = {entry.stream for entry in former.entries}
    changes = [
        f"data.train[{number}] continues after {entry.drawn} samples."
        if entry.stream in streams
        else f"data.train[{number}] is a new data set and starts at its first sample."
        for number, entry in enumerate(mixture.active)
    ]
    active = {entry.stream for entry in mixture.active}
    dropped = [entry for entry in former.active if entry.stream not in active]
    if dropped:
        changes.append(f"{len(dropped)} of the former {len(former.active)} data sets are no longer used.")
    return [f"The data mixture changes at sample {consumed_samples}: {change}" for change in changes]
