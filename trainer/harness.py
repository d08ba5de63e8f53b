"""Evaluate a checkpoint on tasks of EleutherAI's lm-evaluation-harness.

    trireme harness outputs/quickstart --tasks trireme_suite
    trireme harness PATH --include-path my_tasks --tasks my_task,trireme_cloze_en
    torchrun --nproc-per-node 2 -m trainer.harness PATH --tensor-model-parallel-size 2 --tasks trireme_suite

PATH is a run directory, whose latest valid checkpoint is loaded, an import, or a checkpoint, of any parallel layout.
Tasks are YAML files of the harness: those in the folders of --include-path (their data files are relative to them), the
suite that comes with Trireme (tag trireme_suite), and the harness's own, which download their data.

Logs a table of the scores, prints one line of JSON, and appends it to harness.json in the checkpoint's run
directory, or to --output: the scores, with template, versions, precision, batch size, seeds, and the step and hash of
the checkpoint. Exit codes: 0 done, 1 the model's output is not finite or --output cannot be written, 2 invalid input,
130 interrupted.
"""

import argparse
import datetime
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.evaluation.result_files import check_result_file, keep_result_of
from trainer.evaluation.tables import render_scores
from trainer.inference.command import run_on_ranks
from trainer.inference.options import add_model_options, check_model_options, model_options
from trireme.command import write_output
from trireme.errors import EXIT_OK, Violation, raise_if_any
from trireme.extras import check_extra
from trireme.processes import global_rank
from trireme.strict_json import to_json

if TYPE_CHECKING:
    from trainer.inference.loading import LoadedModel

RESULT_NAME = "harness.json"
_LOGGER = logging.getLogger(__name__)


def main() -> int:
    """Run the command."""
    return run_on_ranks(lambda: run(_parse()))


def run(arguments: argparse.Namespace) -> int:
    """Load the latest valid checkpoint, run the tasks, print and store their scores.

    Raises:
        ConfigError: the arguments, a task, the checkpoint or the tokenizer are invalid.
        RunStopped: the model's logits are not finite, or --output cannot be written.
    """
    raise_if_any(_check(arguments))
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Late: arguments are checked first, and the shim must be installed before Megatron-Core is imported.
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see above

    cpu_shim.install()
    from trainer.evaluation.likelihood import LikelihoodModel  # noqa: PLC0415 - see above
    from trainer.inference.loading import load_model  # noqa: PLC0415 - see above
    from trainer.parallel.world import stop_world  # noqa: PLC0415 - see above

    found = _find_tasks(arguments) if global_rank() == 0 else None
    loaded = load_model(model_options(arguments), purpose="be evaluated", packs_weights=False)
    raise_if_any(_check_template(arguments, loaded))
    model = LikelihoodModel(loaded, batch_size=arguments.max_batch_size)
    if not loaded.is_driver:
        model.follow()
        stop_world()
        return EXIT_OK
    from trainer.evaluation.harness_model import HarnessModel  # noqa: PLC0415 - an extra, on one rank only
    from trainer.evaluation.harness_run import HarnessOptions, run_tasks  # noqa: PLC0415 - as above

    options = HarnessOptions(
        num_fewshot=arguments.num_fewshot,
        limit=arguments.limit,
        seed=arguments.seed,
        apply_chat_template=arguments.apply_chat_template,
    )
    assert found is not None
    tasks, manager = found
    try:
        results = run_tasks(
            HarnessModel(model, seed=arguments.seed),
            tasks,
            manager=manager,
            batch_size=arguments.max_batch_size,
            options=options,
        )
    finally:
        model.stop()
    _report({**_describe_model(arguments, loaded), **asdict(options), "results": results}, arguments, loaded)
    stop_world()
    return EXIT_OK


def _find_tasks(arguments: argparse.Namespace) -> Any:
    """Find the tasks before the model is loaded."""
    from trainer.evaluation.harness_run import find_tasks  # noqa: PLC0415 - an extra, on one rank only

    names = [name.strip() for name in arguments.tasks.split(",") if name.strip()]
    return find_tasks(names, include_paths=[path.expanduser() for path in arguments.include_path])


def _check_template(arguments: argparse.Namespace, loaded: "LoadedModel") -> list[Violation]:
    if not arguments.apply_chat_template or loaded.chat_template is not None:
        return []
    message, fix = f"requires a chat template, and {loaded.checkpoint} has none", "Leave it out."
    return [Violation(path="--apply-chat-template", value="", message=message, fix=fix)]


def _describe_model(arguments: argparse.Namespace, loaded: "LoadedModel") -> dict[str, Any]:
    """Return what the scores depend on, but for the tasks."""
    from trainer.checkpoint.trainer_state import library_versions  # noqa: PLC0415 - see run
    from trainer.evaluation.harness_run import harness_version  # noqa: PLC0415 - see run
    from trainer.evaluation.results import describe_layout, describe_model  # noqa: PLC0415 - see run

    options = model_options(arguments)
    return {
        **describe_model(options, checkpoint=loaded.checkpoint, tokenizer_sha256=loaded.tokenizer.sha256),
        "context_length": loaded.context_length,
        "layout": {"world_size": loaded.world.world_size, **describe_layout(options)},
        "harness_version": harness_version(),
        "versions": library_versions("transformers", "datasets"),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _report(result: dict[str, Any], arguments: argparse.Namespace, loaded: "LoadedModel") -> None:
    try:
        keep_result_of(loaded.checkpoint, result, name=RESULT_NAME, output=arguments.output)
    finally:
        _LOGGER.info("Scores:\n%s", render_scores(result["results"]))
        write_output(to_json(result) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trireme harness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(
        parser,
        max_batch_size=16,
        batch="bounds memory: texts that are generated at once; for each of them up to 256 tokens are scored at once",
    )
    group = parser.add_argument_group("tasks")
    group.add_argument("--tasks", required=True, metavar="NAME[,NAME]", help="tasks, groups or tags")
    group.add_argument(
        "--include-path",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder with YAML files of tasks; may be repeated",
    )
    group.add_argument(
        "--num-fewshot", type=int, metavar="N", help="examples before each question (default: the task's)"
    )
    group.add_argument("--limit", type=int, metavar="N", help="items of each task at most (default: all)")
    group.add_argument("--apply-chat-template", action="store_true", help="ask in the form of the chat template")
    group.add_argument("--seed", type=int, default=1234, help="of examples and sampling (default: %(default)s)")
    group.add_argument(
        "--output", type=Path, metavar="FILE", help=f"results (default: {RESULT_NAME} in the run directory)"
    )
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> list[Violation]:
    """Return the errors of all arguments."""
    found = check_extra("evaluation", ("lm_eval", "datasets")) + check_model_options(arguments)
    rules = (
        ("num_fewshot", "must be at least 0", arguments.num_fewshot is None or arguments.num_fewshot >= 0),
        ("limit", "must be at least 1", arguments.limit is None or arguments.limit >= 1),
        # NumPy's seeds have 32 bits.
        ("seed", f"must be between 0 and {2**32 - 1}", 0 <= arguments.seed <= 2**32 - 1),
        ("tasks", "must name a task", any(name.strip() for name in arguments.tasks.split(","))),
    )
    for name, message, holds in rules:
        if not holds:
            path = f"--{name.replace('_', '-')}"
            found.append(Violation(path=path, value=getattr(arguments, name), message=message, fix=""))
    found += check_result_file(arguments.output, option="--output")
    for path in arguments.include_path:
        if not path.expanduser().is_dir():
            fix = "Give a folder with YAML files."
            found.append(Violation(path="--include-path", value=path, message="is not a folder", fix=fix))
    return found


if __name__ == "__main__":
    sys.exit(main())
