"""Prepare token shards from raw files: trireme prepare data_prep=OPTION [data_prep.FIELD=VALUE ...]"""

import json
import sys
from pathlib import Path

from data_tools.config.schema import DataPrepConfig
from data_tools.errors import BadRecordError, NothingKeptError, PreparationError
from data_tools.executors.ray import run_on_ray
from data_tools.executors.slurm import submit_jobs
from data_tools.output.publish import REPORT_NAME, WORK_NAME, exclusive_lock, find_finished
from data_tools.output.stats import find_warnings, summarize
from data_tools.stages.cache import Stage
from data_tools.stages.preparation import Preparation, Share, Task, load_task
from data_tools.stages.run import run_stage, write_report_best_effort
from data_tools.work.progress import read_timings
from trireme.command import EXIT_INTERRUPTED
from trireme.errors import EXIT_BAD_INPUT, EXIT_OK, EXIT_STOPPED, exit_code_of


def prepare(task: Task) -> bool:
    """Run a preparation, or submit it to Slurm.

    Returns:
        Whether there was anything to do; False if it was already finished.
    Raises:
        ConfigError: the output directory cannot be used.
        PreparationError: it cannot continue; finished work is kept for the next run, apart from the output.
    """
    output = Path(task.config.output_dir)
    with exclusive_lock(output):
        preparation = Preparation.of(task)
        if find_finished(output, preparation.description, overwrite=task.config.overwrite):
            if not (output / REPORT_NAME).exists():  # killed after the publication
                write_report_best_effort(output, read_timings(output))
            return False
        preparation.directories.create()
        preparation.directories.remove_others()
        try:
            match task.config.executor.kind:
                case "local":
                    # Assembling tokenizes what is not yet tokenized, and writes it meanwhile.
                    for stage in (Stage.READ, Stage.DECIDE, Stage.TRAIN_TOKENIZER, Stage.ASSEMBLE):
                        run_stage(stage, preparation, Share())
                case "ray":
                    run_on_ray(preparation)
                case "slurm":
                    submit_jobs(preparation)
        except OSError as error:
            path = error.filename or output
            raise PreparationError(f"{path}: {error.strerror or error}") from error
    return True


def _print_summary(config: DataPrepConfig, *, is_new: bool) -> None:
    output = Path(config.output_dir)
    stats = json.loads((output / "stats.json").read_text(encoding="utf-8"))
    ledger = json.loads((output / "ledger.json").read_text(encoding="utf-8"))
    if not is_new:
        print("Already up to date (same inputs and settings).")
    print("\n".join(summarize(output, stats=stats, ledger=ledger)))
    for warning in find_warnings(stats=stats, ledger=ledger):
        print(warning if warning.startswith(" ") else f"warning: {warning}", file=sys.stderr)


def run(overrides: list[str]) -> int:
    """Run the preparation of a command line; return the exit code.

    Raises:
        ConfigError: the settings or inputs are invalid.
    """
    task = load_task(overrides)
    try:
        is_new = prepare(task)
    except BadRecordError as error:
        print(f"Preparation stopped at the first bad record:\n  {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except NothingKeptError as error:
        print(f"Preparation stopped:\n  {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except PreparationError as error:
        print(f"Preparation stopped:\n  {error}\n{_how_to_resume(task)}", file=sys.stderr)
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print(f"Interrupted. {_how_to_resume(task)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    if not is_new or task.config.executor.kind != "slurm":
        _print_summary(task.config, is_new=is_new)
    return 0


def _how_to_resume(task: Task) -> str:
    work = Path(task.config.output_dir) / WORK_NAME
    return f"Partial results are in {work}; rerun the same command to resume."


_SHORTEST = """trireme prepare 'data_prep.sources=[{name:notes,kind:text,paths:["notes/*.txt"]}]'"""
USAGE = f"""\
usage: trireme prepare data_prep=OPTION [data_prep.FIELD=VALUE ...]

Prepare token shards from raw files. Options are the files in conf/data_prep/; docs/reference/data_prep.md lists all
fields, and docs/data/preparing.md explains how to use them. Example:
  {_SHORTEST} \\
    data_prep.output_dir=outputs/notes
"""
NO_INPUT = f"""\
data_prep.sources: no input configured. To prepare the text files of a directory notes in outputs/data, write

  {_SHORTEST}

or choose one of the options that `trireme prepare --help` names.\
"""


def main() -> int:
    """Run the command."""
    overrides = sys.argv[1:]
    if {"-h", "--help"} & set(overrides):
        print(USAGE, end="")
        return EXIT_OK
    if not overrides:
        print(NO_INPUT, file=sys.stderr)
        return EXIT_BAD_INPUT
    return exit_code_of(lambda: run(overrides))


if __name__ == "__main__":
    sys.exit(main())
