"""Quoting of values for sbatch."""

import pytest

from trireme.slurm import quote_for_sbatch, render_directives


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("n7", "n7"),
        ("/data/%j.out", "/data/%j.out"),
        ("n[7-9]", "'n[7-9]'"),
        ("größe", "'größe'"),
        ("it's", r"'it\'s'"),
        (r"a\b", r"'a\\b'"),
        ("# a", "'# a'"),
        ("", "''"),
    ],
)
def test_values_are_quoted_as_sbatch_reads_them(text: str, written: str) -> None:
    assert quote_for_sbatch(text) == written


@pytest.mark.parametrize("text", ["a\nrm -r /", "a\rb", "a\0b"])
def test_no_value_can_leave_its_line(text: str) -> None:
    with pytest.raises(ValueError, match="must be a single line"):
        list(render_directives({"comment": text}, further={}))
