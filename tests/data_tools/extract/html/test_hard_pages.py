"""No page of a megabyte takes a worker more than two seconds, whatever it is made of."""

import time

import pytest

from data_tools.config.schema import DataPrepConfig
from data_tools.document import Document
from data_tools.ledger import Ledger
from data_tools.stages.steps import FilterChain
from tests.data_tools import hard_pages

LIMIT_SECONDS = 2.0
"""Of the thread's CPU time, for a megabyte."""


def find_slow_pages(limit_seconds: float) -> dict[str, float]:
    """Name and seconds of each page that takes longer; of those, the better of two times."""
    ledger = Ledger()
    chain = FilterChain(DataPrepConfig(output_dir="unused", sources=[]))

    def measure(content: bytes) -> float:
        documents = [Document(record=0, media_type="html", content=content, is_from_web=True)]
        start = time.thread_time()
        assert len(list(chain.apply(documents, ledger))) <= 1
        return time.thread_time() - start

    slow = {}
    for name, content in hard_pages.make_hard_pages():
        if (seconds := measure(content)) > limit_seconds and (
            seconds := min(seconds, measure(content))
        ) > limit_seconds:
            slow[name] = seconds
    assert not ledger.failed
    return slow


def test_time_grows_with_the_page_and_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    # In proportion, an eighth of a second; the rest is for a machine that does much else.
    monkeypatch.setattr(hard_pages, "SIZE", hard_pages.SIZE // 16)
    assert not find_slow_pages(LIMIT_SECONDS / 4)


@pytest.mark.long
def test_no_page_of_a_megabyte_takes_long() -> None:
    assert not find_slow_pages(LIMIT_SECONDS)
