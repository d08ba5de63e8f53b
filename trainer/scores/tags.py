"""Score tags of words by the entities that they mark."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Entity:
    """Hold consecutive words that are one entity."""

    kind: str
    start: int
    """Its first word."""
    end: int
    """The word after its last."""


def find_entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities that the tags of one text mark, in their order.

    Tags are O, or B- (begins), I- (inside), E- (last) or S- (single) before a kind. An entity also begins where I- or
    E- follows O, another kind or the end of an entity, as in the CoNLL evaluation.

    Source: conlleval of the CoNLL-2000 shared task.
    """
    entities: list[Entity] = []
    start, open_kind, is_ended = 0, None, False
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.partition("-")
        is_outside = prefix == "O"
        begins = not is_outside and (prefix in ("B", "S") or open_kind != kind or is_ended)
        if open_kind is not None and (is_outside or begins):
            entities.append(Entity(kind=open_kind, start=start, end=place))
            open_kind = None
        if begins:
            start, open_kind = place, kind
        is_ended = prefix in ("E", "S")
    return entities


def score_tags(predicted: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> dict[str, float]:
    """Score the tags of texts.

    An entity is right if its words and its kind are.

    Args:
        predicted: tags of each text, by word.
        labels: the right ones, as many.
    Returns:
        entity_precision, entity_recall and entity_f1 over all entities, 0 where there are none; entity_f1_macro, the
        mean F1 of the kinds that occur; accuracy, the share of words with the right tag. Equal to seqeval's in its
        default mode.
    """
    num_predicted: Counter[str] = Counter()
    num_labelled: Counter[str] = Counter()
    num_right: Counter[str] = Counter()
    right_words = num_words = 0
    for ours, theirs in zip(predicted, labels, strict=True):
        found, wanted = find_entities(ours), find_entities(theirs)
        num_predicted.update(entity.kind for entity in found)
        num_labelled.update(entity.kind for entity in wanted)
        num_right.update(entity.kind for entity in set(found) & set(wanted))
        right_words += sum(one == other for one, other in zip(ours, theirs, strict=True))
        num_words += len(theirs)
    kinds = num_predicted.keys() | num_labelled.keys()
    by_kind = [2 * num_right[kind] / (num_predicted[kind] + num_labelled[kind]) for kind in kinds]
    right, guesses, truths = num_right.total(), num_predicted.total(), num_labelled.total()
    return {
        "entity_f1": 2 * right / (guesses + truths) if kinds else 0.0,
        "entity_precision": right / guesses if guesses else 0.0,
        "entity_recall": right / truths if truths else 0.0,
        "entity_f1_macro": sum(by_kind) / len(by_kind) if by_kind else 0.0,
        "accuracy": right_words / num_words if num_words else 0.0,
    }
