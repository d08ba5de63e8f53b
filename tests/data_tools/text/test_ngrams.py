"""Hashed n-grams against plain Python, in every script."""

from hypothesis import given
from hypothesis import strategies as st

from data_tools.text.ngrams import hash_ngrams, hash_tokens


def count_ngrams(text: str, n: int) -> int:
    return len(set(hash_ngrams(hash_tokens(text).hashes, n=n).tolist()))


def test_words_are_cut_at_separators_and_case_makes_no_difference() -> None:
    one, other = hash_tokens("The quick-brown FOX, jumps; 42 x²"), hash_tokens("the Quick brown fox... jumps 42 x²")
    assert one.hashes.tolist() == other.hashes.tolist()
    assert len(one.hashes) == 7
    assert not one.is_unspaced
    assert len(hash_tokens("हिन्दी में लिखा").hashes) == 3, "vowel signs are parts of words"
    assert len(hash_tokens(" ,.!\n").hashes) == 0
    assert len(hash_tokens("").hashes) == 0


def test_scripts_without_spaces_are_cut_into_characters() -> None:
    for text in (
        "敏捷的狐狸跳过了懒狗。",
        "すばやいキツネがのろまなイヌを飛び越える。",
        "빠른 여우가 게으른 개를 넘는다",
        "สุนัขจิ้งจอก",
    ):
        tokens = hash_tokens(text)
        assert tokens.is_unspaced, text
        assert len(tokens.hashes) == sum(character not in " 。" for character in text)
    mixed = hash_tokens("用 Python3 写的")
    assert (len(mixed.hashes), mixed.num_characters) == (4, 3)
    assert hash_tokens("𠀀𠀁").num_characters == 2


@given(words=st.lists(st.sampled_from(["a", "ab", "ba", "aa", "b"]), max_size=30), n=st.integers(1, 6))
def test_ngrams_differ_exactly_where_the_words_differ(words: list[str], n: int) -> None:
    length = min(n, len(words))
    expected = {tuple(words[i : i + length]) for i in range(len(words) - length + 1)} if words else set()
    assert count_ngrams(" ".join(words), n) == len(expected)


def test_hashes_are_the_same_in_every_process() -> None:
    """Fixed values: keys of an evaluation's texts, and of documents, may be compared across runs."""
    tokens = hash_tokens("Hello 世界")
    assert [hex(value) for value in tokens.hashes.tolist()] == [
        "0xbd74a5ca4338835d",
        "0xcb764292470bcfa1",
        "0xecd5862482052431",
    ]
    assert hex(int(hash_ngrams(tokens.hashes, n=3)[0])) == "0xe5ac61dba99a79a3"
