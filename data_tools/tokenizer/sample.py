"""Sample training documents for the tokenizer: as many characters of each language as its share."""

import numpy as np


def choose_sample(
    is_train: np.ndarray,
    num_characters: np.ndarray,
    hashes: np.ndarray,
    language_codes: np.ndarray,
    *,
    sample_characters: int,
    exponent: float,
) -> np.ndarray:
    """Choose whole training documents of at most so many characters, all when they fit; by their hashes, so at random.

    A language with n characters of training documents gets a share in proportion to n ** exponent of the sample. What a
    language cannot fill goes to the others in the same proportions. With exponent 1 no languages are looked at.

    Args:
        is_train: [n] bool: the documents that may be chosen.
        num_characters: [n] characters of each.
        hashes: [n, 16] uint8: BLAKE2b-128 of each text.
        language_codes: [n] integers, equal where languages are.
        exponent: 0 gives each language the same, 1 takes them as they are.
    Returns:
        [n] bool; at least one document where there is any. Of the documents of a language those with the smallest
        hashes, so that another document moves the choice little.
    Source: Conneau et al., Unsupervised Cross-lingual Representation Learning at Scale (XLM-R),
        https://arxiv.org/abs/1911.02116, and Xue et al., mT5, https://arxiv.org/abs/2010.11934, both with 0.3.
    """
    characters = num_characters.astype(np.int64)
    if characters[is_train].sum() <= sample_characters:
        return is_train.copy()
    candidates = np.flatnonzero(is_train)
    # The last half of the hash: the order of the first half is the order of nothing else either, but keep them apart.
    keys = np.ascontiguousarray(hashes).view("<u8")[candidates, 1]
    candidates = candidates[np.argsort(keys, kind="stable")]
    if exponent == 1:
        languages = np.zeros(len(candidates), np.int64)
    else:
        _, languages = np.unique(language_codes[candidates], return_inverse=True)
    # Empty documents take no room: without characters a language has no share.
    available = np.bincount(languages, weights=characters[candidates]).astype(np.int64)
    quotas = share_out(available, total=sample_characters, exponent=exponent)
    chosen = np.zeros(len(is_train), np.bool_)
    waiting = []
    for language, quota in enumerate(quotas):
        own = candidates[languages == language]
        ends = np.cumsum(characters[own])
        count = int(np.searchsorted(ends, quota, side="right"))
        chosen[own[:count]] = True
        if count < len(own):
            used = int(ends[count - 1]) if count else 0
            waiting.append((quota - used, int(own[count])))
    if exponent != 1:
        # Where the next document overlaps the quota, it comes in while there is room, so that a language of few, long
        # documents is not left out.
        room = sample_characters - int(characters[chosen].sum())
        for _, document in sorted(waiting, key=lambda entry: -entry[0]):
            if characters[document] <= room:
                chosen[document] = True
                room -= int(characters[document])
    if not chosen.any():
        chosen[candidates[0]] = True
    return chosen


def share_out(available: np.ndarray, *, total: int, exponent: float) -> np.ndarray:
    """Share out an amount in proportion to powers of what is available, and never more than that.

    Args:
        available: [k] int64.
        total: less than the sum of `available`.
    Returns:
        [k] int64 whose sum is at most `total`, and less by at most one for each.
    """
    # Relative to the largest, so that no power overflows; 0 ** 0 would be 1.
    weights = np.where(available > 0, (available / max(1, available.max())) ** exponent, 0.0)
    shares = np.zeros(len(available), np.int64)
    is_open = available > 0
    rest = total
    while is_open.any():
        wanted = np.floor(rest * weights / weights[is_open].sum()).astype(np.int64)
        is_full = is_open & (available <= wanted)
        if not is_full.any():
            shares[is_open] = wanted[is_open]
            break
        # Each pass fills at least one, and leaves more for the others.
        shares[is_full] = available[is_full]
        rest -= int(available[is_full].sum())
        is_open &= ~is_full
    return shares
