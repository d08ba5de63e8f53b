"""The command keeps prose and drops junk with the default thresholds, and reads samples."""

import json
import subprocess

import pytest

from benchmarks.quality import report as quality_report
from benchmarks.quality.junk import JUNK_KINDS, make_junk
from benchmarks.quality.prose import read_prose
from data_tools.tokenizer.sample_texts import OWN_PROSE
from tests.data_tools.commands import run_command
from tests.data_tools.declaration import DECLARATION
from tests.data_tools.sample_inputs import write_jsonl


def run_report(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return run_command("benchmarks.quality.report", *arguments)


def test_the_goal_is_reached(tmp_path):
    path = tmp_path / "numbers.json"
    done = run_report("--json", path)
    assert done.returncode == 0, done.stdout + done.stderr
    shares = json.loads(path.read_text(encoding="utf-8"))["shares"]
    assert {share["language"] for share in shares} == set(OWN_PROSE)
    assert {share["kind"] for share in shares} == {"prose", *JUNK_KINDS}
    for share in shares:
        assert share["num_kept"] + sum(share["reasons"].values()) == share["num_documents"]


def test_settings_have_an_effect_and_misses_are_told():
    done = run_report("data_prep.quality.rules=[c4]", "data_prep.quality.by_language.ru.min_sentences=99")
    assert done.returncode == 1
    assert "missed: ru prose: 1 document; c4_few_sentences 1" in done.stdout


def test_the_goal_is_reached_in_all_scripts(tmp_path, monkeypatch):
    """Vowel signs, marks behind syllables, close relatives, long words."""
    monkeypatch.setattr(quality_report, "NUM_JUNK", 8)
    for name, text in DECLARATION.items():
        place = tmp_path / "prose" / name / "one.txt"
        place.parent.mkdir(parents=True)
        place.write_text(text, encoding="utf-8")
    done = run_report("--prose", tmp_path / "prose")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_missing_directory_is_named(tmp_path):
    done = run_report("--samples", tmp_path / "none")
    assert done.returncode == 2 and "--samples: no such directory" in done.stderr


def test_prose_is_the_long_lines_of_pages(tmp_path):
    lines = [
        f"This is paragraph number {number}, and it is long enough to be taken for a paragraph of prose. It ends here."
        for number in range(6)
    ]
    page = "\n".join(
        ["Home", *lines, "• Menu entry that is rather long but is a bullet all the same, so it goes.", "x = {1}"]
    )
    # Compression is recognised by content, so the name may say what is not the case.
    write_jsonl(tmp_path / "a.jsonl.gz", [{"text": page}, {"text": page}, {"text": "\n".join(lines[:2])}])
    assert read_prose(tmp_path, languages=("en",), max_documents=9) == {"en": ["\n\n".join(lines)]}


@pytest.mark.parametrize("kind", JUNK_KINDS)
def test_junk_is_the_same_each_time(kind):
    first, again, other = (
        make_junk(OWN_PROSE["ko"], kind=kind, seed=seed, characters_per_word=0) for seed in (1, 1, 2)
    )
    assert first == again != other
