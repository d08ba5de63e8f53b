"""Streamed text is the text: whole characters, and nothing of a stop string."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from trainer.inference.text_stream import TextStream

ALPHABET = "ab\u00e9\u4e2d"


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


def stream(text: str, *, stop: Sequence[str] = ()) -> tuple[list[str], TextStream]:
    streamed = TextStream(Bytes(), stop=stop)  # type: ignore[arg-type]
    pieces = [streamed.push(byte) for byte in text.encode()]
    return [*pieces, streamed.finish()], streamed


def cut(text: str, stop: Sequence[str]) -> str:
    return text[: min([text.find(one) for one in stop if one in text], default=len(text))]


@given(text=st.text(ALPHABET, max_size=30), stop=st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=3))
def test_pieces_join_to_the_text_before_the_first_stop_string(text: str, stop: list[str]) -> None:
    pieces, streamed = stream(text, stop=stop)
    assert "\ufffd" not in "".join(pieces)
    assert streamed.is_stopped == any(one in text for one in stop)
    # Where one stop string lies inside another, the one that is complete first ends the text.
    ends = [text.find(one) + len(one) for one in stop if one in text]
    assert "".join(pieces) == cut(text[: min(ends, default=len(text))], stop)


def test_text_is_shown_as_soon_as_it_is_certain() -> None:
    pieces, _ = stream("one two STOP", stop=["STOP"])
    assert pieces == [*"one two ", "", "", "", "", ""]
    pieces, _ = stream("STeP", stop=["STOP"])
    assert pieces == ["", "", "STe", "P", ""]


def test_an_incomplete_character_comes_at_the_end() -> None:
    streamed = TextStream(Bytes())  # type: ignore[arg-type]
    assert [streamed.push(byte) for byte in "a\u4e2d".encode()[:3]] == ["a", "", ""]
    assert streamed.finish() == "\ufffd"


def test_text_after_a_stop_string_is_ignored() -> None:
    streamed = TextStream(Bytes(), stop=["b"])  # type: ignore[arg-type]
    assert [streamed.push(byte) for byte in b"abcd"] == ["a", "", "", ""]
    assert streamed.finish() == ""
