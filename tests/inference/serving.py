"""A small chat model, and servers of it as real processes."""

import contextlib
import json
import re
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import warm
from tests.train import small_run
from tests.train.commands import REPOSITORY, environment

CONTEXT = 2048
TEMPLATE = (
    "{% if messages[0].role == 'assistant' %}{{ raise_exception('the user begins') }}{% endif %}"
    "{% for message in messages %}{{ message.role }} {{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def chat_run(folder: Path) -> Path:
    """Train a few steps; the tokenizer has a chat template, and the model a long context."""
    template = folder / "data" / "chat_template.jinja"
    template.parent.mkdir(parents=True)
    template.write_text(TEMPLATE)
    return small_run.train(folder, f"model.max_position_embeddings={CONTEXT}")


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    process: warm.WarmProcess
    log: Path

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        return self._send(urllib.request.Request(self.url + path, headers=headers))

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        status, text = self._send(urllib.request.Request(self.url + path, data=data, headers=sent))
        return status, json.loads(text)

    def metric(self, name: str) -> float:
        found = re.search(rf"^trireme_{re.escape(name)} (\S+)$", self.get("/metrics")[1], flags=re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    def _send(self, request: urllib.request.Request) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@contextlib.contextmanager
def serve(run_directory: Path, *options: str, **variables: str) -> Iterator[Server]:
    """Start a server at a free port, and end it afterwards if it still runs."""
    with tempfile.TemporaryDirectory(prefix="trireme-serve-") as folder:
        log = Path(folder, "log")
        process = warm.WarmProcess(
            [sys.executable, "-m", "trainer.serve", str(run_directory), "--port", "0", *options],
            cwd=REPOSITORY,
            env=environment(**variables),
            stdout=Path(folder, "stdout"),
            stderr=log,
        )
        try:
            warm.wait_until(lambda: process.poll() is not None or "Serving" in _read(log), seconds=60)
            found = re.search(r"at (http://\S+) \(API", _read(log))
            assert found is not None, _read(log)
            running = Server(found[1], process, log)
            # The port is open before the application answers.
            warm.wait_until(lambda: _answers(running), seconds=30)
            yield running
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(10)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _answers(server: Server) -> bool:
    try:
        return server.get("/health")[0] == 200
    except OSError:
        return False
