"""FineWeb's own rules."""

import pytest

from data_tools.filters.quality.fineweb import check_fineweb
from tests.data_tools.step_results import find_reason

LINES = [f"This is line number {number} of a text with long lines, and it ends well." for number in range(10)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n".join(LINES), None),
        ("\n".join(line[:-1] for line in LINES), "fineweb_end_punctuation"),
        ("\n".join([*LINES, *(f"Short {number}." for number in range(21))]), "fineweb_short_lines"),
        ("\n".join([*LINES, *LINES[:2]]), "fineweb_repeated_lines"),
        ("\n\n\n".join(f"{line}\n\n\n" for line in LINES), "fineweb_newlines"),
        ("", "fineweb_end_punctuation"),
    ],
)
def test_rules(text, reason):
    assert find_reason(check_fineweb, text) == reason
