"""Predict memory, throughput and the best parallel layouts of a run, without any device.

usage: trireme plan [WORD=VALUE ...] OVERRIDES

OVERRIDES are those of `trireme train`. For example:

  trireme plan model=llama_70b cluster=h100 cluster.num_nodes=64 precision=bf16 \\
      training.global_batch_size=1024 tokens=15e12 html=plan.html

Options of the planner:
  tokens=N          training tokens, for time and cost (default: those of training.train_iters)
  top=N             number of layouts to show (default: 15)
  html=FILE         also write an HTML report: memory per stage, timeline, throughput against memory, rejected layouts
  json=FILE         also write all figures as JSON
  calibrate=true    measure this host's devices with trireme hardware-check, and save the rates for later plans
  calibration=FILE  use these measured rates; none uses none (default: those in output_dir, for the same device type)

The planner predicts the configured layout, or explains why it cannot be used and lists the nearest valid ones. Then it
ranks all layouts (TP, PP, VP, CP, EP, DP, micro-batch size, recomputation, engine and ZeRO stage). It does not import
torch. docs/launch/before_you_launch.md describes the model and its error bars.

Exit codes: 0 done, whether or not the configured layout can be used; 2 bad configuration.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.plan import calibrate
from launch.plan.cli import Request, parse_request
from launch.plan.coefficients import Coefficients, load_coefficients
from launch.plan.from_config import check_planner_input, planner_input_of
from launch.plan.page import write_page
from launch.plan.plan import Plan, check_plan, make_plan
from launch.plan.table import open_console, print_plan
from trainer.config.derived import count_processes
from trainer.config.load import load_config
from trainer.config.schema import TrainConfig
from trireme.errors import exit_code_of


def main() -> int:
    """Run the command."""
    return exit_code_of(lambda: run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Plan, or calibrate.

    Raises:
        ConfigError: the command line or a setting other than the layout is invalid.
    """
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write((__doc__ or "").lstrip())
        return 0
    request = parse_request(arguments)
    config = load_config(request.overrides, check=check_plan)
    if request.calibrate:
        return _calibrate(config)
    coefficients, note = _coefficients(request, config)
    plan = make_plan(config, coefficients, num_best=request.top, num_tokens=request.tokens, calibration_note=note)
    print_plan(plan, open_console())
    if request.html:
        write_page(plan, request.html)
    if request.json:
        request.json.write_text(to_json(plan), encoding="utf-8")
    return 0


def _calibrate(config: TrainConfig) -> int:
    num_processes = config.cluster.gpus_per_node or count_processes(config)
    measured = calibrate.measure(num_processes)
    path = _calibration_file(config)
    calibrate.save(measured, path)
    sys.stdout.write(f"{path}\n")
    for name, value in dataclasses.asdict(measured).items():
        sys.stdout.write(f"  {name}: {value}\n")
    return 0


def _calibration_file(config: TrainConfig) -> Path:
    return Path(config.output_dir, calibrate.CALIBRATION_NAME)


def _coefficients(request: Request, config: TrainConfig) -> tuple[Coefficients, str]:
    """Return the coefficients, and a note on the calibration."""
    fitted = load_coefficients()
    path = _calibration_file(config) if request.calibration == "auto" else Path(request.calibration)
    is_asked_for = request.calibration not in ("auto", "none")
    if request.calibration == "none" or not (path.is_file() or is_asked_for) or list(check_planner_input(config)):
        return fitted, ""
    measured, device = calibrate.load(path), planner_input_of(config).device
    if measured.device != device.name:
        return fitted, f"Ignoring {path}: it was measured on {measured.device}, not on {device.name}."
    return calibrate.apply(measured, fitted, device), f"Using the rates measured in {path}."


def to_json(plan: Plan) -> str:
    """Return all figures of a plan as JSON."""
    content = dataclasses.asdict(plan)
    for name in ("all_points", "num_shown_refusals"):
        del content[name]
    if plan.prediction is not None:
        content["prediction"]["step_time"]["total"] = float(plan.prediction.step_time.total)
        for stage, predicted in zip(content["prediction"]["stages"], plan.prediction.stages, strict=True):
            stage["total"] = float(predicted.total)
    return json.dumps(content, indent=1) + "\n"


if __name__ == "__main__":
    sys.exit(main())
