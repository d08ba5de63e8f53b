"""Exit codes: of a command's body, and written for the launcher."""

from pathlib import Path

import pytest

from trireme.errors import EXIT_BAD_INPUT, EXIT_OK, EXIT_REQUEUE, ConfigError, Violation, exit_code_of
from trireme.processes import EXIT_CODE_FILE, has_failure, leave_exit_code, read_exit_code


def _raise(error: Exception) -> int:
    raise error


def test_a_body_that_returns_nothing_is_done() -> None:
    assert exit_code_of(lambda: None) == EXIT_OK
    assert exit_code_of(lambda: 75) == EXIT_REQUEUE


def test_bad_input_is_two_with_every_problem_numbered(capsys: pytest.CaptureFixture[str]) -> None:
    violations = [Violation(path=f"a.b{i}", value=i, message="must be 9", fix="Use 9.") for i in (1, 2)]
    assert exit_code_of(lambda: _raise(ConfigError(violations))) == EXIT_BAD_INPUT
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == (
        "2 errors; nothing was started:\n  1. a.b1: must be 9 (got 1). Use 9.\n  2. a.b2: must be 9 (got 2). Use 9.\n"
    )


def test_other_errors_are_not_swallowed() -> None:
    with pytest.raises(KeyError):
        exit_code_of(lambda: _raise(KeyError("x")))


def test_the_code_is_left_where_the_launcher_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "code"
    monkeypatch.delenv(EXIT_CODE_FILE, raising=False)
    leave_exit_code(75)
    assert read_exit_code(path) is None
    monkeypatch.setenv(EXIT_CODE_FILE, str(path))
    leave_exit_code(75)
    assert read_exit_code(path) == 75
    leave_exit_code(81, only_first=True)
    assert read_exit_code(path) == 75
    path.write_text("")
    assert read_exit_code(path) is None


def test_a_reported_failure_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EXIT_CODE_FILE, raising=False)
    assert not has_failure()
    monkeypatch.setenv(EXIT_CODE_FILE, str(tmp_path / "code"))
    assert not has_failure()
    for code, is_failure in ((0, False), (75, False), (1, True), (2, True)):
        leave_exit_code(code)
        assert has_failure() == is_failure
