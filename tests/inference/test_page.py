"""The chat page in a real Chromium: a conversation, its end, the width of a phone, light and dark."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inference.browser import CHROMIUM, Browser
from tests.inference.serving import Server, serve
from tests.train import small_run

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]


@pytest.fixture
def page(server: Server, tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path) as browser:
        browser.resize(1100, 800)
        browser.open(server.url)
        yield browser
        assert browser.problems == []


def set_field(page: Browser, selector: str, value: str) -> None:
    page.run(f"document.querySelector('{selector}').value = {value!r}")


def say(page: Browser, text: str) -> None:
    page.run("document.querySelector('#input').focus()")
    page.type(text)
    page.press_enter()


def texts(page: Browser, kind: str) -> list[str]:
    found: list[str] = page.run(f"[...document.querySelectorAll('.{kind}')].map(one => one.textContent)")
    return found


def test_a_conversation(page: Browser, server: Server) -> None:
    assert page.run("document.title") == "small"
    page.click("#show-settings")
    set_field(page, "#temperature", "0")
    set_field(page, "#max-tokens", "9")
    set_field(page, "#system", "be brief")
    history: list[dict[str, str]] = []
    for number, text in enumerate(("abc", "xyz"), start=1):
        say(page, text)
        page.wait_for(f"document.querySelectorAll('.text:not(.busy)').length === {number}")
        history.append({"role": "user", "content": text})
        body = {"messages": [{"role": "system", "content": "be brief"}, *history], "temperature": 0, "max_tokens": 9}
        _, answer = server.post("/v1/chat/completions", body)
        expected = answer["choices"][0]["message"]["content"]
        assert expected
        assert texts(page, "text")[-1] == expected
        history.append({"role": "assistant", "content": expected})
    assert texts(page, "user") == ["abc", "xyz"]
    page.click("#reset")
    assert texts(page, "message") == []
    assert "sees up to 2048 tokens" in texts(page, "note")[0]


def test_stopping_an_answer_keeps_what_there_is(page: Browser, server: Server) -> None:
    # Asked until an answer is long enough to be stopped; a random model ends when it likes.
    for number in range(20):
        say(page, "abc" * (number + 1))
        page.wait_for("document.querySelector('#send').hidden || !document.querySelector('.busy')")
        page.click("#stop")
        page.wait_for("!document.querySelector('.busy')")
        if "Stopped." in texts(page, "note"):
            break
    assert "Stopped." in texts(page, "note")
    assert page.run("[document.querySelector('#send').hidden, document.querySelector('#stop').hidden]") == [False, True]
    say(page, "next")
    page.wait_for("!document.querySelector('.busy') && !document.querySelector('#send').hidden")


def test_an_error_is_shown(page: Browser) -> None:
    set_field(page, "#max-tokens", "99999")
    say(page, "abc")
    page.wait_for("document.querySelector('.error')")
    assert "The model's context is 2048 tokens" in texts(page, "error")[0]
    page.problems.clear()  # Chromium logs every answer with status 400


@pytest.mark.parametrize("width", [320, 360, 1100])
def test_it_fits_the_screen_in_light_and_dark(page: Browser, width: int, tmp_path: Path) -> None:
    papers = []
    for is_dark in (False, True):
        page.resize(width, 700, is_dark=is_dark)
        say(page, "word " * 40 + "x" * 300)
        page.wait_for("!document.querySelector('.busy') && !document.querySelector('#send').hidden")
        page.run("document.querySelector('#settings').hidden = false")
        assert page.run("document.documentElement.scrollWidth") <= width
        # Everything that is pressed is in sight.
        boxes = page.run(
            "['#send', '#reset', '#show-settings', '#input'].map(id => (box =>"
            " [box.left, box.top, box.right, box.bottom])(document.querySelector(id).getBoundingClientRect()))"
        )
        assert all(0 <= left < right <= width and 0 <= top < bottom <= 700 for left, top, right, bottom in boxes)
        papers.append(page.run("getComputedStyle(document.body).backgroundColor"))
    assert papers == ["rgb(255, 255, 255)", "rgb(22, 24, 29)"]


def test_a_base_model_continues_text(tmp_path: Path) -> None:
    with serve(small_run.train(tmp_path / "run")) as server, Browser(tmp_path) as page:
        page.open(server.url)
        assert "is a base model: it continues the text" in texts(page, "note")[0]
        set_field(page, "#temperature", "0")
        set_field(page, "#max-tokens", "6")
        say(page, "abc")
        page.wait_for("document.querySelectorAll('.text:not(.busy)').length === 1")
        _, answer = server.post("/v1/completions", {"prompt": "abc", "temperature": 0, "max_tokens": 6})
        assert texts(page, "text") == ["abc" + answer["choices"][0]["text"]]
        assert page.problems == []
