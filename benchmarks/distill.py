"""Compare a model of half the depth that learns from a teacher with the same model that learns from text alone.

Both take the same steps on the same tokens of the quickstart's data, from the same weights; the teacher is the
quickstart's run. Each pair has a seed. Needs `make quickstart`. Prints one JSON line with the validation losses, which
are the cross entropy of held-out text, in nats a token.

    python -m benchmarks.distill [--teacher outputs/quickstart] [--seeds 1 2] [--steps 250] [OVERRIDES]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.output import take_stdout

FIGURES = take_stdout() if __name__ == "__main__" else sys.stdout  # before libraries are imported that write to it

NUM_LAYERS = 2
"""Half of the quickstart's."""


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, default=Path("outputs/quickstart"), help="default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=250, help="default: %(default)s")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDES", help="of both runs, such as distill.weight=0.7")
    arguments = parser.parse_args()
    alone, taught = [], []
    with tempfile.TemporaryDirectory(prefix="trireme-distill-") as folder:
        for seed in arguments.seeds:
            common = [
                "experiment=quickstart",
                "parallel=dp2",
                f"model.num_layers={NUM_LAYERS}",
                f"training.seed={seed}",
                f"training.train_iters={arguments.steps}",
                f"training.eval_interval={arguments.steps}",
                "training.eval_iters=null",
                "checkpoint.save_interval=0",
                "logging.wandb.mode=disabled",
                "logging.log_interval=50",
                f"output_dir={folder}",
                *arguments.overrides,
            ]
            alone.append(train([*common, f"run_name=alone_{seed}"], output=Path(folder, f"alone_{seed}")))
            teacher = f"distill.teacher={arguments.teacher.absolute()}"
            taught.append(train([*common, teacher, f"run_name=taught_{seed}"], output=Path(folder, f"taught_{seed}")))
    differences = [own - other for own, other in zip(taught, alone, strict=True)]
    result = {
        "num_layers": NUM_LAYERS,
        "steps": arguments.steps,
        "overrides": arguments.overrides,
        "seeds": arguments.seeds,
        "validation_loss_alone": [round(loss, 4) for loss in alone],
        "validation_loss_distilled": [round(loss, 4) for loss in taught],
        "mean_difference": round(statistics.mean(differences), 4),
        "is_better_with_every_seed": max(differences) < 0,
        "cores": os.cpu_count(),
    }
    print(json.dumps(result), file=FIGURES)
    return 0


def train(overrides: list[str], *, output: Path) -> float:
    """Train one model; return its last validation loss."""
    subprocess.run([sys.executable, "-m", "launch.local", *overrides], check=True, stdout=sys.stderr)
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return float([record["loss"] for record in records if record["kind"] == "validation"][-1])


if __name__ == "__main__":
    sys.exit(main())
