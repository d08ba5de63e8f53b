"""Steps named by the configuration: what they leave out is counted, and what cannot be made is a user's error."""

import sys
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from data_tools.document import Document
from data_tools.filters.custom import CustomFilter
from tests.data_tools.step_results import apply_step
from trireme.errors import ConfigError


@dataclass
class ForeignDocument:
    """What datatrove's filters take."""

    text: str
    id: str
    metadata: dict[str, Any] = field(default_factory=dict)


class Shortest:
    """A generator that keeps state."""

    def __init__(self, at_least: int = 0) -> None:
        self.shortest = at_least

    def run(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            if len(document.text) >= self.shortest:
                self.shortest = len(document.text)
                yield replace(document, text=document.text.upper())


class Twice:
    def run(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            yield document
            yield document


class WithReason:
    def filter(self, document: ForeignDocument) -> bool | tuple[bool, str]:
        document.text += f" of {document.metadata['url']}"
        return (False, "too plain") if document.text.startswith("a") else True


@pytest.fixture
def steps(monkeypatch):
    """Modules with the classes above."""
    foreign, mine = types.ModuleType("datatrove.data"), types.ModuleType("my_steps")
    foreign.Document = ForeignDocument
    for step in (Shortest, Twice, WithReason):
        setattr(mine, step.__name__, step)
    monkeypatch.setitem(sys.modules, "datatrove", types.ModuleType("datatrove"))
    monkeypatch.setitem(sys.modules, "datatrove.data", foreign)
    monkeypatch.setitem(sys.modules, "my_steps", mine)


def test_generators_are_counted(steps):
    kept, ledger = apply_step(CustomFilter({"_target_": "my_steps.Shortest", "at_least": 2}), "a", "bb", "cccc", "ddd")
    assert [document.text for document in kept] == ["BB", "CCCC"]
    assert ledger.dropped == {"step_Shortest": 2}


def test_one_document_stays_one(steps):
    kept, ledger = apply_step(CustomFilter({"_target_": "my_steps.Twice"}), "a")
    assert kept == [] and ledger.failed == {"test_error": 1}
    assert "made 2 of one" in ledger.examples[0].detail


def test_filters_of_datatrove(steps):
    kept, ledger = apply_step(CustomFilter({"_target_": "my_steps.WithReason"}), "a", "b", url="u")
    assert [document.text for document in kept] == ["b of u"]
    assert ledger.dropped == {"step_WithReason": 1} and ledger.examples[0].detail == "too plain"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"_target_": "my_steps.Missing"}, "cannot create the filter: AttributeError"),
        ({"_target_": "my_steps.Twice", "size": 1}, "cannot create the filter: TypeError"),
        ({"_target_": "no_such_module.Filter"}, "cannot create the filter: ModuleNotFoundError"),
        ({"_target_": "pathlib.Path"}, r"must have a method run\(documents\) or filter"),
        ({}, "cannot create the filter"),
    ],
)
def test_what_cannot_be_made_is_named(steps, settings, message):
    with pytest.raises(ConfigError, match=message):
        CustomFilter(settings)
