"""`trainer.generate` of a real run: what users type, and how it ends."""

import io
import math
import os
import shutil
import signal
from pathlib import Path

import pytest
import sentencepiece

from data_tools.tokenizer.convert import convert_tokenizer
from tests.train import small_run
from tests.train.commands import REPOSITORY, SMALL
from tests.train.small_run import LETTERS, VOCAB_SIZE, change_weights, run_command, start_cold
from trainer.saved_run import has_tokens_of
from trireme.tokenizer.tokenizer import Tokenizer

LENGTH = 32
"""Tokens of the model's window."""


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.train(tmp_path_factory.mktemp("trained"))


def generate(*arguments: str | Path, cwd: Path = REPOSITORY, **variables: str) -> tuple[str, str]:
    done = run_command("trainer.generate", *map(str, arguments), cwd=cwd, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def refuse(*arguments: str | Path, cwd: Path = REPOSITORY) -> str:
    done = run_command("trainer.generate", *map(str, arguments), cwd=cwd)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def test_a_copy_writes_the_same_text_anywhere(run_directory: Path, tmp_path: Path) -> None:
    arguments = ("--prompt", "The ", "--max-new-tokens", "20")
    text, _ = generate(run_directory, *arguments)
    assert text.startswith("The ")
    assert generate(os.path.relpath(run_directory, tmp_path), *arguments, cwd=tmp_path)[0] == text
    # As on another machine: neither the data nor the tokenizer's own file are there; and `auto` is a directory.
    shutil.copytree(run_directory, tmp_path / "auto")
    tokenizer = run_directory.parents[1] / "data" / "tokenizer.json"
    hidden = tokenizer.rename(tokenizer.with_suffix(".away"))
    try:
        assert generate("auto", *arguments, cwd=tmp_path)[0] == text
    finally:
        hidden.rename(tokenizer)


@pytest.mark.parametrize(
    "letters", [LETTERS + "0123456789", LETTERS[:20], LETTERS[::-1]], ids=["more", "less", "other"]
)
def test_another_tokenizer_is_refused(run_directory: Path, tmp_path: Path, letters: str) -> None:
    other = small_run.write_tokenizer(tmp_path / "tokenizer.json", letters=letters)
    message = refuse(run_directory, "--tokenizer", other)
    assert f"(got {other})" in message
    assert "differs from the tokenizer of" in message
    assert "sha256" in message
    if len(letters) != len(LETTERS):
        assert str(2 + len(letters)) in message
        assert str(VOCAB_SIZE) in message


def test_the_same_tokens_in_another_file_are_the_same_tokenizer(run_directory: Path, tmp_path: Path) -> None:
    path = small_run.write_tokenizer(tmp_path / "tokenizer.json")
    path.write_text(path.read_text() + "\n")
    arguments = ("--prompt", "The ", "--max-new-tokens", "8")
    assert generate(run_directory, *arguments, "--tokenizer", path) == generate(run_directory, *arguments)


def test_a_converted_sentencepiece_model_is_the_same_tokenizer(tmp_path: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(f"The ship {number} sails" for number in range(200)), model_writer=model, vocab_size=300,
        model_type="bpe", byte_fallback=True, hard_vocab_limit=False, minloglevel=2, num_threads=1,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    convert_tokenizer(model.getvalue()).tokenizer.save(str(tmp_path / "tokenizer.json"))
    converted = Tokenizer(tmp_path / "tokenizer.json")
    assert has_tokens_of(converted, tmp_path / "tokenizer.model")
    assert not has_tokens_of(converted, small_run.write_tokenizer(tmp_path / "other" / "tokenizer.json"))


def test_a_checkpoint_that_knows_no_tokenizer_compares_sizes(tmp_path: Path) -> None:
    folder = tmp_path / "ids"
    small_run.train(folder)
    done = run_command(
        "trainer.train",
        *(line.replace("vocab_size=64", "vocab_size=60") for line in SMALL),
        "data.train=[{paths:[data/train]}]",
        "run_name=ids",
        "training.train_iters=1",
        "lr_schedule.warmup_steps=1",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    run = folder / "outputs" / "ids"
    assert "--tokenizer: must be set" in refuse(run)
    assert generate(run, "--tokenizer", folder / "data" / "tokenizer.json", "--max-new-tokens", "4")
    larger = small_run.write_tokenizer(tmp_path / "larger.json", letters=LETTERS + "0123456789")
    message = refuse(run, "--tokenizer", larger)
    assert f"it has {VOCAB_SIZE + 10} tokens (sha256 " in message
    assert "the model has 60" in message


def test_weights_that_are_not_finite_are_named(run_directory: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(run_directory, damaged)
    change_weights(damaged, "decoder.final_layernorm.weight", math.nan)
    message = refuse(damaged)
    assert "the checkpoint's weights contain NaN in tensor decoder.final_layernorm.weight" in message


def test_a_prompt_longer_than_the_window_is_reported(run_directory: Path) -> None:
    prompt = "abcdefgh" * 5
    text, errors = generate(run_directory, "--prompt", prompt, "--max-new-tokens", "3")
    assert text.startswith(prompt)
    # The mark before the document counts.
    assert (
        f"has {len(prompt) + 1} tokens, but the model's context is {LENGTH}: dropping the first"
        f" {len(prompt) + 1 - LENGTH} tokens" in errors
    )
    assert "dropping" not in generate(run_directory, "--prompt", prompt[: LENGTH - 1], "--max-new-tokens", "3")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--seed", str(2**64)), f"--seed: must be between 0 and {2**64 - 1} (got {2**64})"),
        (("--seed", str(2**64 - 1), "--num-samples", "2"), f"--seed: must be between 0 and {2**64 - 2}"),
        (("--seed", "-1"), "(got -1)"),
        (("--prompt", "a\udcffb"), r"--prompt: must be valid UTF-8 (got 'a\udcffb')"),
    ],
)
def test_arguments_that_cannot_be_used(run_directory: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in refuse(run_directory, *arguments)


def test_extreme_arguments_that_can(run_directory: Path) -> None:
    most = str(2**64 - 1)
    sampling = ("--temperature", "1e-45", "--top-p", "1e-46", "--top-k", str(10**30))
    text, _ = generate(run_directory, "--seed", most, *sampling, "--max-new-tokens", "6")
    assert text == generate(run_directory, "--temperature", "0", "--max-new-tokens", "6")[0]


def test_a_closed_pipe_ends_the_command_quietly(run_directory: Path) -> None:
    process = start_cold("trainer.generate", str(run_directory), "--max-new-tokens", str(10**9), cwd=REPOSITORY)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(5)
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait(timeout=60) == 128 + signal.SIGPIPE
    assert errors.count("\n") == 1, errors  # which checkpoint it is


def test_ctrl_c_keeps_the_text_and_shows_no_traceback(run_directory: Path) -> None:
    process = start_cold("trainer.generate", str(run_directory), "--max-new-tokens", str(10**9), cwd=REPOSITORY)
    assert process.stdout is not None
    first = process.stdout.read(5)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert len(first) == 5
    assert rest.endswith(b"\n")
    assert b"Traceback" not in errors


def test_a_directory_that_is_no_run_is_reported(tmp_path: Path) -> None:
    assert "PATH: does not exist (got auto)" in refuse("auto", cwd=tmp_path)
