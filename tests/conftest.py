"""What holds for every test: one thread per process, no GPU, no network services, the same examples each time."""

import os
import signal

import pytest
from hypothesis import settings

from tests.schedule import ScopeScheduling, read_part, scope_of, scopes_of_part, sort_heavy_first

# Set before torch is imported, and inherited by every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# On a host with GPUs these tests are those of the CPU all the same; tests/gpu shows GPUs to the processes it starts.
os.environ.setdefault("TRIREME_TEST_GPUS", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

# A shell starts a command in the background with SIGINT and SIGQUIT ignored, nohup with SIGHUP, and all that a test
# starts would ignore them, too. What has a handler here, which may do nothing, is as usual in what is started.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, lambda number, frame: None)

settings.register_profile("trireme", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("trireme")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", help="K/N: of all tests that are selected, only part K of N")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """After `-m` and `-k` have had their say."""
    sort_heavy_first(items)
    part = config.getoption("--part")
    if part:
        number, count = read_part(part)
        scopes = scopes_of_part([item.nodeid for item in items], number=number, count=count)
        config.hook.pytest_deselected(items=[item for item in items if scope_of(item.nodeid) not in scopes])
        items[:] = [item for item in items if scope_of(item.nodeid) in scopes]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ScopeScheduling:
    return ScopeScheduling(config, log)
