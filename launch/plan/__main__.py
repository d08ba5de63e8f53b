"""Memory, throughput and the best layouts of a run, before any device is asked for.

usage: python -m launch.plan [WORD=VALUE ...] OVERRIDES

OVERRIDES are those of `trainer.train`. For example:

  python -m launch.plan model=llama_70b cluster=h100 cluster.num_nodes=64 precision=bf16 \
      training.global_batch_size=1024 tokens=15e12 html=plan.html

Words of the planner itself:
  tokens=N          tokens that the run is to see, for time and cost (default: those of training.train_iters)
  top=N             layouts shown (default 15)
  html=FILE         also write a page: memory of each stage, timeline, speed against memory, all refused sizes
  json=FILE         also write all figures
  calibrate=true    measure this host's devices instead (trainer.hardware_check), and save what later plans use
  calibration=FILE  use that measurement; none uses none (default: that of output_dir, for the same type of device)

The configured layout is predicted, or refused with what is wrong and the nearest ones that can be used; then all
layouts (TP, PP, VP, CP, EP, DP, micro batch, recomputation, engine and ZeRO stage) are ranked. No torch is imported.
docs/launch/before_you_launch.md says how figures come about and how far off they are.

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
from launch.plan.plan import Plan, make_plan
from launch.plan.table import open_console, print_plan
from trainer.config.derived import count_processes
from trainer.config.load import load_config
from trainer.config.schema import TrainConfig
from trireme.errors import exit_code_of


def main() -> int:
    """The command."""
    return exit_code_of(lambda: run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Plan, or measure.

    Raises:
        ConfigError: the command line cannot be read, or no layout could be used.
    """
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write((__doc__ or "").lstrip())
        return 0
    request = parse_request(arguments)
    config = load_config(request.overrides)
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
    """The coefficients, and what to say of a calibration."""
    fitted = load_coefficients()
    path = _calibration_file(config) if request.calibration == "auto" else Path(request.calibration)
    is_asked_for = request.calibration not in ("auto", "none")
    if request.calibration == "none" or not (path.is_file() or is_asked_for) or list(check_planner_input(config)):
        return fitted, ""
    measured, device = calibrate.load(path), planner_input_of(config).device
    if measured.device != device.name:
        return fitted, f"{path} is a measurement of {measured.device}, not of {device.name}: it is not used."
    return calibrate.apply(measured, fitted, device), f"Rates are those measured in {path}."


def to_json(plan: Plan) -> str:
    """All figures of a plan."""
    content = dataclasses.asdict(plan)
    for name in ("cloud", "num_shown_refusals"):
        del content[name]
    if plan.prediction is not None:
        content["prediction"]["step_time"]["total"] = float(plan.prediction.step_time.total)
        for stage, predicted in zip(content["prediction"]["stages"], plan.prediction.stages, strict=True):
            stage["total"] = float(predicted.total)
    return json.dumps(content, indent=1) + "\n"


if __name__ == "__main__":
    sys.exit(main())
