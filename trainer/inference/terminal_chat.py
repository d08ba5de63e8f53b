"""Hold a conversation in a terminal: history, commands, answers that stream and can be stopped."""

import contextlib
import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from trainer.inference.loading import LoadedModel
from trainer.inference.request import GenerationRequest
from trainer.inference.sampling import SamplingConfig
from trainer.inference.valid_text import is_text
from trireme.errors import EXIT_STOPPED, RunStopped
from trireme.files import write_whole
from trireme.tokenizer.chat_template import TemplateRefusal

HELP = """\
/reset        forget the conversation
/system TEXT  set the system message and forget the conversation; without TEXT show it
/save FILE    write the conversation to a file, as a line that `trireme generate --input` reads
/help         show these commands
/exit         end; so does Ctrl-D
A line that ends with \\ continues on the next one. Ctrl-C stops an answer."""
MIN_ANSWER_TOKENS = 64
"""Room for an answer in the model's context; earlier messages are dropped to make it."""


class TerminalChat:
    """Hold one conversation with a model; a model without a chat template continues the text instead.

    Args:
        sampling: of the answers.
        seed: of the first answer; later ones have the following seeds.
        max_new_tokens: of one answer.
        system: system message; empty for the template's own.
        write: receives the answers' text.
        note: receives whole lines about the conversation.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        sampling: SamplingConfig,
        seed: int,
        max_new_tokens: int,
        system: str,
        write: Callable[[str], object],
        note: Callable[[str], object],
    ) -> None:
        self._model, self._generator = model, model.new_generator()
        self._sampling, self._seed, self._max_new_tokens = sampling, seed, max_new_tokens
        self._system, self._write, self._note = system, write, note
        self._messages: list[dict[str, str]] = []
        self._text = ""
        """What a model without a chat template has seen."""

    @property
    def is_base_model(self) -> bool:
        """Return whether the model continues text."""
        return self._model.chat_template is None

    def introduce(self) -> None:
        """Say what the model is, and which commands there are."""
        if self.is_base_model:
            self._note(
                f"{self._model.name} is a base model: it continues the text that you write. /help shows commands."
            )
        else:
            self._note(f"Chat with {self._model.name}. /help shows commands.")

    def handle(self, line: str) -> bool:
        """Answer a line, or carry out a command; return False if the conversation ends.

        Raises:
            RunStopped: the model's logits are not finite.
        """
        if not is_text(line):
            self._note("Not sent: the line is not valid UTF-8.")
            return True
        if not line.startswith("/"):
            if line.strip():
                self._answer(line)
            return True
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if name in ("/exit", "/quit"):
            return False
        if name == "/reset":
            self._reset("The conversation is forgotten.")
        elif name == "/system":
            self._set_system(rest)
        elif name == "/save":
            self._save(rest)
        elif name == "/help":
            self._note(HELP)
        else:
            self._note(f"{name} is not a command. /help shows them.")
        return True

    def _reset(self, text: str) -> None:
        self._messages, self._text = [], ""
        self._note(text)

    def _set_system(self, text: str) -> None:
        if self.is_base_model:
            self._note("A base model has no system message.")
        elif text:
            self._system = text
            self._reset("The system message is set, and the conversation forgotten.")
        else:
            self._note(f"System message: {self._system or 'that of the chat template'}")

    def _save(self, name: str) -> None:
        if not name:
            self._note("Give the name of a file: /save FILE")
            return
        if not self._text and not self._messages:
            self._note("Not saved: the conversation is empty.")
            return
        path = Path(name).expanduser()
        record = {"prompt": self._text} if self.is_base_model else {"messages": self._with_system(self._messages)}
        try:
            if path.exists():
                self._note(f"{path} exists. Give another name.")
                return
            write_whole(path, json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            self._note(f"{path} cannot be written: {error.strerror}.")
        else:
            self._note(f"Saved to {path}.")

    def _answer(self, line: str) -> None:
        if self.is_base_model:
            self._text += f"\n{line}" if self._text else line
            self._text += self._stream(self._model.encode_prompt(self._text)[-self._room() :])
            return
        question = {"role": "user", "content": line}
        try:
            prompt = self._encode([*self._messages, question])
        except TemplateRefusal as error:
            self._note(f"Not sent: {error}.")
            return
        if prompt is None:
            self._note(f"Not sent: it is longer than the model's context of {self._model.context_length} tokens.")
            return
        answer = self._stream(prompt)
        self._messages += [question, {"role": "assistant", "content": answer}]

    def _room(self) -> int:
        """Return the tokens of a prompt that leave room for an answer."""
        return max(1, self._model.context_length - min(MIN_ANSWER_TOKENS, self._model.context_length // 2))

    def _with_system(self, messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
        return [*([{"role": "system", "content": self._system}] if self._system else []), *messages]

    def _encode(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...] | None:
        """Encode a conversation, without as many of its first exchanges as necessary; None if none is short enough."""
        assert self._model.chat_template is not None
        for first in range(0, len(messages), 2):
            prompt = tuple(self._model.chat_template.encode(self._with_system(messages[first:]))) or (0,)
            if len(prompt) <= self._room():
                if first:
                    self._messages = list(messages[first:-1])
                    self._note(f"The context is full: the first {first} messages are forgotten.")
                return prompt
        return None

    def _stream(self, prompt: tuple[int, ...]) -> str:
        """Write an answer as it is generated; return what was written before it ended or was stopped."""
        try:
            return self._stream_until_stopped(prompt)
        except KeyboardInterrupt:
            self._generator = self._model.new_generator()  # a step may be half done
            raise

    def _stream_until_stopped(self, prompt: tuple[int, ...]) -> str:
        number = self._generator.add(
            GenerationRequest(
                prompt=prompt,
                max_new_tokens=self._max_new_tokens,
                sampling=self._sampling,
                seed=self._seed,
                stop_ids=self._model.stop_ids,
            )
        )
        self._seed += 1
        parts: list[str] = []
        with _stop_asked() as is_asked:
            while self._generator.has_work:
                for piece in self._generator.step():
                    if piece.error:
                        raise RunStopped(piece.error, exit_code=EXIT_STOPPED)
                    parts.append(piece.text)
                    self._write(piece.text)
                if is_asked():
                    self._generator.cancel(number)
                    self._generator.step()
        self._write("\n")
        return "".join(parts)


@contextlib.contextmanager
def _stop_asked() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C was pressed; pressed again, it interrupts as usual.

    A step of the generator is never interrupted half-way.
    """
    pressed = False
    former = signal.getsignal(signal.SIGINT)

    def note_it(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, former)

    signal.signal(signal.SIGINT, note_it)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, former)
