"""Which tokenizer a checkpoint's token ids are of, wherever the run lies, and whether another one may be used."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.checkpoint.fragments import MODEL, PADDED_VOCAB_SIZE, state_of
from tests.trireme.tokenizer.test_tokenizer import train_byte_level, train_sentencepiece
from trainer.checkpoint.compatibility import check_resume
from trainer.checkpoint.directory import begin, commit
from trainer.checkpoint.manifest import write_durably
from trainer.checkpoint.tokenizer import check_tokenizer, check_vocab_size, copy_tokenizer, find_tokenizer
from trainer.checkpoint.trainer_state import STATE_NAME, TokenizerRecord, TrainerState, read_state, write_state
from trainer.config.load import dump_config
from trainer.config.run import TokenizerConfig
from trainer.config.schema import TrainConfig
from trireme.errors import Violation
from trireme.tokenizer.tokenizer import Tokenizer

MODEL_400 = replace(MODEL, vocab_size=None)
PADDED = 512


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tokenizers of one size, in `bpe` and `unigram`, and a tokenizer.json in `json`."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for name in ("bpe", "unigram", "json"):
        (folder / name).mkdir()
        if name == "json":
            train_byte_level(folder / name)
        else:
            train_sentencepiece(folder / name, name)
    return folder


def save(run: Path, tokenizer: Tokenizer | None, *, step: int = 10, vocab_size: int | None = None) -> Path:
    """A checkpoint without tensors, with the tokenizer's copy."""
    temporary = begin(run, step=step)
    copy = copy_tokenizer(tokenizer) if tokenizer is not None else None
    state = replace(
        state_of(step, model=replace(MODEL, vocab_size=vocab_size), padded_vocab_size=PADDED),
        tokenizer=copy.record if copy is not None else None,
    )
    files = {name: write_durably(temporary / name, content) for name, content in (copy.files if copy else {}).items()}
    files[STATE_NAME] = write_state(temporary, state)
    return commit(temporary, step=step, files=files)


def check(run: Path, path: Path, *, vocab_size: int, resume: str = "auto") -> list[Violation]:
    return check_resume(
        resume,
        run_directory=run,
        model=MODEL_400,
        padded_vocab_size=PADDED,
        seed=1234,
        tokenizer=Tokenizer(path),
        vocab_size=vocab_size,
    )


def test_a_checkpoint_is_opened_with_its_own_copy_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "bpe", tmp_path / "made")
    tokenizer = Tokenizer(tmp_path / "made" / "tokenizer.model")
    checkpoint = save(tmp_path / "run", tokenizer)
    shutil.rmtree(tmp_path / "made")
    moved = Path(shutil.move(tmp_path / "run", tmp_path / "elsewhere")) / "checkpoints" / checkpoint.name
    assert find_tokenizer(moved) == moved / "tokenizer.model"
    assert read_state(moved).tokenizer == TokenizerRecord(
        sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size, file="tokenizer.model"
    )
    assert Tokenizer(moved / "tokenizer.model").encode("The galley") == tokenizer.encode("The galley")


def test_what_says_beside_a_tokenizer_json_how_documents_end_is_copied_with_it(folder: Path, tmp_path: Path) -> None:
    made = Path(shutil.copytree(folder / "json", tmp_path / "made"))
    (made / "tokenizer_config.json").write_text('{"eos_token": "<|user|>"}')
    tokenizer = Tokenizer(made / "tokenizer.json")
    checkpoint = save(tmp_path / "run", tokenizer)
    own = find_tokenizer(checkpoint)
    assert own == checkpoint / "tokenizer.json"
    assert Tokenizer(own).eos_id == tokenizer.eos_id == tokenizer.token_id("<|user|>")


def test_an_older_checkpoint_is_opened_with_the_tokenizer_that_its_run_names(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    checkpoint = save(run, None)
    assert find_tokenizer(checkpoint) is None

    def name(path: str | None) -> None:
        config = TrainConfig(model=MODEL, tokenizer=TokenizerConfig(path=path))
        (run / "config.yaml").write_text(dump_config(config))

    name(None)
    assert find_tokenizer(checkpoint) is None
    name(str(folder / "bpe" / "tokenizer.model"))
    assert find_tokenizer(checkpoint) == folder / "bpe" / "tokenizer.model"
    name("bpe/tokenizer.model")
    assert find_tokenizer(checkpoint) is None
    monkeypatch.chdir(folder)
    assert find_tokenizer(checkpoint) == Path("bpe/tokenizer.model")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "bpe", run / "bpe")
    assert find_tokenizer(checkpoint) == run / "bpe" / "tokenizer.model"
    # Another one is refused as well.
    (problem,) = check(run, folder / "unigram" / "tokenizer.model", vocab_size=400)
    assert f"Use {run}/bpe/tokenizer.model" in problem.fix


def test_another_tokenizer_of_the_same_size_is_refused_and_a_fork_may_have_it(folder: Path, tmp_path: Path) -> None:
    first, second = (Tokenizer(folder / name / "tokenizer.model") for name in ("bpe", "unigram"))
    checkpoint = save(tmp_path / "run", first)
    assert check(tmp_path / "run", first.path, vocab_size=first.vocab_size) == []
    (problem,) = check(tmp_path / "run", second.path, vocab_size=second.vocab_size)
    assert (problem.path, problem.value) == ("tokenizer.path", str(second.path))
    assert "differs from the tokenizer of" in problem.message
    assert problem.fix.startswith(f"Use {checkpoint}/tokenizer.model (sha256 {first.sha256[:12]}...), or fork the run")
    assert check(tmp_path / "fork", second.path, vocab_size=second.vocab_size, resume=str(tmp_path / "run")) == []


def test_another_vocabulary_size_is_refused_although_the_padded_one_fits(folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(folder / "bpe" / "tokenizer.model")
    checkpoint = save(tmp_path / "run", tokenizer)
    (problem,) = check(tmp_path / "run", tokenizer.path, vocab_size=tokenizer.vocab_size + 1)
    theirs = tokenizer.vocab_size
    assert str(problem) == (
        f"model.vocab_size: differs from the checkpoint's {theirs} tokens ({checkpoint}) (got {theirs + 1})."
        f" Use {theirs}, or fork the run to change it: set another run_name and resume=RUN."
    )


def test_what_is_not_known_is_not_compared(folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(folder / "bpe" / "tokenizer.model")
    unknown: TrainerState = state_of(10, model=MODEL_400)
    checkpoint = save(tmp_path, None)
    assert check_tokenizer(tokenizer, state=unknown, checkpoint=checkpoint) == []
    assert check_vocab_size(7, state=unknown, checkpoint=checkpoint) == []
    assert len(check_vocab_size(7, state=state_of(10), checkpoint=checkpoint)) == 1
    assert check_vocab_size(PADDED_VOCAB_SIZE, state=state_of(10), checkpoint=checkpoint) == []
