"""The quickstart's own arithmetic, and the whole chain on real input, shortened."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools.stages.preparation import load_task
from launch.quickstart import Quickstart, compare_losses, draw_curve

REPOSITORY = Path(__file__).resolve().parents[2]


def test_curve_shows_the_highest_and_the_lowest() -> None:
    assert draw_curve([8.0, 1.0]) == "█▁"
    assert draw_curve([float(value) for value in range(8)]) == "▁▂▃▄▅▆▇█"
    assert draw_curve([2.0, 2.0]) == "▁▁"
    assert len(draw_curve([float(value) for value in range(1000)], width=60)) == 60


def test_steps_taken_twice_are_compared() -> None:
    first = {step: 1.0 / step for step in range(1, 26)}
    assert compare_losses(first, {**first, 26: 0.0}).is_equal
    other = compare_losses(first, {**first, 24: first[24] + 1e-7})
    assert not other.is_equal
    assert other.largest_difference == pytest.approx(1e-7)
    assert (other.first_step, other.last_step) == (21, 25)


def test_the_output_directory_can_be_anywhere(tmp_path: Path) -> None:
    output = tmp_path / """größe '"#&!()[a]{}=,;""" / "run"
    (output / "raw").mkdir(parents=True)
    names = {"pages.warc.gz", "wiki-pages-articles.xml.bz2"}
    for name in names:
        (output / "raw" / name).touch()
    quickstart = Quickstart(argparse.Namespace(output=output, max_pages=None, overrides=[]))
    assert Path(quickstart.config.output_dir, quickstart.config.run_name) == output
    assert quickstart.config.data.train[0].paths == [f"{output}/data/train"]
    task = load_task(quickstart.preparation())
    assert task.config.output_dir == f"{output}/data"
    assert {Path(file.path).name for file in task.files} == names


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_whole_job(tmp_path: Path) -> None:
    output = tmp_path / "quickstart"
    command = [sys.executable, "-m", "launch.quickstart", "--output", str(output), "--max-pages", "30"]
    small = ["model.num_layers=2", "training.train_iters=16", "training.eval_interval=8", "training.eval_iters=1"]
    fast = ["lr_schedule.warmup_steps=2", "checkpoint.save_interval=8", "logging.progress=off"]
    result = subprocess.run(
        [*command, *small, *fast], cwd=REPOSITORY, capture_output=True, text=True, timeout=840, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "exact: losses of steps 9 to 13" in result.stdout
    match = re.search(r"validation loss +([\d.]+) nats.*\n.*unigram entropy of the data +([\d.]+) nats", result.stdout)
    assert match, result.stdout
    assert 0.0 < float(match.group(1)) < 9.1
    assert 4.0 < float(match.group(2)) < 9.1
    ledger = json.loads((output / "data" / "ledger.json").read_text())
    assert len(ledger["files"]) == 2
    totals = ledger["totals"]
    assert totals["read"] == totals["kept"] + sum(totals["dropped"].values()) + sum(totals["failed"].values())
    assert (output / "checkpoints" / "step_00000016" / "manifest.json").is_file()
    assert re.search(r"logits differ from transformers' by \d\.\de-0\d of the largest", result.stdout)
    exported = {path.name for path in output.glob("huggingface/*")}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= exported
    steps = [
        json.loads(line)["step"] for line in (output / "metrics.jsonl").read_text().splitlines() if "train" in line
    ]
    assert steps == list(range(1, 17))
