"""The result of one preflight check."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from trireme.errors import Violation
from trireme.progress import format_number


class Verdict(Enum):
    """Enumerate the results of a check; the value is shown in the table."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Hold the result of one check."""

    check: str
    """Name of the check, as in `allow=`."""
    verdict: Verdict
    text: str
    """Details for the user; why a check was skipped."""
    violations: tuple[Violation, ...] = ()
    """Errors that were found."""


def found_ok(check: str, text: str) -> Finding:
    """Return the result of a check that found no errors."""
    return Finding(check=check, verdict=Verdict.OK, text=text)


def skipped(check: str, reason: str) -> Finding:
    """Return the result of a check that did not run."""
    return Finding(check=check, verdict=Verdict.SKIPPED, text=reason)


def judge(check: str, violations: Iterable[Violation], *, otherwise: str) -> Finding:
    """Return an error with all violations, or, without any, the text of success."""
    found = tuple(violations)
    if not found:
        return found_ok(check, otherwise)
    return Finding(check=check, verdict=Verdict.ERROR, text=format_number(len(found), "error"), violations=found)


def warn(check: str, violations: Iterable[Violation], *, otherwise: str) -> Finding:
    """Return a warning with all violations, or, without any, the text of success."""
    finding = judge(check, violations, otherwise=otherwise)
    if not finding.violations:
        return finding
    return replace(finding, verdict=Verdict.WARNING, text=format_number(len(finding.violations), "warning"))


def allow(finding: Finding) -> Finding:
    """Downgrade an error to a warning, as the user asked with `allow=`."""
    if finding.verdict is not Verdict.ERROR:
        return finding
    return replace(finding, verdict=Verdict.WARNING, text=f"{finding.text}, allowed")
