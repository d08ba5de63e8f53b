"""A conversation in the terminal: what the model is asked, what commands do, and Ctrl-C."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.inference.serving import CONTEXT
from tests.train import small_run
from tests.train.commands import REPOSITORY, environment
from trainer.inference.loading import LoadedModel, load_model
from trainer.inference.options import ModelOptions
from trainer.inference.request import GenerationRequest
from trainer.inference.sampling import SamplingConfig
from trainer.inference.terminal_chat import HELP, TerminalChat
from trainer.parallel.world import stop_world

GREEDY = SamplingConfig(temperature=0.0)


@pytest.fixture
def model(chat_directory: Path) -> Iterator[LoadedModel]:
    yield load_model(ModelOptions(path=chat_directory, max_batch_size=1))
    stop_world()


class Talk:
    """A conversation whose output is kept."""

    def __init__(self, model: LoadedModel, **changes: Any) -> None:
        self.said: list[str] = []
        self.notes: list[str] = []
        options: dict[str, Any] = {"sampling": GREEDY, "seed": 1, "max_new_tokens": 8, "system": ""} | changes
        self.chat = TerminalChat(model, write=self.said.append, note=self.notes.append, **options)

    def say(self, text: str) -> str:
        """The answer to a message."""
        self.said.clear()
        assert self.chat.handle(text)
        return "".join(self.said)


def answer_to(model: LoadedModel, *messages: tuple[str, str], count: int = 8) -> str:
    assert model.chat_template is not None
    prompt = model.chat_template.encode([{"role": role, "content": content} for role, content in messages])
    request = GenerationRequest(prompt=tuple(prompt), max_new_tokens=count, sampling=GREEDY, stop_ids=model.stop_ids)
    return "".join(piece.text for piece in model.new_generator().run([request]))


def test_history_and_commands(model: LoadedModel, tmp_path: Path) -> None:
    talk = Talk(model)
    first = talk.say("abc")
    assert first == answer_to(model, ("user", "abc")) + "\n"
    second = talk.say("xyz")
    history = (("user", "abc"), ("assistant", first[:-1]), ("user", "xyz"))
    assert second == answer_to(model, *history) + "\n"
    path = tmp_path / "saved.jsonl"
    assert talk.say(f"/save {path}") == ""
    expected = [*history, ("assistant", second[:-1])]
    assert json.loads(path.read_text()) == {
        "messages": [{"role": role, "content": content} for role, content in expected]
    }
    talk.say(f"/save {path}")
    assert talk.notes[-1] == f"{path} exists. Give another name."
    talk.say("/reset")
    assert talk.say("xyz") == answer_to(model, ("user", "xyz")) + "\n"
    talk.say("/system be brief")
    assert talk.say("abc") == answer_to(model, ("system", "be brief"), ("user", "abc")) + "\n"
    talk.say("/system")
    assert talk.notes[-1] == "System message: be brief"
    talk.say("/what")
    assert talk.notes[-1] == "/what is not a command. /help shows them."
    talk.say("/help")
    assert talk.notes[-1] == HELP
    talk.say("   ")
    assert not talk.chat.handle("/exit")


def test_what_is_no_text_is_not_sent_and_nothing_is_not_saved(model: LoadedModel, tmp_path: Path) -> None:
    talk = Talk(model)
    talk.say(f"/save {tmp_path / 'saved.jsonl'}")
    assert talk.notes.pop() == "Not saved: the conversation is empty."
    assert not list(tmp_path.iterdir())
    for line in ("abc\udcff", "/system \udcff", "/save \udcff"):
        assert talk.say(line) == ""
        assert talk.notes.pop() == "Not sent: the line is not valid UTF-8."
    assert talk.say("abc") == answer_to(model, ("user", "abc")) + "\n"


def test_a_line_of_stdin_that_is_not_utf8_does_not_end_the_conversation(chat_directory: Path) -> None:
    command = [sys.executable, "-m", "trainer.chat", str(chat_directory), "--max-new-tokens", "4", "--temperature", "0"]
    said = [
        subprocess.run(command, cwd=REPOSITORY, env=environment(), input=lines, capture_output=True, timeout=120)
        for lines in (b"abc\n", b"\xff\xfe\nabc\n")
    ]
    assert [one.returncode for one in said] == [0, 0]
    assert said[0].stdout == said[1].stdout != b""
    assert b"Not sent: the line is not valid UTF-8." in said[1].stderr


def test_a_full_context_forgets_the_first_messages(model: LoadedModel) -> None:
    talk = Talk(model)
    long = "abcdefgh" * (CONTEXT // 8 // 3)
    for number in range(4):
        talk.say(f"{long}{'xyzu'[number]}")
    assert any("The context is full: the first 2 messages are forgotten." in note for note in talk.notes)
    talk.say("a" * CONTEXT)
    assert talk.notes[-1] == f"Not sent: it is longer than the model's context of {CONTEXT} tokens."


def test_an_answer_is_reproducible_and_seeds_advance(model: LoadedModel) -> None:
    texts = []
    for seed in (3, 3, 4):
        talk = Talk(model, sampling=SamplingConfig(), seed=seed)
        texts.append([talk.say("abc"), talk.say("abc")])
    assert texts[0] == texts[1] != texts[2]


def test_a_base_model_continues_text(tmp_path: Path) -> None:
    model = load_model(ModelOptions(path=small_run.train(tmp_path), max_batch_size=1))
    try:
        talk = Talk(model)
        talk.chat.introduce()
        assert "is a base model: it continues the text that you write" in talk.notes[0]
        first = talk.say("abc")
        request = GenerationRequest(
            prompt=model.encode_prompt("abc"), max_new_tokens=8, sampling=GREEDY, stop_ids=model.stop_ids
        )
        assert first == "".join(piece.text for piece in model.new_generator().run([request])) + "\n"
        for _ in range(5):
            talk.say("abcdefgh")  # past the end of a context of 32 tokens
        talk.say("/system what")
        assert talk.notes[-1] == "A base model has no system message."
    finally:
        stop_world()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--max-new-tokens", "0"), "--max-new-tokens: must be at least 1 (got 0)"),
        (("--min-p", "2"), "--min-p: must be at least 0 and at most 1 (got 2.0)"),
        (("--repetition-penalty", "0"), "--repetition-penalty: must be greater than 0 and finite (got 0.0)"),
    ],
)
def test_arguments_that_cannot_be_used(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = small_run.run_command("trainer.chat", "nowhere", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=REPOSITORY,
            env=environment(PYTHONPATH=str(REPOSITORY), TERM="dumb"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.text = ""

    def read_until(self, pattern: str, *, seconds: float = 60) -> str:
        """Everything up to a pattern, which is taken off."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self.text)) is None:
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.text!r}"
            if not select.select([self._ours], [], [], left)[0]:
                continue
            try:
                self.text += os.read(self._ours, 4096).decode(errors="replace")
            except OSError:  # it has ended
                assert re.search(pattern, self.text), f"it ended without {pattern!r} in {self.text!r}"
        before, self.text = self.text[: found.end()], self.text[found.end() :]
        return before

    def interrupt_until(self, pattern: str) -> str:
        """Press Ctrl-C, again where Python's input() misses it: between its prompt and its wait it does not notice."""
        for _ in range(30):
            os.kill(self.process.pid, signal.SIGINT)
            with contextlib.suppress(AssertionError):
                return self.read_until(pattern, seconds=2)
        raise AssertionError(f"no {pattern!r} in {self.text!r}")

    def write(self, text: str) -> None:
        os.write(self._ours, text.encode())


def test_ctrl_c_stops_an_answer_and_not_the_conversation(chat_directory: Path) -> None:
    terminal = Terminal("trainer.chat", str(chat_directory), "--max-new-tokens", "1900", "--temperature", "1")
    try:
        terminal.read_until(r"Chat with small\. .*\n> ")
        num_stopped = 0
        for _ in range(20):  # a random model ends an answer when it likes
            terminal.write("abc\n")
            terminal.read_until(r"abc\r?\n\s*\S")  # of the answer, or of the next prompt
            answer = terminal.interrupt_until(r"\n> ")
            if "Press Ctrl-D" not in answer:
                num_stopped += 1
                break
        assert num_stopped
        assert terminal.process.poll() is None
        terminal.interrupt_until(r"Press Ctrl-D to exit\.\r?\n> ")
        terminal.write("/nothing\n")
        terminal.read_until(r"/nothing is not a command")
        terminal.read_until(r"> ")
        terminal.write("\x04")
        assert terminal.process.wait(timeout=30) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
