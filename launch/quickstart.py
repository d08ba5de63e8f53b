"""Run the end-to-end demo on real data, on this machine's CPU: crawl, prepare, train, resume, evaluate, generate.

Then export the model for Hugging Face transformers.

usage: python -m launch.quickstart [--output DIRECTORY] [--max-pages N] [OVERRIDES]

Each step is a command that you could type yourself; it is printed before it runs. OVERRIDES are passed to training and
evaluation, for example training.train_iters=40. Completed steps are skipped; remove the directory to start over.

Exit codes: 0 done; 75 training was stopped by a signal and saved a checkpoint; otherwise that of the step that failed.
"""

import argparse
import glob
import itertools
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config.load import load_config
from trainer.config.schema import TrainConfig
from trireme.config.override_line import quote_text
from trireme.errors import exit_code_of
from trireme.progress import format_duration
from trireme.stop_signals import SIGNAL_BASE, signals_passed_to

DEFAULT_OUTPUT = Path("outputs/quickstart")
PROMPT = "The history of"
NUM_LOST_STEPS = 5
"""Steps that the first half trains past its checkpoint; the second half repeats them and must get equal losses."""
BLOCKS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 60


class PartFailed(Exception):
    """Report that a command of the quickstart failed."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.quickstart", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="default: %(default)s")
    parser.add_argument("--max-pages", type=int, default=None, help="maximum number of pages to crawl")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDES")
    arguments = parser.parse_args()
    try:
        return exit_code_of(lambda: Quickstart(arguments).run())
    except PartFailed as error:
        print(f"quickstart: the command above failed ({error})", file=sys.stderr)
        return error.code


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """Compare the losses of the steps that were trained before the stop and again after it."""

    first_step: int
    last_step: int
    is_equal: bool
    largest_difference: float


class Quickstart:
    """Run all steps of the demo."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.output: Path = arguments.output
        self.max_pages: int | None = arguments.max_pages
        self.overrides = [*self._places(), *arguments.overrides]
        self.config: TrainConfig = load_config(self.overrides)
        self.seconds: dict[str, float] = {}

    def run(self) -> int:
        """Run every step that is not done yet, then print a summary."""
        self._part("1/7 Download data: a Wikipedia dump and a crawl of the Python manual", self._get_input)
        self._part("2/7 Prepare: extract, clean, deduplicate, tokenize, pack", self._prepare)
        first_losses = self._part("3/7 Train the first half on 4 processes, then stop", self._train_first_half)
        self._part("4/7 Resume from the checkpoint and train to the end", self._train_to_the_end)
        evaluation = self._part("5/7 Evaluate on one process", self._evaluate)
        self._part("6/7 Generate text", self._generate)
        gate = self._part("7/7 Export for Hugging Face transformers, proved by logits", self._export)
        resumption = compare_losses(first_losses, self._losses()) if first_losses else None
        self._summarize(evaluation, resumption, gate)
        return 1 if resumption is not None and not resumption.is_equal else 0

    def _part(self, title: str, function: Any) -> Any:
        print(f"\n== {title}", flush=True)
        start = time.monotonic()
        result = function()
        self.seconds[title] = time.monotonic() - start
        return result

    def _places(self) -> list[str]:
        """Return the recipe, and the paths of its files when the output directory is not the default."""
        overrides = ["experiment=quickstart"]
        if self.output != DEFAULT_OUTPUT:
            data = self.output.absolute() / "data"
            overrides += [
                f"output_dir={quote_text(str(self.output.absolute().parent))}",
                f"run_name={quote_text(self.output.absolute().name)}",
                f"data.train=[{{paths:[{quote_text(f'{data}/train')}]}}]",
                f"data.validation=[{{paths:[{quote_text(f'{data}/validation')}]}}]",
                f"tokenizer.path={quote_text(f'{data}/tokenizer.model')}",
            ]
        return overrides

    def _get_input(self) -> None:
        pages = [] if self.max_pages is None else ["--max-pages", str(self.max_pages)]
        run_module("data_tools.quickstart_inputs", "--output", str(self.output / "raw"), *pages)

    def _prepare(self) -> None:
        run_module("data_tools.prepare", *self.preparation())

    def preparation(self) -> list[str]:
        """Return the overrides of the data preparation."""
        overrides = ["data_prep=quickstart"]
        if self.output != DEFAULT_OUTPUT:
            output = str(self.output.absolute())
            raw = glob.escape(output) + "/raw"
            overrides += [
                f"data_prep.output_dir={quote_text(f'{output}/data')}",
                f"data_prep.sources.0.paths=[{quote_text(f'{raw}/*.warc.gz')}]",
                f"data_prep.sources.1.paths=[{quote_text(f'{raw}/*.bz2')}]",
            ]
        return overrides

    def _train_first_half(self) -> dict[int, float]:
        """Train a few steps past a checkpoint and stop without saving.

        Returns:
            step -> loss; empty when an earlier quickstart has completed this step.
        """
        if any((self.output / "checkpoints").glob("step_*")):
            print(f"{self.output / 'checkpoints'} contains checkpoints: resuming from the latest")
            return {}
        middle = self.config.training.train_iters // 2
        run_module(
            "launch.local",
            *self.overrides,
            f"checkpoint.save_interval={middle}",
            "checkpoint.save_at_end=false",
            f"training.stop_after_step={middle + NUM_LOST_STEPS}",
        )
        return self._losses()

    def _train_to_the_end(self) -> None:
        run_module("launch.local", *self.overrides)

    def _evaluate(self) -> dict[str, Any]:
        run_module("trainer.evaluate", *self.overrides, "parallel=single")
        result: dict[str, Any] = json.loads((self.output / "evaluation.json").read_text())
        return result

    def _generate(self) -> None:
        run_module("trainer.generate", str(self.output), "--prompt", PROMPT, "--max-new-tokens", "96")

    def _export(self) -> dict[str, float]:
        """Export the model, unless an earlier quickstart has; return the figures of the proof."""
        target = self.output / "huggingface"
        if target.exists():
            print(f"{target} exists: keeping it")
            return {}
        line = run_module("trainer.export_hf", str(self.output), str(target), is_captured=True)
        gate: dict[str, float] = json.loads(line)["gate"]
        return gate

    def _losses(self) -> dict[int, float]:
        """Return step -> training loss, as recorded in metrics.jsonl."""
        records = map(json.loads, (self.output / "metrics.jsonl").read_text().splitlines())
        return {record["step"]: record["loss"] for record in records if record["kind"] == "train"}

    def _summarize(self, evaluation: dict[str, Any], resumption: Resumption | None, gate: dict[str, float]) -> None:
        statistics = json.loads((self.output / "data" / "stats.json").read_text())
        losses = self._losses()
        entropy = statistics["unigram_entropy_nats"]
        print("\n== Done")
        for title, seconds in self.seconds.items():
            print(f"  {format_duration(seconds):>8}  {title}")
        print(f"\n  training loss, steps 1 to {max(losses)}")
        print(f"  {losses[min(losses)]:.2f} {draw_curve(list(losses.values()))} {losses[max(losses)]:.2f}")
        print(f"\n  validation loss             {evaluation['loss']:.4f} nats per token")
        print(f"  unigram entropy of the data {entropy:.4f} nats per token (reachable with token frequencies alone)")
        if resumption is not None:
            steps = f"losses of steps {resumption.first_step} to {resumption.last_step}, before the stop and after it,"
            if resumption.is_equal:
                print(f"  resume                      exact: {steps} are bit-identical")
            else:
                print(f"  resume                      NOT exact: {steps} differ by {resumption.largest_difference:.3g}")
        if gate:
            difference = gate["relative_difference"]
            print(f"  export                      logits differ from transformers' by {difference:.1e} of the largest")
        print()
        for what, place in (
            ("raw data", "raw"),
            ("shards, tokenizer, ledger", "data"),
            ("checkpoints", "checkpoints"),
            ("metrics", "metrics.jsonl"),
            ("W&B (offline)", "wandb"),
            ("logs of each rank", "logs"),
            ("configuration", "config.yaml"),
            ("export for transformers", "huggingface"),
        ):
            print(f"  {what:<27} {self.output / place}")
        print(f"\n  generate more text: trireme generate {self.output} --prompt 'Your prompt'")


def compare_losses(first: dict[int, float], second: dict[int, float]) -> Resumption:
    """Compare the losses up to the stop with those of the completed run.

    Args:
        first: step -> loss up to the stop.
        second: step -> loss of the whole run; steps before the checkpoint are the same records.
    """
    differences = [abs(loss - second[step]) for step, loss in first.items()]
    last = max(first)
    return Resumption(
        first_step=last - NUM_LOST_STEPS + 1,
        last_step=last,
        is_equal=max(differences) == 0.0,
        largest_difference=max(differences),
    )


def draw_curve(values: Sequence[float], *, width: int = CURVE_WIDTH) -> str:
    """Draw values as a line of block characters, each the mean of consecutive values."""
    width = min(width, len(values))
    edges = [round(index * len(values) / width) for index in range(width + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in itertools.pairwise(edges) if end > start]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(BLOCKS[round((mean - low) / span * (len(BLOCKS) - 1))] for mean in means)


def run_module(module: str, *arguments: str, is_captured: bool = False) -> str:
    """Print a command of this project and run it.

    Args:
        is_captured: print its output when it is done, and return it.
    Raises:
        PartFailed: its exit code is not 0.
    """
    print(f"$ {shlex.join(['python', '-m', module, *arguments])}", flush=True)
    command = [sys.executable, "-m", module, *arguments]
    pipe = subprocess.PIPE if is_captured else None
    with subprocess.Popen(command, stdout=pipe, text=True) as process, signals_passed_to(process):
        output = process.communicate()[0] or ""
        code = process.returncode
    print(output, end="", flush=True)
    if code:
        raise PartFailed(code if code > 0 else SIGNAL_BASE - code)
    return output


if __name__ == "__main__":
    sys.exit(main())
