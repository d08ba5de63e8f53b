"""Megatron-Core must not be imported before the shim stands, whichever test module is collected first."""

from trainer.parallel import cpu_shim

cpu_shim.install()

from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

from tests.inference.serving import Server, chat_run, serve  # noqa: E402


@pytest.fixture(scope="session")
def chat_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run whose tokenizer has a chat template."""
    return chat_run(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="session")
def server(chat_directory: Path) -> Iterator[Server]:
    """A server of that run."""
    with serve(chat_directory, "--served-model-name", "small") as running:
        yield running
