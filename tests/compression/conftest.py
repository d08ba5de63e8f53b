"""Megatron-Core must not be imported before the shim stands, whichever test module is collected first."""

from trainer.parallel import cpu_shim

cpu_shim.install()

from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from tests.compression.models import VOCAB_SIZE, make_run  # noqa: E402
from trireme.shards.shard import ShardWriter  # noqa: E402


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An import of a tiny Llama with random weights and a byte-level tokenizer."""
    return make_run(tmp_path_factory.mktemp("compression"))


@pytest.fixture(scope="session")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of which some are far more frequent, so that inputs of layers are correlated."""
    prefix = tmp_path_factory.mktemp("rows") / "train"
    random = np.random.default_rng(0)
    tokens = np.minimum(random.geometric(0.05, size=4000), VOCAB_SIZE - 1)
    with ShardWriter(prefix, dtype=np.uint16) as writer:
        writer.add_document(tokens.astype(np.int64))
        writer.commit()
    return prefix
