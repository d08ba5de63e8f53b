"""Overrides without quotes, and the quoting that a message suggests where they need it."""

import shlex

import pytest
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st

from trireme.config.override_line import parse_override, quote_override, quote_text, suggest_quoting

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="$\0", exclude_categories=["Cc", "Cs"]), max_size=12)


def _read(line: str) -> object:
    return parse_override(line).value()


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("output_dir=~/runs", "~/runs"),
        ("output_dir=/数据 1/run", "/数据 1/run"),
        ("data.train=[{paths:[/数据/train]}]", [{"paths": ["/数据/train"]}]),
        (
            """data.train=[{paths: [/é/tr ain, ~/b], weight: 1}, {paths:['/ü,1',"/x:y"]}]""",
            [{"paths": ["/é/tr ain", "~/b"], "weight": 1}, {"paths": ["/ü,1", "/x:y"]}],
        ),
        ("a=[/a:é,b#c;d&e!]", ["/a:é", "b#c;d&e!"]),
        ("a={k:数:b,l:[é,null,true,1.5]}", {"k": "数:b", "l": ["é", None, True, 1.5]}),
        ("a=${oc.env:HOME}/é", "${oc.env:HOME}/é"),
    ],
)
def test_characters_that_mean_nothing_to_hydra_need_no_quotes(line: str, value: object) -> None:
    assert _read(line) == value
    assert parse_override(line).input_line == line, "messages show what the user wrote"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("run_name=a=b", "a=b"),
        ("output_dir=/x(1)", "/x(1)"),
        ("output_dir=/it's", "/it's"),
        ("data.train=[{paths:[/数据/a=b,/c],weight:2}]", [{"paths": ["/数据/a=b", "/c"], "weight": 2}]),
        ("logging.wandb.tags=[it's,b]", ["it's", "b"]),
    ],
)
def test_suggested_quotes_are_valid_in_a_shell(line: str, value: object) -> None:
    with pytest.raises(HydraException):
        parse_override(line)
    suggestion = suggest_quoting(line)
    assert suggestion is not None
    (word,) = shlex.split(suggestion)
    assert _read(word) == value


@pytest.mark.parametrize("line", ["a=[x,b", "--seed=3", "数=1", "a={数:b}", "seed", "a=[1,2]x"])
def test_no_quoting_is_suggested_where_it_does_not_help(line: str) -> None:
    with pytest.raises(HydraException):
        parse_override(line)
    assert suggest_quoting(line) is None


@given(text=TEXT)
def test_any_text_can_be_quoted(text: str) -> None:
    (word,) = shlex.split(quote_override("run_name", text))
    assert _read(word) == text
    assert _read(f"a=[{{paths:[{quote_text(text)},b]}}]") == [{"paths": [text, "b"]}]


@given(text=TEXT)
def test_unquoted_text_is_read_literally(text: str) -> None:
    try:
        value = _read(f"a=x{text}")
    except HydraException:
        return
    if not set(text) & set("\\,()[]{}'\""):
        assert value == f"x{text}".strip()
