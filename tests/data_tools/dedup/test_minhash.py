"""Band keys: equal for equal sets, and shared as often as the S-curve says."""

import numpy as np
import pytest

from data_tools.config.filtering import NearDuplicatesConfig
from data_tools.dedup.minhash import CHUNK_NGRAMS, MinHasher, compute_candidate_probability

HASHER = MinHasher(NearDuplicatesConfig())


def test_keys_depend_on_the_words_alone() -> None:
    text = "one two three four five six seven eight nine ten. " * 300
    keys = HASHER.compute_keys(text)
    assert (keys == HASHER.compute_keys(text.upper().replace(" ", ",\n"))).all()
    assert len(set(keys.tolist())) == 14
    assert not (keys == HASHER.compute_keys(text.replace("five", "5"))).any()
    assert (keys == MinHasher(NearDuplicatesConfig()).compute_keys(text)).all()


def test_texts_that_are_shorter_than_an_ngram_are_told_apart() -> None:
    texts = ["", "a", "b", "a b", "!!!", "???", "!!!!"]
    keys = np.array([HASHER.compute_keys(text) for text in texts])
    for column in keys.T:
        assert len(set(column.tolist())) == len(texts)


def test_a_signature_is_the_minimum_over_all_chunks() -> None:
    ngrams = np.random.Generator(np.random.PCG64(1)).integers(0, 2**64, 3 * CHUNK_NGRAMS + 7, np.uint64)
    whole = HASHER.compute_signature(ngrams)
    parts = [HASHER.compute_signature(part) for part in np.array_split(ngrams, 11)]
    assert (whole == np.min(parts, axis=0)).all()
    assert (whole == HASHER.compute_signature(np.concatenate([ngrams[::-1], ngrams]))).all()


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.8, 0.95])
def test_pairs_share_a_key_as_often_as_the_curve_says(similarity: float) -> None:
    source = np.random.Generator(np.random.PCG64(7))
    num_pairs, size = 400, 200
    shared = round(2 * size * similarity / (1 + similarity))
    exact = shared / (2 * size - shared)
    found = 0
    for _ in range(num_pairs):
        ngrams = source.integers(0, 2**64, 2 * size - shared, np.uint64)
        bands = [HASHER.compute_signature(part).reshape(14, 8) for part in (ngrams[:size], ngrams[size - shared :])]
        found += (bands[0] == bands[1]).all(axis=1).any()
    expected = compute_candidate_probability(exact, num_bands=14, num_rows=8)
    # Four standard errors and the one pair that counting in whole pairs may be off.
    tolerance = 4 * (expected * (1 - expected) / num_pairs) ** 0.5 + 1 / num_pairs
    assert found / num_pairs == pytest.approx(expected, abs=tolerance)


def test_the_curve() -> None:
    assert compute_candidate_probability(1.0, num_bands=14, num_rows=8) == 1.0
    assert compute_candidate_probability(0.0, num_bands=14, num_rows=8) == 0.0
    assert compute_candidate_probability(0.8, num_bands=14, num_rows=8) == pytest.approx(0.9235, abs=1e-4)
