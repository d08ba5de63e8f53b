"""Take conversations, completions and preferences from records: OpenAI's messages, ShareGPT, Alpaca, TRL's pairs."""

from collections.abc import Mapping
from typing import Any

from data_tools.examples.example import Completion, Conversation, FieldError, Messages, Preference

_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "function": "tool",
    "observation": "tool",
}
"""Names of ShareGPT and tools around it -> roles; others are their own name."""
_BEGINNERS = ("system", "developer", "user")
"""Roles that no answer begins with."""
ALPACA_PROMPT = (
    "Below is an instruction that describes a task{paired}. Write a response that appropriately completes the"
    " request.\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n"
)
"""Prompt of Stanford Alpaca, for models without a chat template."""
_MESSAGE_FIX = 'Write {"role": "user", "content": "..."}.'


def parse_messages(values: Mapping[str, Any]) -> Conversation:
    """Read OpenAI's format: {"messages": [{"role": ..., "content": ...}, ...]}.

    Raises:
        FieldError: it is malformed.
    """
    name = "conversations" if "conversations" in values else "messages"
    return Conversation(messages=_take_messages(values, name))


def parse_sharegpt(values: Mapping[str, Any]) -> Conversation:
    """Read ShareGPT's format: {"conversations": [{"from": "human", "value": ...}, ...]}, with an optional `system`.

    Raises:
        FieldError: it is malformed.
    """
    turns = _take(values, "conversations", list, fix='Write [{"from": "human", "value": "..."}, ...].')
    messages = []
    if values.get("system"):
        messages.append({"role": "system", "content": _take(values, "system", str, fix="Write a text.")})
    for number, turn in enumerate(turns):
        place = f"conversations[{number}]"
        if not isinstance(turn, Mapping):
            raise FieldError(place, "must be an object", fix='Write {"from": "human", "value": "..."}.', value=turn)
        speaker, value = (
            _take(turn, name, str, fix='Write {"from": "human", "value": "..."}.', prefix=f"{place}.")
            for name in ("from", "value")
        )
        messages.append({"role": _SHAREGPT_ROLES.get(speaker, speaker), "content": value})
    return Conversation(messages=messages)


def parse_alpaca(values: Mapping[str, Any], *, has_template: bool) -> Conversation | Completion:
    """Read Alpaca's format: {"instruction": ..., "input": ..., "output": ...}; `input` and `system` may be missing.

    Args:
        has_template: the model has a chat template; without one Alpaca's own prompt is written.
    Raises:
        FieldError: it is malformed.
    """
    instruction, output = (_take(values, name, str, fix="Write a text.") for name in ("instruction", "output"))
    given = _take(values, "input", str, fix="Write a text.") if values.get("input") else ""
    if not has_template:
        prompt = ALPACA_PROMPT.format(
            paired=", paired with an input that provides further context" if given else "",
            instruction=instruction,
            input=f"### Input:\n{given}\n\n" if given else "",
        )
        return Completion(prompt=prompt, completion=output)
    messages = [
        {"role": "user", "content": f"{instruction}\n\n{given}" if given else instruction},
        {"role": "assistant", "content": output},
    ]
    if values.get("system"):
        messages.insert(0, {"role": "system", "content": _take(values, "system", str, fix="Write a text.")})
    return Conversation(messages=messages)


def parse_completion(values: Mapping[str, Any]) -> Conversation | Completion:
    """Read {"prompt": ..., "completion": ...}: two texts, or messages and the messages that follow them.

    Raises:
        FieldError: it is malformed.
    """
    if isinstance(values.get("prompt"), list) or isinstance(values.get("completion"), list):
        before, after = _as_messages(values, "prompt", role="user"), _as_messages(values, "completion")
        return Conversation(messages=[*({**message, "weight": 0} for message in before), *after])
    prompt, completion = (_take(values, name, str, fix="Write a text.") for name in ("prompt", "completion"))
    return Completion(prompt=prompt, completion=completion)


def parse_preference(values: Mapping[str, Any]) -> Preference:
    """Read {"prompt": ..., "chosen": ..., "rejected": ...}: texts, or messages as TRL has them.

    Without `prompt`, `chosen` and `rejected` are whole conversations, which are equal but for the last message. They
    may be with it too, as in UltraFeedback, where it repeats a message of theirs.

    Raises:
        FieldError: it is malformed.
    """
    fix = "Write a text, or a list of messages, as in the other fields."
    if "prompt" not in values:
        return _split_conversations(values, why="since there is no prompt")
    fields = {name: values.get(name) for name in ("prompt", "chosen", "rejected")}
    if not any(isinstance(value, list) for value in fields.values()):
        texts = {name: _take(values, name, str, fix=fix) for name in fields}
        return Preference(**texts)
    prompt = _as_messages(values, "prompt", role="user")
    answers = {name: _as_messages(values, name) for name in ("chosen", "rejected")}
    if any(answer and answer[0]["role"] in _BEGINNERS for answer in answers.values()):
        # Appended to the prompt, such answers would say it twice.
        found = _split_conversations(values, why="since both begin with the prompt")
        if not _contains(_take_messages(values, "chosen")[:-1], prompt):
            fix = "Remove prompt, or leave in chosen and rejected only what follows it."
            raise FieldError("prompt", "must be in the conversations of chosen and rejected", fix=fix)
        return found
    return Preference(prompt=prompt, **answers)


def _split_conversations(values: Mapping[str, Any], *, why: str) -> Preference:
    """Read two conversations that are equal but for the last message."""
    chosen, rejected = _take_messages(values, "chosen"), _take_messages(values, "rejected")
    if not chosen or not rejected or chosen[:-1] != rejected[:-1]:
        message = f"must be the same conversation as chosen but for the last message, {why}"
        raise FieldError("rejected", message, fix="Write the common beginning as prompt.")
    return Preference(prompt=chosen[:-1], chosen=chosen[-1:], rejected=rejected[-1:])


def _contains(messages: Messages, part: Messages) -> bool:
    """Return whether messages of these roles and contents follow each other somewhere in a conversation."""
    plain, wanted = ([(one["role"], one.get("content")) for one in list_] for list_ in (messages, part))
    return any(plain[place : place + len(wanted)] == wanted for place in range(len(plain) - len(wanted) + 1))


def _as_messages(values: Mapping[str, Any], name: str, *, role: str = "assistant") -> list[dict[str, Any]]:
    """Return a list of messages; a text becomes one message."""
    if isinstance(values.get(name), str):
        return [{"role": role, "content": values[name]}]
    return _take_messages(values, name)


def _take_messages(values: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    messages = []
    for number, message in enumerate(_take(values, name, list, fix=f"Write a list: [{_MESSAGE_FIX[6:-1]}, ...].")):
        place = f"{name}[{number}]"
        if not isinstance(message, Mapping):
            raise FieldError(place, "must be an object", fix=_MESSAGE_FIX, value=message)
        role = _take(message, "role", str, fix=_MESSAGE_FIX, prefix=f"{place}.")
        # Columns of a Parquet file exist in every row; None means missing.
        given = {key: value for key, value in message.items() if value is not None}
        if "content" in given or "tool_calls" not in given:
            given["content"] = _take_content(given, prefix=f"{place}.")
        messages.append({**given, "role": role})
    return messages


def _take_content(message: Mapping[str, Any], *, prefix: str) -> str:
    """Return the text of a message; parts of type text are joined."""
    content = message.get("content")
    if not isinstance(content, list):
        return str(_take(message, "content", str, fix=_MESSAGE_FIX, prefix=prefix))
    texts = []
    for number, part in enumerate(content):
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            fix = "Leave out examples with images, audio or files; a model of text cannot use them."
            raise FieldError(f"{prefix}content[{number}]", "must be a part of type text", fix=fix, value=part)
        texts.append(part["text"])
    return "".join(texts)


_NAMES: dict[type, str] = {str: "a text", list: "a list"}


def _take(values: Mapping[str, Any], name: str, kind: type, *, fix: str, prefix: str = "") -> Any:
    value = values.get(name)
    if value is None:
        raise FieldError(f"{prefix}{name}", "is missing", fix=fix)
    if not isinstance(value, kind):
        raise FieldError(f"{prefix}{name}", f"must be {_NAMES[kind]}", fix=fix, value=value)
    return value
