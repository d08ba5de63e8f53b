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
class DatasetIdentity:
    """What tells a data set from others, wherever its shards lie and whatever they are called."""

    content: str
    """Digest of headers, first and last tokens of its shards, and of seq_length."""
    checksum: str | None = None
    """Digest of the sha256 that the shards' manifests record; None where a shard has no manifest."""
    name: str | None = None
    """Digest of shard names and token counts, which older checkpoints recorded in the place of `content`."""


@dataclass(frozen=True, kw_only=True)
class MixtureEntry:
    """One data set of a run, or one that the run has used before."""

    identity: str
    """`DatasetIdentity.content`; of an older checkpoint `DatasetIdentity.name`."""
    weight: float
    """Share of samples relative to the other weights; 0 for a data set that is used no more."""
    stream: int
    """Number that selects the data set's own order, given once and kept when the list of data sets changes."""
    drawn: int
    """Samples that the run had drawn from it when this mixture began."""
    checksum: str | None = None
    """`DatasetIdentity.checksum`."""

    def is_of(self, identity: DatasetIdentity) -> bool:
        """Whether this is the data set of an identity."""
        if self.checksum is not None and identity.checksum is not None and self.checksum != identity.checksum:
            return False
        return self.identity in (identity.content, identity.name)

    def known_as(self, identity: DatasetIdentity) -> "MixtureEntry":
        """The same entry under the newest knowledge of what the data set is."""
        return replace(self, identity=identity.content, checksum=identity.checksum or self.checksum)


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

    def draws_as(self, other: "Mixture") -> bool:
        """Whether both give the same samples, whatever is known of the data sets."""
        mine, theirs = (
            [(entry.weight, entry.stream, entry.drawn) for entry in mixture.entries] for mixture in (self, other)
        )
        return self.first_sample == other.first_sample and mine == theirs

    def to_record(self) -> dict[str, Any]:
        """Turn into plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Mixture":
        """Turn back what `to_record` made."""
        entries = tuple(MixtureEntry(**entry) for entry in record["entries"])
        return cls(first_sample=record["first_sample"], entries=entries)


def continue_mixture(
    identities: Sequence[DatasetIdentity], *, weights: Sequence[float], former: Mixture | None, consumed_samples: int
) -> Mixture:
    """Find the mixture of a run that starts or resumes at consumed_samples.

    Args:
        identities: one per configured data set.
        weights: one per configured data set.
        former: the mixture that gave the samples before; None when the same one always did.
    Returns:
        The former one where data sets and weights are the same, with what is known of the data sets now.
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
    """Tell what becomes of each data set where a resume has changed the mixture; nothing where it has not.

    Args:
        consumed_samples: where the run resumes.
    """
    if mixture.draws_as(former):
        return []
    streams = {entry.stream for entry in former.entries}
    told = [
        f"data.train[{number}] resumes after {entry.drawn} samples"
        if entry.stream in streams
        else f"data.train[{number}] is a new data set of the run and starts at its first sample"
        for number, entry in enumerate(mixture.active)
    ]
    active = {entry.stream for entry in mixture.active}
    dropped = [entry for entry in former.active if entry.stream not in active]
    if dropped:
        told.append(f"{len(dropped)} of the former {len(former.active)} data sets are no longer used")
    return [f"the data mixture changes at sample {consumed_samples}: {one}" for one in told]
