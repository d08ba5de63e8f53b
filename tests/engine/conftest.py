"""Megatron-Core must not be imported before the shim stands; the shared runs are made once."""

from trainer.parallel import cpu_shim

cpu_shim.install()

from typing import Any  # noqa: E402 - the shim comes first

import pytest  # noqa: E402 - as above

from tests.distributed.harness import run_distributed  # noqa: E402 - as above
from tests.engine.cases import Account, run_four, run_one, run_two  # noqa: E402 - as above


@pytest.fixture(scope="session")
def one() -> Account:
    """Of one process."""
    return run_distributed(run_one, 1)[0]


@pytest.fixture(scope="session")
def two() -> list[Account]:
    """Of each of two processes."""
    return run_distributed(run_two, 2)


@pytest.fixture(scope="session")
def four() -> list[Account]:
    """Of each of four processes."""
    return run_distributed(run_four, 4, timeout_seconds=300)


@pytest.fixture
def expected(layout: str, one: Any, request: pytest.FixtureRequest) -> Any:
    """The run in one process that a layout of the module's LAYOUTS names."""
    return one.trained[request.module.LAYOUTS[layout][0]]


@pytest.fixture
def ranks(layout: str, request: pytest.FixtureRequest) -> list[Any]:
    """What each rank of a layout saw of it."""
    accounts = request.getfixturevalue("two" if layout in request.module.TWO else "four")
    return [account.trained[layout] for account in accounts]
