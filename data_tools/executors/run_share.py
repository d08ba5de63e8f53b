"""A share of one stage, as a cluster's jobs run it: python -m data_tools.executors.run_share TASK STAGE [NUMBER/COUNT]

`data_tools.prepare` writes the file TASK, and makes the command.
"""

import pickle
import sys
from contextlib import ExitStack
from pathlib import Path

from data_tools.errors import BadRecordError, PreparationError
from data_tools.output.publish import exclusive_lock
from data_tools.stages.cache import StageDirectories, shared_lock
from data_tools.stages.preparation import Preparation, Share, Stage, Task
from data_tools.stages.run import run_stage
from trireme.errors import EXIT_BAD_INPUT, EXIT_STOPPED, exit_code_of
from trireme.files import written_whole

TASK_NAME = "task.pickle"
LOCK_PATIENCE_SECONDS = 60.0
"""The command that submitted this job may not have left yet."""


def save_task(preparation: Preparation) -> Path:
    """Write what is to be prepared for `run_stage`; only its owner may read it, since it may hold credentials."""
    path = preparation.place.logs / TASK_NAME
    with written_whole(path, mode=0o600) as partial, open(partial, "wb") as stream:
        pickle.dump((preparation.task, preparation.place), stream)
    return path


def stage_command(stage: Stage, *, task_file: Path, share: str | None = None) -> list[str]:
    """Arguments of python that run a stage, or a share of it (`NUMBER/COUNT`)."""
    return ["-m", "data_tools.executors.run_share", str(task_file.absolute()), stage.value, *([share] if share else [])]


def _run(path: Path, stage: Stage, share: Share) -> None:
    with open(path, "rb") as stream:
        task, place = pickle.load(stream)
    preparation = _check_place(task, place)
    with ExitStack() as stack:
        if stage in (Stage.CHOOSE, Stage.ASSEMBLE):
            stack.enter_context(exclusive_lock(preparation.output, patience_seconds=LOCK_PATIENCE_SECONDS))
        if stage is not Stage.ASSEMBLE:
            stack.enter_context(shared_lock(place.root))
        run_stage(stage, preparation, share)


def _check_place(task: Task, place: StageDirectories) -> Preparation:
    preparation = Preparation.of(task)
    if preparation.place != place:
        raise PreparationError(
            "the code, its libraries or a settings file are not what they were when this job was made; run"
            " data_tools.prepare again"
        )
    return preparation


def main() -> int:
    """The command."""
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
