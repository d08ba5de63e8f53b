"""Generate the texts of a command: one after another to the terminal, or those of a file of prompts."""

import argparse
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Sequence

from trainer.inference.loading import LoadedModel
from trainer.inference.options import choose_sampling
from trainer.inference.prompt_file import Prompt, complete_in_order, describe
from trainer.inference.request import GenerationRequest, Piece
from trainer.inference.sampling import SamplingConfig
from trireme.command import write_output
from trireme.errors import EXIT_STOPPED, RunStopped, Violation, raise_if_any
from trireme.tokenizer.chat_template import TemplateRefusal

_LOGGER = logging.getLogger(__name__)


def stream_texts(model: LoadedModel, text: str, arguments: argparse.Namespace) -> None:
    """Write a prompt and its continuations, the first one as it is generated.

    Args:
        arguments: the options of `trainer.generate`.
    Raises:
        RunStopped: the model's logits are not finite.
    """
    prompt = model.encode_prompt(text)
    if (num_dropped := len(prompt) - model.context_length) > 0:
        _LOGGER.warning(
            "The prompt has %d tokens, but the model's context is %d: dropping the first %d tokens.",
            len(prompt),
            model.context_length,
            num_dropped,
        )
    requests = [
        _request(model, prompt, arguments, sample=sample, continues=True) for sample in range(arguments.num_samples)
    ]
    generator = model.new_generator()
    if arguments.max_new_tokens:
        pieces = generator.run(requests)
    else:
        pieces = iter(Piece(request_id=sample, text="", finish_reason=None) for sample in range(len(requests)))
    parts: dict[int, list[Piece]] = {sample: [] for sample in range(len(requests))}
    for sample in range(len(requests)):
        if len(requests) > 1:
            write_output(f"--- {sample + 1} of {len(requests)}\n")
        write_output(text)
        try:
            _write_until_end(parts, sample, pieces)
        except KeyboardInterrupt:
            write_output("\n")
            raise
        write_output("\n")


def _write_until_end(parts: dict[int, list[Piece]], sample: int, pieces: Iterator[Piece]) -> None:
    """Write one text to its end; keep what comes of the others meanwhile."""
    for piece in itertools.chain(parts[sample], pieces):
        if piece.error:
            raise RunStopped(piece.error, exit_code=EXIT_STOPPED)
        if piece.request_id != sample:
            parts[piece.request_id].append(piece)
            continue
        write_output(piece.text)
        if piece.finish_reason:
            return


def complete_prompts(
    model: LoadedModel,
    prompts: Sequence[Prompt],
    arguments: argparse.Namespace,
    *,
    name: str,
    write: Callable[[str], object],
    show: Callable[[int], object],
) -> None:
    """Write one line of JSON for each text, in the order of the prompts.

    Args:
        arguments: the options of `trainer.generate`.
        name: of the input, for messages.
        write: receives the lines.
        show: receives the number of finished texts.
    Raises:
        ConfigError: prompts are too long for the model, or are conversations that it cannot take.
        RunStopped: the model's logits are not finite.
    """
    encoded = _encode(model, prompts, name=name)
    num_samples = arguments.num_samples
    pairs = list(itertools.product(zip(prompts, encoded, strict=True), range(num_samples)))
    requests = (
        _request(model, ids, arguments, sample=number, continues=False) for number, ((_, ids), _) in enumerate(pairs)
    )
    completions = complete_in_order(model.new_generator(), requests)
    try:
        for number, (((prompt, _), sample), done) in enumerate(zip(pairs, completions, strict=True), start=1):
            record = describe(
                prompt,
                done,
                sample=sample if num_samples > 1 else None,
                has_logprobs=arguments.logprobs,
                tokenizer=model.tokenizer,
            )
            write(json.dumps(record, ensure_ascii=False) + "\n")
            show(number)
    except ValueError as error:
        raise RunStopped(str(error), exit_code=EXIT_STOPPED) from error


def _encode(model: LoadedModel, prompts: Sequence[Prompt], *, name: str) -> list[tuple[int, ...]]:
    """Encode all prompts.

    Raises:
        ConfigError: some are too long for the model, or are conversations that it cannot take.
    """
    encoded: list[tuple[int, ...]] = []
    found: list[Violation] = []
    for prompt in prompts:
        place = f"{name}, line {prompt.line}"
        ids: tuple[int, ...] = ()
        if prompt.text is not None:
            ids = model.encode_prompt(prompt.text)
        elif model.chat_template is None:
            message = f"has messages, but {model.checkpoint} has no chat template: it continues text"
            found.append(Violation(path=place, value="", message=message, fix="Give a prompt instead."))
        else:
            try:
                ids = tuple(model.chat_template.encode(prompt.messages))
            except TemplateRefusal as error:
                found.append(Violation(path=place, value="", message=str(error), fix="Correct the messages."))
        if len(ids) >= model.context_length:
            message = f"has {len(ids)} tokens, but the model's context is {model.context_length}"
            found.append(Violation(path=place, value="", message=message, fix="Shorten it."))
        encoded.append(ids)
    raise_if_any(found)
    return encoded


def _request(
    model: LoadedModel, prompt: tuple[int, ...], arguments: argparse.Namespace, *, sample: int, continues: bool
) -> GenerationRequest:
    return GenerationRequest(
        prompt=prompt,
        max_new_tokens=arguments.max_new_tokens,
        sampling=SamplingConfig(**choose_sampling(arguments, generation_config=model.generation_config)),
        seed=arguments.seed + sample,
        stop=tuple(arguments.stop),
        stop_ids=model.stop_ids,
        num_logprobs=0 if arguments.logprobs else None,
        continues_past_context=continues,
    )
