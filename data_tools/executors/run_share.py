"""Run a cluster job of a preparation: python -m data_tools.executors.run_share TASK STAGE [NUMBER/COUNT]

`data_tools.prepare` writes the file TASK and builds the command; NUMBER/COUNT is the share, counted from 0.
"""

import pickle
import sys
from contextlib import ExitStack
from pathlib import Path

from data_tools.errors import BadRecordError, PreparationError
from data_tools.output.publish import exclusive_lock
from data_tools.stages.cache import Stage, StageDirectories, shared_lock
from data_tools.stages.preparation import Preparation, Share, Task
from data_tools.stages.run import run_stage
from trireme.errors import EXIT_BAD_INPUT, EXIT_STOPPED, exit_code_of
from trireme.files import written_whole

TASK_NAME = "task.pickle"
LOCK_PATIENCE_SECONDS = 60.0
"""How long to wait for the command that submitted this job to release the directory."""
JOBS = {
    Stage.READ: (Stage.READ,),
    Stage.DECIDE: (Stage.DECIDE, Stage.TRAIN_TOKENIZER),
    Stage.TOKENIZE: (Stage.TOKENIZE,),
    Stage.ASSEMBLE: (Stage.ASSEMBLE,),
}
"""A cluster job -> the stages that it runs; joining two saves a wait in the queue."""
SHARED_STAGES = (Stage.READ, Stage.TOKENIZE)
"""Stages whose work is divided into shares."""


def save_task(preparation: Preparation) -> Path:
    """Write the preparation for the jobs to load; only its owner may read the file, since it may hold credentials."""
    path = preparation.directories.logs / TASK_NAME
    with written_whole(path, mode=0o600) as partial, open(partial, "wb") as stream:
        pickle.dump((preparation.task, preparation.directories), stream)
    return path


def stage_command(stage: Stage, *, task_file: Path, share: str | None = None) -> list[str]:
    """Build the arguments of python that run a job, or a share of it (`NUMBER/COUNT`)."""
    return ["-m", "data_tools.executors.run_share", str(task_file.absolute()), stage.value, *([share] if share else [])]


def _run(path: Path, job: Stage, share: Share) -> None:
    with open(path, "rb") as stream:
        task, directories = pickle.load(stream)
    preparation = _check_directories(task, directories)
    with ExitStack() as stack:
        if job not in SHARED_STAGES:
            stack.enter_context(exclusive_lock(preparation.output, patience_seconds=LOCK_PATIENCE_SECONDS))
        if job is not Stage.ASSEMBLE:
            stack.enter_context(shared_lock(directories.root))
        for stage in JOBS[job]:
            run_stage(stage, preparation, share)


def _check_directories(task: Task, directories: StageDirectories) -> Preparation:
    preparation = Preparation.of(task)
    if preparation.directories != directories:
        raise PreparationError(
            "The code, a library or a file named in the settings has changed since this job was submitted. Run"
            " trireme prepare again."
        )
    return preparation


def main() -> int:
    """Run the command."""
    arguments = sys.argv[1:]
    if len(arguments) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return EXIT_BAD_INPUT
    number, count = map(int, (arguments[2] if len(arguments) == 3 else "0/1").split("/"))

    def body() -> int:
        try:
            _run(Path(arguments[0]), Stage(arguments[1]), Share(number=number, count=count))
        except BadRecordError as error:
            print(error, file=sys.stderr)
            return EXIT_BAD_INPUT
        except PreparationError as error:
            print(error, file=sys.stderr)
            return EXIT_STOPPED
        return 0

    return exit_code_of(body)


if __name__ == "__main__":
    sys.exit(main())
