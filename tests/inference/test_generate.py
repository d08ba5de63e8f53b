"""`trainer.generate` of a real run: what users type, and how it ends."""

import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece

from data_tools.tokenizer.convert import convert_tokenizer
from tests.train import small_run
from tests.train.commands import REPOSITORY, SMALL, environment
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


def lines_of(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_file_of_prompts_comes_back_in_order(run_directory: Path, tmp_path: Path) -> None:
    prompts = ["The ", "a", "ship sails", "b" * 20]
    path = tmp_path / "prompts.jsonl"
    records = [{"prompt": prompt, "id": number} for number, prompt in enumerate(prompts)]
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n\n")
    options = ("--max-new-tokens", "6", "--temperature", "0", "--max-batch-size", "2", "--logprobs")
    found = lines_of(generate(run_directory, "--input", str(path), *options)[0])
    assert [{"prompt": record["prompt"], "id": record["id"]} for record in found] == records
    for record in found:
        assert len(record["logprobs"]) == record["num_tokens"]  # type: ignore[arg-type]
        assert "".join(entry["token"] for entry in record["logprobs"]) == record["completion"]  # type: ignore[attr-defined]
        alone, _ = generate(
            run_directory, "--prompt", str(record["prompt"]), "--max-new-tokens", "6", "--temperature", "0"
        )
        assert alone == f"{record['prompt']}{record['completion']}\n"
    # Into a file, which appears whole; progress goes to stderr.
    output = tmp_path / "texts.jsonl"
    text, errors = generate(run_directory, "--input", path, "--output", output, "--num-samples", "2", *options)
    assert text == ""
    assert "Generate: 8/8 texts (100%)" in errors
    written = lines_of(output.read_text())
    assert [(record["id"], record["sample"]) for record in written] == [(n, s) for n in range(4) for s in range(2)]
    assert [record["completion"] for record in written[::2]] == [record["completion"] for record in found]
    assert f"--output: exists (got {output})" in refuse(run_directory, "--input", path, "--output", output)


def test_samples_of_one_prompt_have_consecutive_seeds(run_directory: Path) -> None:
    options = ("--prompt", "The ", "--max-new-tokens", "8")
    three, _ = generate(run_directory, *options, "--num-samples", "3", "--seed", "5")
    texts = [generate(run_directory, *options, "--seed", str(seed))[0] for seed in (5, 6, 7)]
    assert three == "".join(f"--- {number} of 3\n{text}" for number, text in enumerate(texts, start=1))
    assert len(set(texts)) == 3


def test_a_stop_string_ends_a_text(run_directory: Path) -> None:
    options = ("--prompt", "The ", "--max-new-tokens", "12", "--temperature", "0")
    text = generate(run_directory, *options)[0].removeprefix("The ").removesuffix("\n")
    stop = text[2:4]
    assert generate(run_directory, *options, "--stop", stop)[0] == f"The {text[: text.index(stop)]}\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is not JSON"),
        ("5", "must be a JSON object (got 5)"),
        ("{}", "must have either prompt or messages"),
        ('{"prompt": 5}', "must have a text as prompt"),
        ('{"messages": []}', "must have at least one message"),
        ('{"prompt": "\\ud800"}', "contains \\ud800, half of a character, in prompt"),
        ('{"messages": [{"role": "user", "content": "\\udfff"}]}', "in messages.0.content"),
        ('{"prompt": "a", "id": ["\\ud800"]}', "contains \\ud800, half of a character, in id.0"),
        ('{"prompt": "a", "\\ud800": 1}', "in the name of a key"),
        ("[" * 100_000, "is not JSON: maximum recursion depth exceeded"),
        ('{"messages": [{"role": "user"}]}', "must have messages with role and content"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "has no chat template: it continues text"),
        (json.dumps({"prompt": "a" * 40}), "has 41 tokens, but the model's context is 32"),
    ],
)
def test_prompts_that_cannot_be_used(run_directory: Path, tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"prompt": "a"}}\n{line}\n')
    message = refuse(run_directory, "--input", path)
    assert f"{path}, line 2: " in message
    assert said in message
    assert f"{path}, line 1: " not in message


def test_arguments_that_exclude_each_other(run_directory: Path, tmp_path: Path) -> None:
    message = refuse(
        run_directory, "--input", tmp_path / "none", "--prompt", "a", "--stop", "", "--tensor-model-parallel-size", "2"
    )
    assert f"--input: is not a file (got {tmp_path / 'none'})" in message
    assert "--prompt: cannot be combined with --input (got a)" in message
    assert "--stop: must not be empty" in message
    assert "must divide the number of processes, which is 1 (got 2, 1, 1)" in message
    assert "--output: is for prompts of a file" in refuse(run_directory, "--output", tmp_path / "x")


def test_a_layout_that_does_not_divide_the_model_is_refused(run_directory: Path) -> None:
    done = run_command(
        "trainer.generate",
        str(run_directory),
        *("--tensor-model-parallel-size", "3", "--pipeline-model-parallel-size", "5"),
        cwd=REPOSITORY,
        WORLD_SIZE="15",
    )
    assert done.returncode == 2, done.stderr
    assert (
        "--tensor-model-parallel-size: must divide the model's 4 attention heads (got 3). Use one of 1, 2, 4."
        in done.stderr
    )
    assert "--tensor-model-parallel-size: must divide the model's 2 key-value heads (got 3)." in done.stderr
    assert "--pipeline-model-parallel-size: must divide the model's 4 layers (got 5)." in done.stderr


def test_a_chat_model_takes_messages(chat_directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "abc"}]}\n{"prompt": "user abcassistant "}\n')
    options = ("--temperature", "0", "--max-new-tokens", "5", "--logprobs")
    chat, text = lines_of(generate(chat_directory, "--input", path, *options)[0])
    assert chat["completion"]
    # The template puts the end of a document in the middle, and none at the beginning.
    assert chat["logprobs"] != text["logprobs"]


def test_a_prompt_may_contain_line_ends_of_unicode(run_directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a", "note": "b\u2028c\x85d"}\n', encoding="utf-8")
    (line,) = generate(run_directory, "--input", path, "--max-new-tokens", "2")[0].strip("\n").split("\n")
    assert json.loads(line)["note"] == "b\u2028c\x85d"


def test_a_prompt_on_stdin_must_be_text(run_directory: Path) -> None:
    command = [sys.executable, "-m", "trainer.generate", str(run_directory), "--prompt", "-"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), input=b"\xff", capture_output=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--prompt: stdin must be UTF-8: " in done.stderr


def test_stdin(run_directory: Path) -> None:
    command = [sys.executable, "-m", "trainer.generate", str(run_directory), "--max-new-tokens", "5", "--prompt", "-"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment(), input="The ", capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == generate(run_directory, "--prompt", "The ", "--max-new-tokens", "5")[0]


@pytest.mark.long
@pytest.mark.parametrize(
    "layout", ["--tensor-model-parallel-size", "--pipeline-model-parallel-size", None], ids=["tp2", "pp2", "dp2"]
)
def test_two_processes_write_what_one_does(run_directory: Path, tmp_path: Path, layout: str | None) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": "abcde"[:count]}) + "\n" for count in (1, 3, 5)))
    options = [str(run_directory), "--input", str(path), "--temperature", "0", "--max-new-tokens", "8"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "trainer.generate", *options]
        + ([layout, "2"] if layout else []),
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == generate(*options)[0]
