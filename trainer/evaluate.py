"""Measure a run's newest checkpoint on its validation set, under any layout.

    python -m trainer.evaluate experiment=quickstart parallel=single
    torchrun --nproc-per-node N -m trainer.evaluate OVERRIDES

Takes the overrides of `trainer.train`; `resume=PATH` names another checkpoint. Only weights are loaded. Prints one JSON
line, which is also written to RUN_DIRECTORY/evaluation.json. Exit codes: 0 done, 2 bad configuration or input.
"""

import json
import math
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from trainer.common.errors import ConfigError, Violation, exit_code_of
from trainer.common.logging import configure_logging
from trainer.config.schema import TrainConfig

RESULT_NAME = "evaluation.json"


def main() -> int:
    """The command."""
    configure_logging(rank=int(os.environ.get("RANK", "0")))
    return exit_code_of(lambda: run(sys.argv[1:]))


def run(overrides: list[str]) -> int:
    """Check everything, load the weights, evaluate, print.

    Raises:
        ConfigError: the configuration or an input cannot be used.
    """
    # Late, as in trainer.train: wrong input is answered first, and the shim must stand before Megatron-Core.
    from trainer.inputs import load_inputs  # noqa: PLC0415 - see above
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see above

    inputs = load_inputs(overrides, check_files=_check_files)
    config, plan = inputs.config, inputs.plan
    cpu_shim.install()
    from trainer.build import build_chunks, build_validation  # noqa: PLC0415 - see above
    from trainer.checkpoint.load import load_weights  # noqa: PLC0415 - see above
    from trainer.engine.forward import evaluate_step  # noqa: PLC0415 - see above
    from trainer.loop.validation import run_validation  # noqa: PLC0415 - see above
    from trainer.parallel.world import start_world, stop_world  # noqa: PLC0415 - see above
    from trainer.restore import find_checkpoint  # noqa: PLC0415 - see above

    world = start_world(config.parallel, timeout_seconds=config.cluster.timeout_seconds, seed=config.training.seed)
    checkpoint = find_checkpoint(config, plan=plan)
    assert checkpoint is not None
    chunks = build_chunks(
        config.model,
        parallel=config.parallel,
        precision=config.precision,
        padded_vocab_size=plan.padded_vocab_size,
        world=world,
        reset_position_ids=config.data.reset_position_ids,
    )
    state = load_weights(checkpoint, chunks=chunks)
    validation = build_validation(config, plan=plan, world=world)
    assert validation is not None
    result = run_validation(
        validation, evaluate=partial(evaluate_step, chunks, groups=world.groups, device=world.device)
    )
    validation.close()
    if world.is_main_rank:
        _report(
            {
                "checkpoint": str(checkpoint),
                "step": state.step,
                "loss": result.loss,
                "perplexity": math.exp(result.loss),
                "num_tokens": result.num_tokens,
            },
            run_directory=plan.run_directory,
        )
    stop_world()
    return 0


def _check_files(config: TrainConfig, vocab_size: int) -> list[Violation]:
    """The shards, and that there is something to evaluate, and something to evaluate it on."""
    from trainer.checkpoint.discovery import candidates  # noqa: PLC0415 - see run
    from trainer.inputs import check_data_files  # noqa: PLC0415 - see run

    violations = check_data_files(config, vocab_size)
    if not config.data.validation:
        rule, fix = "names no data to evaluate on", "write data.validation=[{paths:[/path/prefix]}]"
        violations.append(Violation(path="data.validation", value="[]", rule=rule, fix=fix))
    run_directory = Path(config.output_dir, config.run_name)
    try:
        if not candidates(config.resume, run_directory=run_directory):
            rule, fix = f"finds no checkpoint in {run_directory}", "name the run or its checkpoint: resume=PATH"
            violations.append(Violation(path="resume", value=config.resume, rule=rule, fix=fix))
    except ConfigError as error:
        violations += error.violations
    return violations


def _report(result: dict[str, Any], *, run_directory: Path) -> None:
    run_directory.mkdir(parents=True, exist_ok=True)
    line = json.dumps(result)
    (run_directory / RESULT_NAME).write_text(line + "\n")
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
