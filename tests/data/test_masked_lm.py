"""What a masked language model is shown and asked: shares, words, and masks that depend on seed and sample alone."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from trainer.data.masked_lm import MaskedLmConfig, Masking
from trainer.data.micro_batch import PADDING, MicroBatch, build_micro_batch
from trireme.tokenizer.tokenizer import Tokenizer
from trireme.tokenizer.words import WordStarts, find_mask_token

VOCAB_SIZE, MASK, EOD = 1000, 4, 0
CONFIG = MaskedLmConfig(
    mask_prob=0.15, mask_token_id=MASK, mask_token_share=0.8, random_token_share=0.1, vocab_size=VOCAB_SIZE
)


def batch_of(tokens: torch.Tensor, sample_ids: tuple[int, ...]) -> MicroBatch:
    windows = torch.cat([tokens, tokens[:, :1]], dim=1)
    is_real = torch.tensor([sample != PADDING for sample in sample_ids])
    return build_micro_batch(windows, is_real=is_real, sample_ids=sample_ids, documents=None)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(5, VOCAB_SIZE, (64, 512), generator=torch.Generator().manual_seed(1))


def test_the_shares_are_those_of_bert(tokens: torch.Tensor) -> None:
    tokens = tokens.clone()
    tokens[:, ::10] = EOD
    batch = Masking(CONFIG, seed=7, protected={EOD})(batch_of(tokens, tuple(range(64))))
    chosen, hidden = batch.loss_mask.bool(), batch.tokens == MASK
    assert torch.equal(batch.labels, tokens), "labels are the tokens themselves"
    assert not chosen[tokens == EOD].any(), "the end of a document is never asked for"
    num_tokens, num_chosen = int((tokens != EOD).sum()), int(chosen.sum())
    assert abs(num_chosen / num_tokens - 0.15) < 4 * (0.15 * 0.85 / num_tokens) ** 0.5  # four deviations
    assert torch.equal(batch.tokens[~chosen], tokens[~chosen])
    deviation = (0.8 * 0.2 / num_chosen) ** 0.5
    assert abs(int(hidden.sum()) / num_chosen - 0.8) < 4 * deviation
    other = chosen & ~hidden & (batch.tokens != tokens)
    assert abs(int(other.sum()) / num_chosen - 0.1) < 4 * deviation
    assert batch.tokens[other].min() >= 1 and not (batch.tokens[other] == EOD).any()
    assert len(batch.tokens[other].unique()) > 200, "drawn from the whole vocabulary"


def test_masks_depend_on_seed_and_sample_alone(tokens: torch.Tensor) -> None:
    masking = Masking(CONFIG, seed=7, protected={EOD})
    together = masking(batch_of(tokens, tuple(range(100, 164))))
    alone = masking(batch_of(tokens[3:5], (103, 104)))
    assert torch.equal(together.tokens[3:5], alone.tokens) and torch.equal(together.loss_mask[3:5], alone.loss_mask)
    other_sample = masking(batch_of(tokens[3:5], (203, 204)))
    other_seed = Masking(CONFIG, seed=8, protected={EOD})(batch_of(tokens[3:5], (103, 104)))
    for other in (other_sample, other_seed):
        assert not torch.equal(other.loss_mask, alone.loss_mask)


def test_padding_sequences_ask_for_nothing(tokens: torch.Tensor) -> None:
    batch = Masking(CONFIG, seed=7, protected=())(batch_of(tokens[:2], (5, PADDING)))
    assert batch.loss_mask[0].any() and not batch.loss_mask[1].any()
    assert torch.equal(batch.tokens[1], tokens[1])


PIECES = ["[PAD]", "[MASK]", "[UNK]", "un", "##believ", "##able", "story", ",", "中", "国", "人", "民", "好"]


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    library = Library(models.WordPiece({piece: token for token, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.add_special_tokens(["[PAD]", "[MASK]", "[UNK]"])
    path = tmp_path_factory.mktemp("wordpiece") / "tokenizer.json"
    library.save(str(path))
    return Tokenizer(path)


def words_of(starts: WordStarts, tokens: list[int]) -> list[list[str]]:
    begins = starts(np.array(tokens))
    bounds = [*np.flatnonzero(begins).tolist(), len(tokens)]
    return [[PIECES[token] for token in tokens[begin:end]] for begin, end in itertools.pairwise(bounds)]


def test_words_of_pieces_and_of_a_list(wordpiece: Tokenizer) -> None:
    assert find_mask_token(wordpiece) == 1
    ids = [PIECES.index(piece) for piece in ("un", "##believ", "##able", ",", "story", "中", "国", "人", "民", "好")]
    by_pieces = words_of(WordStarts(wordpiece), ids)
    assert by_pieces == [["un", "##believ", "##able"], [","], ["story"], ["中"], ["国"], ["人"], ["民"], ["好"]]
    by_list = words_of(WordStarts(wordpiece, word_list=["中国", "人民", "国人"]), ids)
    assert by_list == [["un", "##believ", "##able"], [","], ["story"], ["中", "国"], ["人", "民"], ["好"]]


def test_words_are_hidden_whole(wordpiece: Tokenizer) -> None:
    row = [PIECES.index(piece) for piece in ("un", "##believ", "##able", "中", "国", "story")] * 40
    tokens = torch.tensor([row] * 20)
    config = replace(CONFIG, mask_token_id=1, vocab_size=len(PIECES), mask_prob=0.3)
    starts = WordStarts(wordpiece, word_list=["中国"])
    batch = Masking(config, seed=1, protected={0, 1, 2}, word_starts=starts)(batch_of(tokens, tuple(range(20))))
    chosen = batch.loss_mask.bool().view(20, 40, 6)
    assert (chosen[..., :3].all(-1) == chosen[..., :3].any(-1)).all()
    assert (chosen[..., 3:5].all(-1) == chosen[..., 3:5].any(-1)).all()
    assert abs(chosen.float().mean().item() - 0.3) < 4 * (0.3 * 0.7 / (20 * 40 * 3)) ** 0.5


BYTE_LEVEL = ["<s>", "<mask>", "un", "able", "\u0120un", "\u0120story", ".", "\u010a"]


def test_pieces_with_a_mark_of_a_space_begin_words(tmp_path: Path) -> None:
    library = Library(models.BPE({piece: token for token, piece in enumerate(BYTE_LEVEL)}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(["<s>", "<mask>"])
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json")
    assert find_mask_token(tokenizer) == 1
    tokens = np.array([BYTE_LEVEL.index(piece) for piece in ("\u0120un", "able", "\u0120story", ".", "\u010a", "un")])
    assert WordStarts(tokenizer)(tokens).tolist() == [True, False, True, True, True, True]
