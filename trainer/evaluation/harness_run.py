"""Run tasks of lm-evaluation-harness; imported only where the extra `evaluation` is installed."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import lm_eval
from datasets.exceptions import DatasetsError
from jinja2 import TemplateError
from lm_eval import evaluator
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind
from lm_eval.tasks._yaml_loader import load_yaml

from trainer.evaluation.harness_model import HarnessModel
from trainer.suite.items import FOLDER
from trireme.errors import ConfigError, Violation
from trireme.strict_json import to_json

_LOGGER = logging.getLogger(__name__)
_TASK_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    StopIteration,
    DatasetsError,
    TemplateError,
)
"""What the harness, its library of data sets and its templates raise for a task's wrong files and fields."""
_TEMPLATE_FIELDS = (
    "description",
    "doc_to_text",
    "doc_to_target",
    "doc_to_choice",
    "target_delimiter",
    "fewshot_delimiter",
    "generation_kwargs",
    "output_type",
)
"""Fields of a task's configuration that decide what the model is asked."""


@dataclass(frozen=True, kw_only=True)
class HarnessOptions:
    """Hold the settings of a run of the harness, beside the model's."""

    num_fewshot: int | None = None
    """Examples before each question; None takes each task's own number."""
    limit: int | None = None
    """Items of each task at most."""
    seed: int = 1234
    """Of the choice of examples, of sampling and of the bootstrap."""
    apply_chat_template: bool = False


def find_tasks(names: Sequence[str], *, include_paths: Sequence[Path]) -> tuple[list[str], TaskManager]:
    """Find tasks by name, in the given folders, in this project's suite, and among the harness's own.

    The harness's own tasks are looked at only for names that are nowhere else. They download their data sets.

    Returns:
        what `lm_eval.simple_evaluate` takes: data files of a task in a folder are relative to its YAML file.
    Raises:
        ConfigError: a name is unknown, or the files of a task cannot be read.
    """
    folders = [str(folder) for folder in (FOLDER, *include_paths)]
    manager = TaskManager(include_path=folders, include_defaults=False)
    if any(name not in manager.task_index for name in names):
        manager = TaskManager(include_path=folders, include_defaults=True)
    unknown = [name for name in names if name not in manager.task_index]
    damaged = list(_find_damaged(include_paths))
    if unknown:
        local = TaskManager(include_path=folders, include_defaults=False).all_tasks
        message = f"is unknown; besides those of lm-evaluation-harness, there are {', '.join(local)}"
        fix = "Name a task, or give its folder with --include-path."
        found = [Violation(path="--tasks", value=name, message=message, fix=fix) for name in unknown]
        raise ConfigError([*found, *damaged])
    if damaged and any(manager.task_index[name].kind is not Kind.TASK for name in names):
        raise ConfigError(damaged)  # the harness skips such files: a tag's scores would be those of fewer tasks
    for violation in damaged:
        _LOGGER.warning("%s", violation)
    members = [member for name in names for member in _list_members(manager, name)]
    failed = []
    for member in members:
        try:
            _locate_data_files(manager, member)
        except Exception as error:  # a task's Python files are imported, which can raise anything
            message, fix = f"cannot be loaded: {type(error).__name__}: {error}", "Correct the task's YAML file."
            failed.append(Violation(path="--tasks", value=member, message=message, fix=fix))
    if failed:
        raise ConfigError(failed)
    return members, manager


def _find_damaged(folders: Sequence[Path]) -> Iterator[Violation]:
    """Yield YAML files of folders that cannot be parsed, which the harness skips without a word."""
    for folder in folders:
        for path in sorted(folder.glob("**/*.yaml")):
            try:
                load_yaml(path, resolve_func=False, recursive=True)
            except Exception as error:  # the harness skips a file for any
                message, fix = f"cannot be read: {' '.join(str(error).split())}", "Correct the file."
                yield Violation(path=str(path), value="", message=message, fix=fix)


def _list_members(manager: TaskManager, name: str) -> list[str]:
    """Return the tasks of a tag, or the name alone."""
    if manager.task_index[name].kind is not Kind.TAG:
        return [name]
    return sorted(key for key, other in manager.task_index.items() if name in other.tags)


def _locate_data_files(manager: TaskManager, name: str) -> None:
    """Make the data files of a task absolute, and of the tasks of a group, where they are beside its YAML file."""
    entry = manager.task_index.get(name)
    if entry is None or entry.yaml_path is None:
        return
    if entry.kind is Kind.GROUP:
        parts = (entry.cfg or {}).get("task") or []
        for part in parts if isinstance(parts, list) else [parts]:
            member = part.get("task", part.get("group")) if isinstance(part, Mapping) else part
            if isinstance(member, str) and member in manager.task_index:
                for one in _list_members(manager, member):
                    _locate_data_files(manager, one)
    if entry.kind is not Kind.TASK:
        return
    folder = entry.yaml_path.parent
    config: dict[str, Any] = load_yaml(entry.yaml_path, resolve_func=True, recursive=True)
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if not files:
        return

    def locate(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: locate(part) for key, part in value.items()}
        if isinstance(value, list):
            return [locate(part) for part in value]
        place = folder / str(value)
        return str(place.resolve()) if place.exists() else value

    entry.cfg = {**config, "dataset_kwargs": {**config["dataset_kwargs"], "data_files": locate(files)}}
    entry.yaml_path = None  # else the harness reads the file again


def run_tasks(
    model: HarnessModel, tasks: Sequence[str], *, manager: TaskManager, batch_size: int, options: HarnessOptions
) -> dict[str, Any]:
    """Run tasks.

    Returns:
        by name of the task: `metrics` (numbers, with standard errors where the harness has them), `num_items`,
        `num_fewshot`, `version` and `template` (what the model was asked).
    Raises:
        ConfigError: a task's data cannot be loaded.
    """
    # Its own messages are those of a program of its own.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        with _without_descriptions():
            output = lm_eval.simple_evaluate(
                model=model,
                tasks=list(tasks),
                num_fewshot=options.num_fewshot,
                batch_size=batch_size,
                limit=options.limit,
                bootstrap_iters=1000,
                log_samples=False,
                task_manager=manager,
                apply_chat_template=options.apply_chat_template,
                random_seed=options.seed,
                numpy_random_seed=options.seed,
                torch_random_seed=options.seed,
                fewshot_random_seed=options.seed,
            )
    except _TASK_ERRORS as error:
        message = f"cannot be run: {type(error).__name__}: {error}"
        fix = "Check the task's YAML file and its data. Tasks of the harness itself download their data."
        raise ConfigError([Violation(path="--tasks", value="", message=message, fix=fix)]) from error
    assert output is not None
    return {name: _describe(name, output) for name in output["results"]}


@contextlib.contextmanager
def _without_descriptions() -> Iterator[None]:
    """Leave out what the harness finds out about the host and the current directory's git repository.

    Our results say what they depend on; this takes seconds, and git complains where there is no repository.
    """
    with contextlib.ExitStack() as stack:
        for name in ("add_env_info", "get_git_commit_hash"):
            if hasattr(evaluator, name):
                stack.enter_context(mock.patch.object(evaluator, name, lambda *_: None))
        yield


def _describe(name: str, output: Mapping[str, Any]) -> dict[str, Any]:
    config = output["configs"].get(name, {})
    return {
        "metrics": {
            key.removesuffix(",none"): value
            for key, value in output["results"][name].items()
            if isinstance(value, int | float) and not isinstance(value, bool) and "," in key
        },
        "num_items": output.get("n-samples", {}).get(name, {}).get("effective"),
        "num_fewshot": output.get("n-shot", {}).get(name),
        "version": output["versions"].get(name),
        "template": {field: _plain(config[field]) for field in _TEMPLATE_FIELDS if config.get(field) is not None},
    }


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold; a function is described by its name."""
    try:
        to_json(value)
    except (TypeError, ValueError):
        return str(value)
    return value


def harness_version() -> str:
    """Return the installed version of lm-evaluation-harness."""
    return metadata.version("lm-eval")
