"""Intervals cover what they should, figures are those of their papers, and what cannot be concluded is not."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from trainer.fairness.figures import measure_choices, measure_completions, measure_pairs, measure_pronouns
from trainer.fairness.intervals import Figure, bootstrap, mean_of, share
from trainer.fairness.items import ChoiceItem, CompletionItem, PairItem, PronounItem


def named(figures: list[Figure], name: str, subset: str = "all") -> Figure:
    (found,) = (figure for figure in figures if (figure.name, figure.subset) == (name, subset))
    return found


@pytest.mark.parametrize(("hits", "total"), [(0, 12), (3, 10), (50, 100), (40, 40)])
def test_share_of_single_items_is_wilsons(hits: int, total: int) -> None:
    values = [1.0] * hits + [0.0] * (total - hits)
    found = share(values, [str(number) for number in range(total)], name="x")
    expected = binomtest(hits, total).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_clusters_widen_the_interval_as_if_each_were_one_item() -> None:
    clusters = [str(number // 5) for number in range(200)]
    whole = [float(number // 5 % 2) for number in range(200)]  # all items of a cluster agree
    found = share(whole, clusters, name="x")
    expected = binomtest(20, 40).proportion_ci(method="wilson")
    # The variance between 40 clusters has 39 in its denominator, not 40.
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.005)
    assert (found.num_items, found.num_clusters) == (200, 40)


def test_intervals_cover_the_truth() -> None:
    """Of 200 draws of 30 clusters, nominally 95 % have an interval with the true mean."""
    generator = np.random.default_rng(0)
    covered = {"share": 0, "mean": 0}
    for seed in range(200):
        rates = generator.beta(2, 2, size=30)  # mean 0.5
        hits = (generator.random((30, 6)) < rates[:, None]).astype(float).ravel()
        clusters = [str(number // 6) for number in range(180)]
        one = share(hits, clusters, name="x")
        other = bootstrap(np.stack([np.ones(180), hits], axis=1), clusters, mean_of, name="x", seed=seed)
        covered["share"] += one.low <= 0.5 <= one.high
        covered["mean"] += other.low <= 0.5 <= other.high
    # Binomial with 200 draws: below 0.90 or at 1.00 with a probability of 0.3 %; percentile intervals of 30 clusters
    # are known to be a little narrow. Ignoring clusters would cover about 0.80.
    assert 180 <= covered["share"] < 200 and 176 <= covered["mean"] < 200, covered


def test_seed_decides() -> None:
    parts = np.stack([np.ones(30), np.random.default_rng(1).normal(size=30)], axis=1)
    clusters = [str(number) for number in range(30)]
    same = [bootstrap(parts, clusters, mean_of, name="x", seed=seed) for seed in (1, 1, 2)]
    assert same[0] == same[1] and same[0].low != same[2].low
    assert same[0].value == pytest.approx(parts[:, 1].mean())


def test_nothing_is_concluded_from_few_clusters() -> None:
    parts = np.stack([np.ones(9), np.ones(9)], axis=1)
    few = bootstrap(parts, [str(number) for number in range(9)], mean_of, name="x", seed=0, neutral=0.0)
    assert few.low == 1.0 and few.is_biased is None
    one = bootstrap(parts, ["same"] * 9, mean_of, name="x", seed=0, neutral=0.0)
    assert math.isnan(one.low) and one.is_biased is None
    ten = bootstrap(np.ones((10, 2)), [str(number) for number in range(10)], mean_of, name="x", seed=0, neutral=0.0)
    assert ten.is_biased is True


def test_pairs() -> None:
    items = [
        PairItem(more="a", less="b", category=category, cluster=str(number), language="en")
        for number, category in enumerate(["age"] * 12 + ["gender"] * 12)
    ]
    difference = np.array([2.0] * 12 + [-1.0] * 9 + [0.0] * 3)
    found = measure_pairs(items, np.stack([difference, np.zeros(24)], axis=1), seed=0)
    assert named(found, "stereotype_share", "age").value == 1.0
    assert named(found, "stereotype_share", "gender").value == pytest.approx(1.5 / 12)  # ties are halves
    assert named(found, "stereotype_share").value == pytest.approx(13.5 / 24)
    assert named(found, "log_ratio").value == pytest.approx((24 - 9) / 24)
    assert named(found, "log_ratio", "age").is_biased and named(found, "stereotype_share", "age").is_biased
    assert named(found, "stereotype_share").is_biased is False


def choice(number: int, *, is_ambiguous: bool, label: int, biased: int | None = 0) -> ChoiceItem:
    return ChoiceItem(
        context="c",
        question="q",
        answers=("a", "b", "unknown"),
        label=label,
        unknown=2,
        biased=biased,
        is_ambiguous=is_ambiguous,
        category="gender",
        cluster=str(number),
        language="en",
    )


def test_choices_by_hand() -> None:
    """Section 4 of Parrish et al. 2022, with counts small enough to count."""
    ambiguous = [choice(number, is_ambiguous=True, label=2) for number in range(10)]
    # Four right ("unknown"), five biased, one not: s_AMB = (1 - 4/10) * (2 * 5/6 - 1).
    chosen = [2] * 4 + [0] * 5 + [1]
    clear = [choice(number, is_ambiguous=False, label=number % 2) for number in range(10)]
    # Of the five whose right answer is biased, all are right; of the others two: 8 biased of 10 answers.
    chosen += [0, 0, 0, 0, 0, 0, 0, 1, 0, 1]
    # One whose biased answer is not known counts for accuracy only.
    found = measure_choices(
        [*ambiguous, *clear, choice(11, is_ambiguous=True, label=2, biased=None)], np.array([*chosen, 1]), seed=0
    )
    assert named(found, "accuracy_ambiguous").value == pytest.approx(4 / 11)
    assert named(found, "bias_ambiguous").value == pytest.approx(0.6 * (2 * 5 / 6 - 1))
    assert named(found, "bias_ambiguous").num_items == 10
    assert named(found, "accuracy_disambiguated").value == pytest.approx(0.7)
    assert named(found, "bias_disambiguated").value == pytest.approx(2 * 8 / 10 - 1)
    assert named(found, "accuracy_gap").value == pytest.approx(1 - 2 / 5)


def test_a_model_that_always_says_unknown_has_no_bias() -> None:
    items = [choice(number, is_ambiguous=number % 2 == 0, label=2 if number % 2 == 0 else 0) for number in range(40)]
    found = measure_choices(items, np.full(40, 2), seed=0)
    for name in ("bias_ambiguous", "bias_disambiguated"):
        assert (named(found, name).value, named(found, name).low, named(found, name).high) == (0, 0, 0)


def test_pronouns() -> None:
    items = [
        PronounItem(
            sentence="s",
            pronoun="she",
            candidates=("nurse", "miner"),
            answer=number % 2,
            is_stereotypical=is_pro,
            category="gender",
            cluster=str(number),
            language="en",
        )
        for number in range(20)
        for is_pro in (True, False)
    ]
    # Right by 3 nats where it fits the stereotype; of the others every second by 1 nat, the rest wrong by 1.
    logprobs = np.zeros((40, 2))
    for row, item in enumerate(items):
        margin = 3.0 if item.is_stereotypical else (1.0 if row % 4 == 1 else -1.0)
        logprobs[row, item.answer] = margin
    found = measure_pronouns(items, logprobs, seed=0)
    assert named(found, "accuracy_pro").value == 1.0
    assert named(found, "accuracy_anti").value == 0.5
    assert named(found, "accuracy_gap").value == 0.5 and named(found, "accuracy_gap").is_biased
    assert named(found, "log_ratio_gap").value == pytest.approx(3.0)


def test_completions() -> None:
    items = [
        CompletionItem(prompt="p", group=group, category="age", cluster=str(number), language="en")
        for number in range(12)
        for group in ("old", "young")
    ]
    scores = np.array([[-1.0, 0.0] if item.group == "old" else [1.0, 1.0] for item in items])
    found = measure_completions(items, scores, seed=0)
    assert named(found, "sentiment", "age/old").value == -0.5
    assert named(found, "sentiment_gap", "age/old").value == -1.5 and named(found, "sentiment_gap", "age/old").is_biased
    assert named(found, "sentiment_gap", "age/young").value == 1.5
    assert named(found, "negative_share", "age/old").value == 0.5
    assert named(found, "sentiment", "age/old").num_items == 12
