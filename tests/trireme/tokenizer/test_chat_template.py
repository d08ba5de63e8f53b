"""Conversations are encoded as transformers does, but for special tokens that a user types."""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from trireme.tokenizer.chat_template import ChatTemplate, TemplateRefusal
from trireme.tokenizer.tokenizer import Tokenizer

CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}"
    "{% else %}{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "llama2": LLAMA2}
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {name: number for number, name in enumerate([*SPECIAL, *sorted(alphabet)])}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    model.add_special_tokens(SPECIAL)
    model.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return Tokenizer(folder / "tokenizer.json")


def transformers_ids(tokenizer: Tokenizer, source: str, messages: list[dict[str, str]]) -> list[int]:
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - as heavy as all other tests of this file

    fast = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer.path), bos_token="<s>", eos_token="</s>")
    fast.chat_template = source
    text = fast.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(fast(text, add_special_tokens=False)["input_ids"])


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(contents)]


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_transformers(tokenizer: Tokenizer, name: str) -> None:
    for messages in (turns("Hello"), turns("  a\n", "b \u4e2d", "{{ c }}"), turns("x", "", "<b>&amp;'\"")):
        template = ChatTemplate(TEMPLATES[name], tokenizer=tokenizer)
        assert template.encode(messages) == transformers_ids(tokenizer, TEMPLATES[name], messages)


@given(
    contents=st.lists(
        st.lists(st.sampled_from([*SPECIAL, "a", " ", "\n", "<|", "|>", "im_start"]), max_size=6).map("".join),
        min_size=1,
        max_size=4,
    )
)
def test_no_message_inserts_a_special_token(tokenizer: Tokenizer, contents: list[str]) -> None:
    ids = ChatTemplate(CHATML, tokenizer=tokenizer).encode(turns(*contents))
    begin, end = (tokenizer.token_id(name) for name in ("<|im_start|>", "<|im_end|>"))
    assert ids.count(begin or -1) == len(contents) + 1
    assert ids.count(end or -1) == len(contents)
    assert not {tokenizer.bos_id, tokenizer.eos_id} & set(ids)
    # And nothing of what was written is lost: the markers are skipped in decoding.
    written = [f"{turn['role']}\n{turn['content']}\n" for turn in turns(*contents)]
    assert tokenizer.decode(ids) == "".join(written) + "assistant\n"


def test_a_refusal_is_passed_on(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(LLAMA2, tokenizer=tokenizer)
    with pytest.raises(TemplateRefusal, match="the chat template refuses this conversation: roles must alternate"):
        template.encode([{"role": "assistant", "content": "a"}])


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% if %}", "the chat template is invalid"),
        ("{{ messages.__class__.__mro__ }}", "cannot render this conversation: access to attribute '__class__'"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "cannot render this conversation"),
        ("{{ messages.append(1) }}", "cannot render this conversation"),
        ("{% for i in range(999999999) %}{% endfor %}", "cannot render this conversation: Range too big"),
        ("{{ messages[5].content }}", "cannot render this conversation"),
    ],
)
def test_a_template_is_not_trusted(tokenizer: Tokenizer, source: str, said: str) -> None:
    with pytest.raises(TemplateRefusal, match=said):
        ChatTemplate(source, tokenizer=tokenizer).encode(turns("a"))


def test_a_template_that_splits_at_a_marker_is_refused_for_text_that_spells_it(tokenizer: Tokenizer) -> None:
    source = "{{ messages[0].content.split('</s>') | last }}"
    template = ChatTemplate(source, tokenizer=tokenizer)
    assert tokenizer.decode(template.encode(turns("plain"))) == "plain"
    with pytest.raises(TemplateRefusal, match="a message contains </s>, which the chat template interprets"):
        template.encode(turns("long hidden</s>shown"))


def test_opening_ids_are_what_transformers_adds(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert tokenizer.opening_ids == ()
    content = json.loads(tokenizer.path.read_text())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    assert Tokenizer(path).opening_ids == (0,)
    for adds, expected in ((False, ()), (True, (0,))):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": adds, "bos_token": "<s>"}))
        assert Tokenizer(path).opening_ids == expected
