"""The examples run as they stand, and do what they say."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
pytestmark = pytest.mark.long


def run(name: str, *arguments: object, cwd: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = [str(EXAMPLES / name), *map(str, arguments)]
    if name.endswith(".py"):
        command.insert(0, sys.executable)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_own_text_then_another_layout_then_a_drawing(tmp_path: Path) -> None:
    run("own_text.sh", tmp_path / "own text", cwd=tmp_path)
    data = tmp_path / "own text" / "data"
    assert "each once" in run("resume_elsewhere.sh", data, tmp_path / "resumed", cwd=tmp_path)
    run("hugging_face.sh", tmp_path / "own text" / "run", data, tmp_path / "hugging face", cwd=tmp_path)
    assert (tmp_path / "hugging face" / "exported" / "model.safetensors").is_file()
    records = map(json.loads, (tmp_path / "hugging face" / "continued" / "metrics.jsonl").read_text().splitlines())
    trained = json.loads((tmp_path / "own text" / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert next(record["loss"] for record in records if record["kind"] == "train") < trained["loss"] - 1
    drawing = ET.fromstring(
        run("draw_loss.py", tmp_path / "own text" / "run", tmp_path / "resumed" / "run", cwd=tmp_path)
    )
    lines = drawing.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [40, 20]


def test_a_filter_of_ones_own_drops_what_it_says(tmp_path: Path) -> None:
    run("warc_with_own_filter/run.sh", tmp_path / "out", cwd=tmp_path)
    ledger = json.loads((tmp_path / "out" / "data" / "ledger.json").read_text())
    assert ledger["totals"]["dropped"]["step_DropShortTitles"] == 2  # pages 3 and 6 of six


def test_an_8b_is_planned_and_its_job_rendered(tmp_path: Path) -> None:
    output = run("plan_and_submit.sh", tmp_path / "out", cwd=tmp_path)
    assert "#SBATCH --nodes=4" in output
    assert (tmp_path / "out" / "plan.html").exists()
