"""The server as clients of OpenAI's API see it, and as those see it who send nonsense."""

import concurrent.futures
import http.client
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests import warm
from tests.inference.serving import CONTEXT, Server, serve
from tests.train import small_run

CHAT = {"model": "small", "messages": [{"role": "user", "content": "abc"}]}
PROMPT = {"model": "small", "prompt": "abc"}
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "small"
    assert client.models.retrieve("small").id == "small"
    with pytest.raises(openai.NotFoundError, match="The model other does not exist. This server has small."):
        client.models.retrieve("other")


def test_a_stream_of_a_chat_is_the_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**CHAT, **GREEDY)  # type: ignore[call-overload]
    chunks = list(
        client.chat.completions.create(  # type: ignore[call-overload]
            **CHAT, **GREEDY, stream=True, stream_options={"include_usage": True}
        )
    )
    text = whole.choices[0].message.content
    assert len(text) >= 2
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == text
    assert len([chunk for chunk in chunks[:-1] if chunk.choices[0].delta.content]) == len(text)  # a letter a token
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    # `user abc</s>assistant `: a letter or space a token, and the end mark.
    assert whole.usage.prompt_tokens == len("user abc") + 1 + len("assistant ")
    assert whole.usage.completion_tokens == len(text)
    assert len({chunk.id for chunk in chunks}) == 1


def test_completions_of_several_prompts(client: openai.OpenAI) -> None:
    alone = [
        client.completions.create(model="small", prompt=prompt, **GREEDY).choices[0].text for prompt in ("abc", "xy")
    ]
    both = client.completions.create(model="small", prompt=["abc", "xy"], n=2, echo=True, **GREEDY)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in both.choices] == ["abc" + alone[0]] * 2 + ["xy" + alone[1]] * 2
    # Each prompt once, with the end of the document before it.
    assert both.usage is not None
    assert both.usage.prompt_tokens == 4 + 3
    ids = client.completions.create(model="small", prompt=[0, 2, 3, 4], **GREEDY)
    assert ids.choices[0].text == alone[0]


def test_seeds_and_stop_strings(client: openai.OpenAI) -> None:
    warm_texts = [
        client.completions.create(model="small", prompt="abc", max_tokens=12, n=2, seed=seed).choices
        for seed in (5, 5, 6)
    ]
    first, again, other = ([choice.text for choice in choices] for choices in warm_texts)
    assert first == again != other
    assert first[0] != first[1]
    text = first[0]
    cut = client.completions.create(model="small", prompt="abc", max_tokens=12, seed=5, stop=[text[3:5]]).choices[0]
    assert cut.text == text[: text.index(text[3:5])]
    assert cut.finish_reason == "stop"


def test_log_probabilities(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(**CHAT, **GREEDY, logprobs=True, top_logprobs=3)  # type: ignore[call-overload]
    entries = chat.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == chat.choices[0].message.content
    for entry in entries:
        assert entry.top_logprobs[0].token == entry.token  # greedy
        assert [top.logprob for top in entry.top_logprobs] == sorted(
            (top.logprob for top in entry.top_logprobs), reverse=True
        )
        assert len(entry.top_logprobs) == 3
        assert bytes(entry.bytes).decode() == entry.token
    plain = client.completions.create(model="small", prompt="abc", logprobs=2, **GREEDY).choices[0]
    assert plain.logprobs is not None
    assert plain.logprobs.tokens is not None
    assert "".join(plain.logprobs.tokens) == plain.text
    assert plain.logprobs.text_offset == list(range(len(plain.text)))


def test_errors_reach_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="small", prompt="abc", max_tokens=CONTEXT)
    assert caught.value.code == "context_length_exceeded"
    assert f"The model's context is {CONTEXT} tokens, but the prompt has 4 and {CONTEXT} new ones" in str(caught.value)


MALFORMED: dict[str, tuple[str, Any, int, str]] = {
    # path, body, status, what the message says
    "no JSON": ("completions", b"{", 400, "The body is not valid JSON"),
    "no UTF-8": ("completions", b'{"prompt": "\xff"}', 400, "The body is not valid JSON"),
    "not a number": ("completions", b'{"prompt": "a", "temperature": NaN}', 400, "NaN is not a JSON number"),
    "deep": ("completions", b"[" * 100_000, 400, "The body is not valid JSON"),
    "empty": ("completions", b"", 400, "The body is not valid JSON"),
    "a list": ("chat/completions", [CHAT], 400, "must be a JSON object"),
    "no prompt": ("completions", {"model": "small"}, 400, "The field prompt is required"),
    "no messages": ("chat/completions", {"model": "small"}, 400, "The field messages is required"),
    "empty messages": ("chat/completions", {**CHAT, "messages": []}, 400, "The field messages is invalid"),
    "unknown field": ("completions", {**PROMPT, "temprature": 1}, 400, "The field temprature is unknown"),
    "unknown role": (
        "chat/completions",
        {**CHAT, "messages": [{"role": "robot", "content": "a"}]},
        400,
        "messages.0.role",
    ),
    "no content": ("chat/completions", {**CHAT, "messages": [{"role": "user"}]}, 400, "messages.0.content is required"),
    "an image": (
        "chat/completions",
        {**CHAT, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        400,
        "messages.0.content",
    ),
    "refused by the template": (
        "chat/completions",
        {**CHAT, "messages": [{"role": "assistant", "content": "a"}]},
        400,
        "the chat template refuses this conversation: the user begins",
    ),
    "tools": ("chat/completions", {**CHAT, "tools": [{"type": "function"}]}, 400, "The field tools is not supported"),
    "temperature": ("completions", {**PROMPT, "temperature": -0.1}, 400, "The field temperature is invalid"),
    "text for a number": ("completions", {**PROMPT, "max_tokens": "5"}, 400, "The field max_tokens is invalid"),
    "true for a number": ("completions", {**PROMPT, "n": True}, 400, "The field n is invalid"),
    "no tokens": ("completions", {**PROMPT, "max_tokens": 0}, 400, "The field max_tokens is invalid"),
    "too many texts": ("completions", {**PROMPT, "n": 129}, 400, "The field n is invalid"),
    "too many prompts": ("completions", {**PROMPT, "prompt": ["a"] * 65, "n": 2}, 400, "may ask for 128 texts"),
    "top_p": ("completions", {**PROMPT, "top_p": 0}, 400, "The field top_p is invalid"),
    "empty stop": ("completions", {**PROMPT, "stop": [""]}, 400, "must not be empty"),
    "seed": ("completions", {**PROMPT, "seed": 2**64}, 400, "The field seed is invalid"),
    "unknown id": ("completions", {**PROMPT, "prompt": [10**6]}, 400, "The id 1000000 is not in the vocabulary"),
    "negative id": ("completions", {**PROMPT, "prompt": [-1]}, 400, "The id -1 is not in the vocabulary"),
    "no ids": ("completions", {**PROMPT, "prompt": [[]]}, 400, "must not be empty"),
    "mixed prompts": ("completions", {**PROMPT, "prompt": ["a", 5]}, 400, "The field prompt"),
    "long prompt": ("completions", {**PROMPT, "prompt": "a" * 3000}, 400, f"context is {CONTEXT} tokens"),
    "options without a stream": (
        "completions",
        {**PROMPT, "stream_options": {"include_usage": True}},
        400,
        "stream_options requires stream=true",
    ),
    "top_logprobs alone": ("chat/completions", {**CHAT, "top_logprobs": 2}, 400, "requires logprobs=true"),
    "another model": ("completions", {**PROMPT, "model": "gpt-4"}, 404, "The model gpt-4 does not exist"),
    "no such path": ("embeddings", PROMPT, 404, "There is no /v1/embeddings here"),
    "half a character": ("completions", {**PROMPT, "prompt": "a\ud800"}, 400, "The field prompt contains \\ud800"),
    "half a character in a message": (
        "chat/completions",
        {**CHAT, "messages": [{"role": "user", "content": [{"type": "text", "text": "\udfff"}]}]},
        400,
        "The field messages.0.content.0.text contains \\udfff, half of a character.",
    ),
    "half a character in a name": ("completions", {**PROMPT, "\ud800": 1}, 400, "A name contains \\ud800"),
    "more texts than places": (
        "completions",
        {**PROMPT, "n": 100},
        400,
        "for 100 texts, but this server takes 72",
    ),
    "too large": ("completions", {**PROMPT, "prompt": "a" * 2**20}, 413, "larger than 1048576 bytes"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_refused_with_a_reason(server: Server, name: str) -> None:
    path, body, status, said = MALFORMED[name]
    found, answer = server.post(f"/v1/{path}", body)
    assert found == status, answer
    assert said in answer["error"]["message"]
    assert server.post("/v1/completions", {**PROMPT, "max_tokens": 1})[0] == 200  # and the server is well


def test_other_methods_and_kinds_of_content_are_refused(server: Server) -> None:
    assert server.get("/v1/completions")[0] == 405
    status, answer = server.post("/v1/completions", PROMPT, Content_Type="text/plain")
    assert (status, answer["error"]["code"]) == (415, "not_json")


@pytest.mark.parametrize("head", ["Content-Length: x", "Content-Length: -1", "no colon"])
def test_a_request_that_is_not_http_gets_an_error_of_the_api(server: Server, head: str) -> None:
    name = 'trireme_requests_total{endpoint="other",status="400"}'
    before = server.get("/metrics")[1].count(name) and server.metric(name.removeprefix("trireme_"))
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, answer.headers["Content-Type"]) == (400, "application/json")
        error = json.loads(answer.read())["error"]
    assert error["code"] == "invalid_http"
    assert "The request is not valid HTTP" in error["message"]
    assert server.metric(name.removeprefix("trireme_")) == before + 1


def test_a_key_may_have_any_letters(chat_directory: Path) -> None:
    with serve(chat_directory, TRIREME_API_KEY="schlüssel") as server:
        host, port = server.url.removeprefix("http://").split(":")
        for encoding, status in (("utf-8", 200), ("latin-1", 200), ("utf-16", 401)):
            connection = http.client.HTTPConnection(host, int(port), timeout=30)
            connection.putrequest("GET", "/v1/models")
            connection.putheader("Authorization", b"Bearer " + "schlüssel".encode(encoding).replace(b"\0", b"x"))
            connection.endheaders()
            assert connection.getresponse().status == status
            connection.close()


def test_all_errors_of_a_request_are_said_at_once(server: Server) -> None:
    _, answer = server.post("/v1/completions", {"prompt": 5, "n": 0, "what": 1})
    for field in ("prompt", "n", "what"):
        assert f"The field {field} is" in answer["error"]["message"]


def test_fifty_requests_at_once_get_what_each_gets_alone(server: Server) -> None:
    def ask(number: int) -> str:
        body = {"prompt": "abc"[: number % 3 + 1] + "xyz"[: number % 4], "max_tokens": 5 + number % 11, "seed": number}
        status, answer = server.post("/v1/completions", body)
        assert status == 200, answer
        return str(answer["choices"][0]["text"])

    alone = [ask(number) for number in range(50)]
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        assert list(pool.map(ask, range(50))) == alone
    assert len(set(alone)) > 25


def open_stream(server: Server, **changes: Any) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """A stream of a long text, of which a few chunks have come."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    body = {**PROMPT, "stream": True, "max_tokens": CONTEXT - 10, "model": None} | changes
    headers = {"Content-Type": "application/json", "Authorization": "Bearer secret"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.readline().startswith(b"data: {")
    return connection, answer


@pytest.fixture(scope="module")
def endless(server: Server) -> dict[str, Any]:
    """What makes a text that does not end by itself within the context."""
    for seed in range(200):
        body = {**PROMPT, "max_tokens": 1500, "seed": seed, "temperature": 0.0, "prompt": "abc"[: seed % 3 + 1] * seed}
        _, answer = server.post("/v1/completions", body)
        if answer["usage"]["completion_tokens"] == 1500:
            return {key: body[key] for key in ("seed", "temperature", "prompt")}
    raise AssertionError("every text ends")


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_frees_its_place(server: Server, endless: dict[str, Any], is_stream: bool) -> None:
    warm.wait_until(lambda: server.metric("texts_running") == 0, seconds=30)
    before = server.metric("disconnects_total")
    if is_stream:
        connection, answer = open_stream(server, **endless)
        answer.close()
    else:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
        body = {**PROMPT, "max_tokens": CONTEXT - 300, **endless}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        warm.wait_until(lambda: server.metric("texts_running") == 1, seconds=30)
    generated = server.metric("generated_tokens_total")
    connection.close()
    warm.wait_until(lambda: server.metric("texts_running") == 0, seconds=30)
    assert server.metric("disconnects_total") == before + 1
    # Far from all that it asked for.
    assert server.metric("generated_tokens_total") - generated < 1000


def test_metrics_count(server: Server) -> None:
    before = server.metric("generated_tokens_total"), server.metric("prompt_tokens_total")
    _, answer = server.post("/v1/completions", {**PROMPT, **GREEDY})
    assert server.metric("generated_tokens_total") - before[0] == answer["usage"]["completion_tokens"]
    assert server.metric("prompt_tokens_total") - before[1] == 4
    assert server.metric("cache_bytes") > 0
    text = server.get("/metrics")[1]
    assert re.search(r'^trireme_requests_total\{endpoint="/v1/completions",status="200"\} ', text, flags=re.MULTILINE)


def test_the_page_allows_nothing_but_itself(server: Server) -> None:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    connection.request("GET", "/")
    answer = connection.getresponse()
    policy = answer.getheader("Content-Security-Policy") or ""
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    page = answer.read().decode()
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert '"hasChatTemplate": true' in page


def test_limits_key_and_shutdown(chat_directory: Path, endless: dict[str, Any]) -> None:
    options = ("--max-batch-size", "1", "--max-queue", "1", "--max-tokens", "1500", "--max-body-bytes", "2000")
    with serve(chat_directory, *options, TRIREME_API_KEY="secret") as server:
        assert server.get("/health")[0] == 200
        assert server.get("/v1/models")[0] == 401
        for key in ("Bearer wrong", "secret", "Basic secret", "Bearer "):
            status, answer = server.post("/v1/completions", {"prompt": "a"}, Authorization=key)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        key = {"Authorization": "Bearer secret"}
        assert server.get("/v1/models", **key)[0] == 200
        assert server.post("/v1/completions", {"prompt": "a" * 2000}, **key)[0] == 413
        status, answer = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1501}, **key)
        assert (status, answer["error"]["code"]) == (400, "max_tokens_exceeded")
        # One text in progress, one that waits; no room for a third, nor for two at once.
        connection, stream = open_stream(server, **endless, max_tokens=1500)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(server.post, "/v1/completions", {"prompt": "a", "max_tokens": 3}, **key)
            warm.wait_until(lambda: server.metric("texts_waiting") == 1, seconds=30)
            status, answer = server.post("/v1/completions", {"prompt": "a"}, **key)
            assert (status, answer["error"]["code"]) == (429, "queue_full")
            # After SIGTERM the accepted texts end, and new ones are refused.
            server.process.send_signal(15)
            warm.wait_until(lambda: server.get("/health")[0] == 503, seconds=30)
            status, answer = server.post("/v1/completions", {"prompt": "a"}, **key)
            assert (status, answer["error"]["code"]) == (503, "shutting_down")
            rest = stream.read().decode()
            assert rest.endswith("data: [DONE]\n\n")
            assert rest.count('"text": "') >= 1499
            assert waiting.result(timeout=60)[0] == 200
        connection.close()
        assert server.process.wait(timeout=60) == 0
        log = server.log.read_text()
        assert "Received SIGTERM: finishing 2 texts, up to 60 s." in log
        assert "Traceback" not in log


def test_a_base_model_continues_text_only(tmp_path: Path) -> None:
    with serve(small_run.train(tmp_path)) as server:
        status, answer = server.post("/v1/chat/completions", {"messages": CHAT["messages"]})
        assert (status, answer["error"]["code"]) == (400, "no_chat_template")
        assert "has no chat template: it continues text" in answer["error"]["message"]
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 3})[0] == 200
        assert '"hasChatTemplate": false' in server.get("/")[1]
        # A second server at its port says so.
        port = server.url.rpartition(":")[2]
        done = small_run.run_command("trainer.serve", "nowhere", "--port", port, cwd=tmp_path)
        assert done.returncode == 2
        assert "--host, --port: cannot be opened: Address already in use" in done.stderr
