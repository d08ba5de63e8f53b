"""What one check of the preflight found."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from trireme.errors import Violation
from trireme.progress import format_number


class Verdict(Enum):
    """How a check went; the value is what the table shows."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one check."""

    check: str
    """Name of the check, by which `accept=` knows it."""
    verdict: Verdict
    text: str
    """What was found, for a reader; of a skipped check, why."""
    violations: tuple[Violation, ...] = ()
    """What is wrong, each with the fix; none where all is well."""


def found_ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check=check, verdict=Verdict.OK, text=text)


def skipped(check: str, reason: str) -> Finding:
    """The check was not made."""
    return Finding(check=check, verdict=Verdict.SKIPPED, text=reason)


def judge(check: str, violations: Iterable[Violation], *, otherwise: str) -> Finding:
    """An error with all violations, or all is well."""
    found = tuple(violations)
    if not found:
        return found_ok(check, otherwise)
    return Finding(check=check, verdict=Verdict.ERROR, text=format_number(len(found), "problem"), violations=found)


def warn(check: str, violations: Iterable[Violation], *, otherwise: str) -> Finding:
    """As `judge`, where what is found need not stop a run."""
    finding = judge(check, violations, otherwise=otherwise)
    return replace(finding, verdict=Verdict.WARNING) if finding.violations else finding


def accept(finding: Finding) -> Finding:
    """Make an error a warning: the user has said that it is meant."""
    if finding.verdict is not Verdict.ERROR:
        return finding
    return replace(finding, verdict=Verdict.WARNING, text=f"{finding.text}, accepted")
