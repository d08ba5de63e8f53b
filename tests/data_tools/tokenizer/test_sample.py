"""The sample of a tokenizer: languages in the shares that the exponent says, documents at random."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.tokenizer.sample import choose_sample, share_out


def make_documents(*counts: int, mean_characters: int = 100) -> dict[str, np.ndarray]:
    """Documents of several languages, so many of each, mixed."""
    source = np.random.default_rng(1)
    codes = source.permutation(np.repeat(np.arange(len(counts)), counts))
    return {
        "is_train": np.ones(len(codes), np.bool_),
        "num_characters": source.integers(1, 2 * mean_characters, len(codes)),
        "hashes": source.integers(0, 256, (len(codes), 16), dtype=np.uint8),
        "language_codes": codes,
    }


def count_characters(documents: dict[str, np.ndarray], chosen: np.ndarray) -> np.ndarray:
    weights = np.where(chosen, documents["num_characters"], 0)
    return np.bincount(documents["language_codes"], weights=weights).astype(np.int64)


@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.3, 0.0])
def test_shares_follow_the_exponent(exponent: float) -> None:
    documents = make_documents(90_000, 9_000, 1_000)
    chosen = choose_sample(**documents, sample_characters=100_000, exponent=exponent)
    characters = count_characters(documents, chosen)
    weights = np.array([0.9, 0.09, 0.01]) ** exponent
    assert characters / characters.sum() == pytest.approx(weights / weights.sum(), abs=0.01)
    assert 99_000 < characters.sum() <= 100_000


def test_what_a_small_language_cannot_fill_goes_to_the_others() -> None:
    documents = make_documents(5_000, 4_000, 10)
    chosen = choose_sample(**documents, sample_characters=60_000, exponent=0.0)
    characters = count_characters(documents, chosen)
    everything = count_characters(documents, documents["is_train"])
    assert characters[2] == everything[2], "the smallest language is taken whole"
    rest = (60_000 - everything[2]) / 2
    assert characters[:2] == pytest.approx([rest, rest], abs=200)


def test_a_language_of_few_long_documents_is_not_left_out() -> None:
    documents = make_documents(2_000, 2)
    documents["num_characters"][documents["language_codes"] == 1] = 60_000
    chosen = choose_sample(**documents, sample_characters=100_000, exponent=0.0)
    assert count_characters(documents, chosen)[1] == 0, "50,000 of the other language leave no room for it"
    documents["num_characters"][documents["language_codes"] == 1] = 49_900
    chosen = choose_sample(**documents, sample_characters=100_000, exponent=0.0)
    assert count_characters(documents, chosen)[1] == 49_900


def test_documents_are_chosen_by_their_hashes() -> None:
    documents = make_documents(3_000, 300)
    chosen = choose_sample(**documents, sample_characters=50_000, exponent=0.3)
    order = np.random.default_rng(2).permutation(len(chosen))
    mixed = {name: values[order] for name, values in documents.items()}
    assert np.array_equal(choose_sample(**mixed, sample_characters=50_000, exponent=0.3), chosen[order])
    # Another name of a language changes nothing.
    renamed = {**documents, "language_codes": 7 - documents["language_codes"]}
    assert np.array_equal(choose_sample(**renamed, sample_characters=50_000, exponent=0.3), chosen)


@given(data=st.data(), exponent=st.sampled_from([0.0, 0.3, 0.7, 1.0]), sample_characters=st.integers(1, 3000))
def test_any_documents(data: st.DataObject, exponent: float, sample_characters: int) -> None:
    count = data.draw(st.integers(0, 30))
    integers = st.integers(0, 500)
    documents = {
        "is_train": np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), np.bool_),
        "num_characters": np.array(data.draw(st.lists(integers, min_size=count, max_size=count)), np.int64),
        "hashes": np.random.default_rng(count).integers(0, 256, (count, 16), dtype=np.uint8),
        "language_codes": np.array(data.draw(st.lists(st.integers(-1, 3), min_size=count, max_size=count)), np.int16),
    }
    chosen = choose_sample(**documents, sample_characters=sample_characters, exponent=exponent)
    is_train, characters = documents["is_train"], documents["num_characters"]
    assert not (chosen & ~is_train).any()
    assert chosen.any() == is_train.any()
    if characters[is_train].sum() <= sample_characters:
        assert np.array_equal(chosen, is_train)
    assert characters[chosen].sum() <= sample_characters or chosen.sum() == 1


@given(
    available=st.lists(st.integers(0, 10**12), min_size=1, max_size=20),
    share=st.floats(0, 0.999),
    exponent=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_an_amount_is_shared_out_whole(available: list[int], share: float, exponent: float) -> None:
    total = int(sum(available) * share)
    shares = share_out(np.array(available, np.int64), total=total, exponent=exponent)
    assert (shares >= 0).all() and (shares <= available).all()
    assert total - len(available) - 1e-6 * total <= shares.sum() <= total
