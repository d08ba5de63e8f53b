"""How rows are ranked, how two checkouts are timed, and how entries of results are replaced."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.data_prep_before import compare_extraction
from benchmarks.data_prep_processes import REPOSITORY
from benchmarks.data_prep_results import list_measurements, write_entry
from benchmarks.extraction import rank

BURNED_SECONDS = 0.3


@pytest.mark.parametrize(
    ("row", "ours", "precision", "recall", "expected"),
    [
        ("td", 0.9, 0.8, 0.85, "ahead"),
        ("td", 0.8, 0.7, 0.85, "behind"),
        ("td", 0.9, 0.9, 0.1, "equal"),
        ("td", 1.0, 0.7, 1.0, "equal at the best value"),
        ("menus", 0.0, 0.01, 0.2, "ahead"),
        ("menus", 0.0, 0.0, 0.2, "equal at the best value"),
        ("menus", 0.2, 0.1, 0.3, "behind"),
    ],
)
def test_a_row_is_ranked_beside_the_better_mode_of_trafilatura(row, ours, precision, recall, expected):
    shares = {
        "trireme": ours,
        "trafilatura precision": precision,
        "trafilatura recall": recall,
        "resiliparse plain": 1.0,
    }
    assert rank(row, shares) == expected


def test_two_checkouts_extract_the_same_pages_in_turn():
    page = f"<html><body>{'<p>Words of a page in a sentence.</p>' * 400}</body></html>".encode()
    figures = compare_extraction([page, b"<p>x"], {"now": REPOSITORY, "before": REPOSITORY}, num_rounds=3)
    assert figures["now"] > 0
    assert figures["before"] > 0
    # One and the same code; the first rounds also warm it up.
    assert 0.2 < figures["ratio"] < 5


def test_a_checkout_that_cannot_extract_is_an_error(tmp_path, capfd):
    with pytest.raises(RuntimeError, match="ended with 1"):
        compare_extraction([b"<p>x"], {"now": tmp_path, "before": tmp_path}, num_rounds=1)
    assert f"{tmp_path} has no data_tools" in capfd.readouterr().err


def test_time_of_a_process_whose_parent_has_ended_counts(tmp_path):
    burn = f"import time\nwhile time.process_time() < {BURNED_SECONDS}: pass"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}])"
    # In a process of its own: it adopts orphans.
    program = (
        "import ctypes\nfrom pathlib import Path\nfrom benchmarks import data_prep_before as it\n"
        "ctypes.CDLL(None).prctl(it._SUBREAPER, 1, 0, 0, 0)\n"
        f"print(it._measure_all_processes(['-c', {parent!r}], Path.cwd()))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert float(done.stdout) >= BURNED_SECONDS


def test_an_entry_takes_the_place_of_the_one_of_its_command(tmp_path):
    path = tmp_path / "results.json"
    for command, figures in (("a", 1), ("b", 2), ("a", 3)):
        write_entry(path, {"command": command, "figures": figures})
    assert json.loads(path.read_text()) == [{"command": "a", "figures": 3}, {"command": "b", "figures": 2}]


def test_published_entries_are_those_that_are_measured_again():
    published = {
        entry["command"]
        for file in ("extraction.json", "data_prep.json")
        for entry in json.loads((REPOSITORY / "benchmarks" / "results" / file).read_text())
    }
    shown = {each.shown for each in list_measurements(Path("x"), before="", checkout=Path("x"))}
    assert shown <= published
