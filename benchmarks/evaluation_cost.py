"""Compare what evaluation in a run says that it costs with what it does cost: the same run with and without it.

The quickstart's shape is trained on its data in one process, in alternating rounds. What it says is the sum of the
durations that its records name; what it costs is the difference of the wall times of the two runs, which has in it
what comes with it: reading the suite, saving the step that is evaluated, the first step afterwards. Needs
`make quickstart`. Some two minutes a round on an idle core. Prints one JSON line.

    python -m benchmarks.evaluation_cost [--rounds 5] [--steps 100] [--interval 10] [--data outputs/quickstart/data]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.output import take_stdout

FIGURES = take_stdout() if __name__ == "__main__" else sys.stdout  # before libraries are imported that write to it


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="of a run (default: %(default)s)")
    parser.add_argument("--interval", type=int, default=10, help="steps between evaluations (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("outputs/quickstart/data"), help="default: %(default)s")
    arguments = parser.parse_args()
    data = arguments.data.absolute()
    extra, claimed, shares = [], [], []
    with tempfile.TemporaryDirectory(prefix="trireme-evaluation-") as folder:
        common = [
            "experiment=quickstart",
            "parallel=single",
            f"data.train=[{{paths:[{data}/train]}}]",
            f"data.validation=[{{paths:[{data}/validation]}}]",
            f"tokenizer.path={data}/tokenizer.model",
            f"training.train_iters={arguments.steps}",
            f"training.eval_interval={arguments.steps}",
            "checkpoint.save_interval=0",
            "logging.wandb.mode=disabled",
            f"output_dir={folder}",
        ]
        for number in range(arguments.rounds):
            seconds = {}
            for name in ("with", "without") if number % 2 else ("without", "with"):
                further = [f"evaluation.interval={arguments.interval}"] if name == "with" else []
                seconds[name] = train([*common, *further, f"run_name={name}_{number}"])
            records = [
                json.loads(line) for line in Path(folder, f"with_{number}", "metrics.jsonl").read_text().splitlines()
            ]
            durations = [record["seconds"] for record in records if record["kind"] == "evaluation"]
            extra.append(seconds["with"] - seconds["without"])
            claimed.append(sum(durations))
            shares.append(extra[-1] / seconds["with"])
    ratios = [cost / said for cost, said in zip(extra, claimed, strict=True)]
    result = {
        "steps": arguments.steps,
        "num_evaluations": len(durations),
        "said_seconds": [round(value, 2) for value in claimed],
        "cost_seconds": [round(value, 2) for value in extra],
        "median_cost_of_said": round(statistics.median(ratios), 3),
        "median_share_of_the_run": round(statistics.median(shares), 3),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result), file=FIGURES)
    return 0


def train(overrides: list[str]) -> float:
    """Train one model; return the seconds of the process."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "trainer.train", *overrides], check=True, stdout=sys.stderr)
    return time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
