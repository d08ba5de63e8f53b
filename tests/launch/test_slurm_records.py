"""What launch.slurm leaves and reads in a run directory, where the disk is full or a record was written by half."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch.slurm.__main__ import main
from launch.slurm.run_record import Submission, add_submission, forget_last_submission, read_submissions
from launch.slurm.runs import split_evenly
from tests.trireme.small_disk import fill, small_file_system

FIRST = Submission(stamp="20260131-235959", jobs=("12",), script="/runs/first/job.sbatch", outputs=("/runs/12.out",))
SECOND = Submission(stamp="20260201-000000", jobs=("13_0",), script="/runs/first/job.sbatch", outputs=("/runs/13.out",))


def test_a_truncated_record_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = tmp_path / "slurm" / "submissions.jsonl"
    records.parent.mkdir()
    records.write_text('{"stamp": "20260130-000000", "jobs": ["1')
    add_submission(tmp_path, FIRST)
    with records.open("a") as file:
        file.write('{"stamp": "x"}\n[]\n')
    add_submission(tmp_path, SECOND)
    assert read_submissions(tmp_path) == [FIRST, SECOND]
    warnings = capsys.readouterr().err.splitlines()
    assert [line.partition(": line ")[2][:1] for line in warnings] == ["1", "3", "4"]
    assert warnings[0].startswith(f"warning: {records}: line 1 is not a valid record and is skipped (got ")


def test_a_record_is_taken_back(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    add_submission(tmp_path, FIRST)
    add_submission(tmp_path, SECOND)
    forget_last_submission(tmp_path, FIRST.stamp)
    assert read_submissions(tmp_path) == [FIRST, SECOND], "it is not the last one"
    forget_last_submission(tmp_path, SECOND.stamp)
    assert read_submissions(tmp_path) == [FIRST]
    forget_last_submission(tmp_path, FIRST.stamp)
    assert list((tmp_path / "slurm").iterdir()) == []


def test_a_record_that_does_not_fit_on_the_disk_is_removed(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", kibibytes=64) as place:
        (place / "slurm").mkdir()
        add_submission(place, FIRST)
        fill(place)
        full = Submission(stamp="x", jobs=tuple(map(str, range(2000))), script="", outputs=())
        with pytest.raises(OSError, match="No space left"):
            add_submission(place, full)
        assert read_submissions(place) == [FIRST]


def test_a_full_disk_is_reported_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_file_system(tmp_path / "small", kibibytes=512) as place:
        run = ("model.vocab_size=8000", "data.train=[{paths:[/data/wiki]}]", "run_name=first")
        monkeypatch.setattr(sys, "argv", ["launch.slurm", *run, f"output_dir={place}/new/runs"])
        assert main() == 1
        said = capsys.readouterr().err
        assert said.startswith(f"{place}/new/runs/first/slurm/") and said.count("\n") == 1
        assert ": failed to write the files of the submission: " in said
        assert "No space left on device" in said and "Nothing was submitted. Free disk space" in said
        assert list(place.iterdir()) == []


def test_runs_are_split_evenly() -> None:
    assert split_evenly(range(5), 2) == [[0, 1, 2], [3, 4]]
    assert split_evenly(range(6), 3) == [[0, 1], [2, 3], [4, 5]]
    assert split_evenly("ab", 2) == [["a"], ["b"]]


def test_half_a_list_of_a_preparations_jobs_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a note")
    jobs = tmp_path / "out" / ".preparing" / "jobs"
    jobs.mkdir(parents=True)
    (jobs / "submitted.json").write_text('["12", "1')
    sources = f"data_prep.sources=[{{name:notes,kind:text,paths:['{tmp_path}/*.txt']}}]"
    command = ("data_prep.executor.kind=slurm", sources, f"data_prep.output_dir={tmp_path}/out")
    done = subprocess.run([sys.executable, "-m", "data_tools.prepare", *command], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{jobs}/submitted.json is incomplete, so jobs of this preparation may still be active." in done.stderr
