"""Evaluate a checkpoint on a validation set, under any parallel layout.

    trireme evaluate outputs/quickstart [OVERRIDES]
    torchrun --nproc-per-node N -m trainer.evaluate outputs/quickstart parallel=tp2 [OVERRIDES]
    trireme evaluate experiment=quickstart parallel=single
    trireme evaluate outputs/first outputs/second outputs/third/checkpoints/step_00000500 --report comparison.html

The first argument is a run directory, whose latest valid checkpoint is evaluated, or a checkpoint. Model, tokenizer,
data.validation and batch sizes are those of the run; the layout is data parallelism only. OVERRIDES change any of them,
such as data.validation=[{paths:[/data/other]}], training.eval_iters, training.micro_batch_size or parallel. Rows of
`trireme prepare-examples` bring their task and length. Without a path, OVERRIDES are those of `trainer.train`, and
`resume=PATH` names another checkpoint.

Several paths are evaluated one after another; then a table is logged, and --report writes it as a page with a plot.

Only weights are loaded. Prints one line of JSON, and writes it to evaluation.json in the checkpoint's run directory:
loss, perplexity and bits per byte, with 95 % intervals over documents, also by source and language where
PREFIX.documents.parquet has them. A figure that is not finite is null, and `note` gives the reason. Exit codes: 0 done,
2 invalid configuration or input, 130 interrupted.
"""

import dataclasses
import gc
import itertools
import logging
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException

from trainer.config.cluster import ClusterConfig
from trainer.config.examples import find_record
from trainer.config.finetune import HEAD_OF_TASK, FinetuneConfig
from trainer.config.load import dump_config, group_options, load_config, load_config_file
from trainer.config.run import CheckpointConfig, DatasetConfig, TokenizerConfig, TrainingConfig
from trainer.config.schema import RESUME_KEYWORDS, TrainConfig
from trireme.command import EXIT_INTERRUPTED, run_command, write_output
from trireme.config.override_line import parse_override
from trireme.config.path_text import BadPathError, expand_path
from trireme.errors import EXIT_OK, EXIT_STOPPED, ConfigError, RunStopped, Violation, raise_if_any
from trireme.files import write_whole
from trireme.logging import configure_logging
from trireme.processes import global_rank
from trireme.strict_json import to_json

if TYPE_CHECKING:
    from trainer.evaluation.documents import DocumentLosses
    from trainer.inputs import RunInputs
    from trireme.tokenizer.tokenizer import Tokenizer

RESULT_NAME = "evaluation.json"
UNREAD = (
    "data.train",
    "engine",
    "optimizer",
    "lr_schedule",
    "checkpoint",
    "recovery",
    "health",
    "logging",
    "output_dir",
    "cluster.slurm",
    "cluster.kubernetes",
    "training.train_iters",
    "training.stop_after_step",
    "training.eval_interval",
)
"""Fields of training only, whose errors do not prevent an evaluation."""
_LOGGER = logging.getLogger(__name__)


def main() -> int:
    """Run the command."""
    configure_logging(rank=global_rank())
    code = run_command(lambda: run(sys.argv[1:]))
    if code == EXIT_INTERRUPTED:
        os._exit(code)  # threads may wait in a collective for other ranks
    return code


def run(arguments: list[str]) -> int:
    """Check everything, load the weights, evaluate, print.

    Raises:
        ConfigError: the configuration or an input is invalid.
    """
    if {"--help", "-h"} & set(arguments):
        write_output((__doc__ or "").lstrip())
        return EXIT_OK
    arguments, report = _take_report(arguments)
    paths = list(itertools.takewhile(_is_path, arguments))
    overrides = arguments[len(paths) :]
    # All before the processes join: rank 0 checks files alone.
    prepared = [_prepare([*given, *overrides]) for given in [[path] for path in paths] or [[]]]
    results: list[dict[str, Any]] = []
    for inputs in prepared:
        if results:
            _leave_layout()
        results.append(_evaluate(inputs))
    from trainer.parallel.world import stop_world  # noqa: PLC0415 - imports torch; see _evaluate

    if global_rank() == 0 and (len(results) > 1 or report is not None):
        _compare(results, report=report)
    stop_world()
    return EXIT_OK


def _take_report(arguments: list[str]) -> tuple[list[str], Path | None]:
    """Separate --report FILE from the other arguments.

    Raises:
        ConfigError: FILE is missing, or its directory.
    """
    if "--report" not in arguments:
        return arguments, None
    place = arguments.index("--report")
    path = Path(arguments[place + 1]).expanduser() if place + 1 < len(arguments) else None
    if path is None or not path.parent.is_dir():
        message, fix = "must name a file in a directory that exists", "Give --report FILE.html."
        raise ConfigError([Violation(path="--report", value=path or "", message=message, fix=fix)])
    return arguments[:place] + arguments[place + 2 :], path


def _leave_layout() -> None:
    """Free the last model, so that the next one can be built; the processes stay joined."""
    from trainer.parallel.world import end_layout  # noqa: PLC0415 - imports torch; see _evaluate

    gc.collect()
    end_layout()


def _compare(results: "list[dict[str, Any]]", *, report: Path | None) -> None:
    from trainer.evaluation.comparison import find_difference, render_table, write_page  # noqa: PLC0415 - see _evaluate

    _LOGGER.info("Evaluations:\n%s", render_table(results))
    if difference := find_difference(results):
        _LOGGER.warning("%s", difference)
    if report is not None:
        try:
            write_page(results, report)
        except OSError as error:
            message = f"{report}: cannot be written: {error.strerror}. Free disk space, or write it elsewhere."
            raise RunStopped(message, exit_code=EXIT_STOPPED) from error
        _LOGGER.info("Wrote %s.", report)


def _prepare(arguments: list[str]) -> "RunInputs":
    """Load and check the configuration of one evaluation.

    Raises:
        ConfigError: the configuration or an input is invalid.
    """
    # Late, as in trainer.train: it imports torch.
    from trainer.inputs import load_inputs, main_rank_answers  # noqa: PLC0415 - see above

    with tempfile.TemporaryDirectory(prefix="trireme-evaluate-") as folder:
        if arguments and _is_path(arguments[0]):
            with main_rank_answers():
                config, values = _configure(Path(arguments[0]), arguments[1:])
            saved = Path(folder, "config.yaml")
            saved.write_text(dump_config(config), encoding="utf-8")
            arguments = [f"config_file={saved}", *values]
        return load_inputs(arguments, check_files=_check_files, unread=UNREAD)


def _evaluate(inputs: "RunInputs") -> dict[str, Any]:
    """Evaluate one checkpoint; print, store and return its result, which is empty on other ranks than 0.

    Raises:
        ConfigError: the checkpoint cannot be used.
    """
    # Late, as in trainer.train: input is checked first, and the shim is installed before Megatron-Core is imported.
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see above

    config, derived = inputs.config, inputs.derived
    cpu_shim.install()
    from trainer.build import build_objective, build_validation_scorer, wire_model  # noqa: PLC0415 - see above
    from trainer.build_data import build_validation, resets_positions  # noqa: PLC0415 - see above
    from trainer.checkpoint.compatibility import describe_changes  # noqa: PLC0415 - see above
    from trainer.checkpoint.discovery import choose_at  # noqa: PLC0415 - see above
    from trainer.checkpoint.load import load_weights  # noqa: PLC0415 - see above
    from trainer.engine.forward import evaluate_step  # noqa: PLC0415 - see above
    from trainer.evaluation.documents import describe_documents  # noqa: PLC0415 - see above
    from trainer.loop.train_loop import run_validation  # noqa: PLC0415 - see above
    from trainer.model.finite import find_not_finite, join_first  # noqa: PLC0415 - see above
    from trainer.parallel.world import start_world  # noqa: PLC0415 - see above

    world = start_world(config.parallel, timeout_seconds=config.cluster.timeout_seconds, seed=config.training.seed)
    checkpoint = choose_at(_target(config), verify=config.checkpoint.verify, name="resume")
    chunks = wire_model(
        config.model,
        parallel=config.parallel,
        precision=config.precision,
        padded_vocab_size=derived.padded_vocab_size,
        vocab_size=derived.vocab_size,
        world=world,
        reset_position_ids=resets_positions(config),
    )
    base = Path(config.lora.base) if config.lora.base is not None else None
    state = load_weights(checkpoint, chunks=chunks, base=base)
    for change in describe_changes(config.model, state=state):
        _LOGGER.warning("%s", change)
    damage = find_not_finite(chunks)
    if damage:
        _LOGGER.warning("The weights of %s contain %s.", checkpoint, join_first(damage))
    validation = build_validation(config, derived=derived, world=world, tokenizer=inputs.tokenizer)
    assert validation is not None
    documents = _observe_documents(config, validation=validation, world=world, tokenizer=inputs.tokenizer)
    scorer = build_validation_scorer(config, world=world, validation=validation, tokenizer=inputs.tokenizer)
    # Documents are of shards of text, scores of examples: there is one of them at most.
    observer = documents or scorer
    result = run_validation(
        validation,
        evaluate=partial(
            evaluate_step,
            chunks,
            groups=world.groups,
            device=world.device,
            objective=build_objective(config, derived=derived, world=world),
            observe=observer.observe if observer is not None else None,
        ),
        scorer=scorer,
    )
    validation.close()
    sums = documents.gather() if documents is not None else None
    if world.is_main_rank:
        described = describe_result(checkpoint, step=state.step, loss=result.loss, num_tokens=result.num_tokens)
        described |= {} if sums is None else describe_documents(sums)
        if config.finetune.task not in (None, "sft"):
            del described["perplexity"]
            if math.isfinite(result.loss):
                described.pop("note", None)
        described |= result.scores
        _report(described)
        return described
    return {}


def _observe_documents(
    config: TrainConfig, *, validation: Any, world: Any, tokenizer: "Tokenizer | None"
) -> "DocumentLosses | None":
    """Build what attributes losses to documents; None where targets are not the next tokens of texts."""
    from trainer.data.micro_batch import WindowReader  # noqa: PLC0415 - see _evaluate
    from trainer.evaluation.documents import DocumentLosses, count_bytes  # noqa: PLC0415 - see _evaluate

    reader = validation.reader
    if tokenizer is None or config.data.mask_prob is not None or not isinstance(reader, WindowReader):
        return None
    return DocumentLosses(
        reader.datasets,
        locations=validation.locations,
        num_bytes=count_bytes(tokenizer),
        # The other tensor-parallel ranks have copies of the same losses.
        is_collecting=world.tp_rank == 0,
        cp_rank=world.cp_rank,
        cp_size=world.cp_size,
    )


def describe_result(checkpoint: Path, *, step: int, loss: float, num_tokens: int) -> dict[str, Any]:
    """Build the content of evaluation.json.

    Returns:
        Plain values, with None for a loss or perplexity that is not finite, and then `note`, which gives the reason.
    Raises:
        ConfigError: no token was evaluated.
    """
    if num_tokens == 0:
        message = "contains no token that counts in the loss"
        fix = "Use other data, or set data.eod_mask_loss=false."
        raise ConfigError([Violation(path="data.validation", value="", message=message, fix=fix)])
    try:
        perplexity = math.exp(loss)
    except OverflowError:
        perplexity = math.inf
    result = {
        "checkpoint": str(checkpoint),
        "step": step,
        "loss": loss if math.isfinite(loss) else None,
        "perplexity": perplexity if math.isfinite(perplexity) else None,
        "num_tokens": num_tokens,
    }
    if math.isnan(loss):
        result["note"] = "The loss is not a number (NaN)."
    elif math.isinf(loss):
        result["note"] = "The loss is infinite."
    elif result["perplexity"] is None:
        result["note"] = "The perplexity, exp(loss), exceeds the range of a float."
    return result


def _is_path(argument: str) -> bool:
    """Return whether an argument is a path and not an override, which contains `=`; a path may contain it too."""
    return "=" not in argument or os.path.exists(argument)


def _configure(path: Path, overrides: list[str]) -> tuple[TrainConfig, list[str]]:
    """Build the configuration of an evaluation from a saved run; what it does not read has defaults.

    Returns:
        The configuration with the GROUP=OPTION overrides applied, and the remaining PATH=VALUE overrides.
    Raises:
        ConfigError: there is no checkpoint, or an option is invalid.
    """
    from trainer.checkpoint.tokenizer import find_config  # noqa: PLC0415 - imports torch; see _evaluate
    from trainer.saved_run import locate_datasets, open_saved_run  # noqa: PLC0415 - see above

    saved = open_saved_run(path, verify=False)
    state, config_file = saved.state, find_config(saved.checkpoint)
    model = state.model_config()
    if model.vocab_size is None and saved.tokenizer_path is None:
        model = dataclasses.replace(model, vocab_size=state.vocab_size or state.padded_vocab_size)
    config = TrainConfig(model=model)
    if config_file is not None:
        own = load_config_file(config_file)
        training = {
            name: getattr(own.training, name)
            for name in ("global_batch_size", "micro_batch_size", "eval_iters", "seed")
        }
        validation = locate_datasets(own.data.validation, config=own, run_directory=saved.run_directory)
        config = dataclasses.replace(
            config,
            run_name=own.run_name,
            output_dir=own.output_dir,
            training=TrainingConfig(**training),
            precision=own.precision,
            data=dataclasses.replace(own.data, train=[], validation=validation),
            checkpoint=CheckpointConfig(verify=own.checkpoint.verify),
            cluster=ClusterConfig(timeout_seconds=own.cluster.timeout_seconds),
            finetune=FinetuneConfig(task=own.finetune.task, class_weights=own.finetune.class_weights),
        )
        if own.finetune.task == "dpo":
            message = "has learned preferences, whose loss needs its reference: metrics.jsonl has its validations"
            fix = "Evaluate it on shards of text with finetune.task=null and data.validation."
            if not any(override.startswith("finetune.task=") for override in overrides):
                raise ConfigError([Violation(path=str(path), value="", message=message, fix=fix)])
    tokenizer = TokenizerConfig(path=str(saved.tokenizer_path) if saved.tokenizer_path else None)
    config = dataclasses.replace(config, tokenizer=tokenizer, resume=str(path.expanduser().absolute()))
    options, values = _split_overrides(path, overrides)
    if options:
        chosen = load_config([f"run_name={config.run_name}", *options.values()])
        config = dataclasses.replace(config, **{group: getattr(chosen, group) for group in options})
    return _with_task(config, values), values


def _with_task(config: TrainConfig, values: Sequence[str]) -> TrainConfig:
    """Take finetune.task from the rows that data.validation names, if neither the run nor an override has one.

    Rows of another head than the model's change nothing: they are reported as rows of a task.
    """
    chosen = dict(line.split("=", 1) for line in values if "=" in line)
    if config.finetune.task is not None or "finetune.task" in chosen or "data.validation" not in chosen:
        return config
    try:
        datasets: Any = parse_override(f"data.validation={chosen['data.validation']}").value()
        prefix = expand_path(str(datasets[0]["paths"][0]))
    except (HydraException, BadPathError, LookupError, TypeError):  # reported with all other errors
        return config
    record = find_record([DatasetConfig(paths=[prefix])])
    # The loss of preferences needs their reference, which no single checkpoint has.
    if record is None or record.task == "dpo" or HEAD_OF_TASK[record.task] != config.model.head:
        return config
    _LOGGER.info("data.validation holds examples of the task %s: finetune.task=%s.", record.task, record.task)
    return dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, task=record.task))


def _split_overrides(path: Path, overrides: list[str]) -> tuple[dict[str, str], list[str]]:
    """Separate `GROUP=OPTION` overrides, by group, from `PATH=VALUE` overrides."""
    groups, options, values = group_options(), {}, []
    violations: list[Violation] = []
    for line in overrides:
        key, _, value = line.partition("=")
        if key in ("experiment", "config_file", "resume"):
            message, fix = f"cannot be combined with the path {path}", "Remove one of them."
            violations.append(Violation(path=key, value=value, message=message, fix=fix))
        elif key in groups and not value.startswith("{"):
            options[key] = line
        else:
            values.append(line)
    raise_if_any(violations)
    return options, values


def _target(config: TrainConfig) -> Path:
    """Return the path in which the checkpoint is searched."""
    return Path(config.output_dir, config.run_name) if config.resume in RESUME_KEYWORDS else Path(config.resume)


def _check_files(config: TrainConfig, tokenizer: "Tokenizer | None", vocab_size: int) -> list[Violation]:
    """Check the shards, and that there are a checkpoint and validation data."""
    from trainer.checkpoint.directory import list_checkpoints  # noqa: PLC0415 - see _evaluate
    from trainer.data.checks import check_datasets  # noqa: PLC0415 - see _evaluate
    from trainer.saved_run import open_saved_run  # noqa: PLC0415 - see _evaluate

    violations = check_datasets(
        dataclasses.replace(config.data, train=[]),
        tokenizer_path=config.tokenizer.path,
        seq_length=config.model.seq_length,
        vocab_size=vocab_size or None,
        task=config.finetune.task,
    )
    if not config.data.validation:
        message, fix = "no validation data configured", "Set data.validation=[{paths:[/path/prefix]}]."
        violations.append(Violation(path="data.validation", value="", message=message, fix=fix))
    target = _target(config)
    if config.resume in RESUME_KEYWORDS and not list_checkpoints(target):
        message, fix = f"there is no checkpoint in {target}", "Name a run or a checkpoint with resume=PATH."
        return [*violations, Violation(path="resume", value=config.resume, message=message, fix=fix)]
    try:
        saved = open_saved_run(target, verify=False, name="resume")
    except ConfigError as error:
        return [*violations, *error.violations]
    return violations + _check_match(config, tokenizer, vocab_size, saved=saved)


def _check_match(config: TrainConfig, tokenizer: "Tokenizer | None", vocab_size: int, *, saved: Any) -> list[Violation]:
    """Compare model and tokenizer with the checkpoint's."""
    from trainer.checkpoint.classes import check_resumed_classes  # noqa: PLC0415 - see _evaluate
    from trainer.checkpoint.compatibility import check_model  # noqa: PLC0415 - see _evaluate
    from trainer.checkpoint.tokenizer import check_vocab_size  # noqa: PLC0415 - see _evaluate
    from trainer.config.derived import pad_vocab_size  # noqa: PLC0415 - see _evaluate
    from trainer.saved_run import check_tokenizer  # noqa: PLC0415 - see _evaluate

    otherwise = ", or evaluate the run as it is: trireme evaluate RUN_DIRECTORY"
    state, checkpoint, path = saved.state, saved.checkpoint, config.tokenizer.path
    found = check_resumed_classes(config.data.validation, checkpoint=checkpoint, path="data.validation")
    if tokenizer is not None:
        found += check_tokenizer(tokenizer, saved=saved, path="tokenizer.path", otherwise=otherwise)
    elif path is not None and Path(path).is_file():  # open_tokenizer has reported its errors
        return []
    if not vocab_size:  # the rules of the configuration have reported it
        return found
    padded_vocab_size = pad_vocab_size(config.model, vocab_size)
    wrong = check_model(config.model, padded_vocab_size=padded_vocab_size, state=state, checkpoint=checkpoint)
    if not any(one.path == "tokenizer.path" for one in found):
        found += check_vocab_size(vocab_size, state=state, checkpoint=checkpoint, otherwise=otherwise)
        if any(one.path not in ("tokenizer.path", "data.validation") for one in found):
            wrong = [one for one in wrong if one.path != "padded_vocab_size"]
    return found + [dataclasses.replace(one, fix=f"{one.fix.partition(' to resume')[0]}{otherwise}.") for one in wrong]


def _report(result: dict[str, Any]) -> None:
    from trainer.saved_run import run_directory_of  # noqa: PLC0415 - see _evaluate

    line = to_json(result)
    run_directory = run_directory_of(Path(result["checkpoint"]))
    if run_directory is None:
        _LOGGER.info("%s is not in a run directory; %s is not written.", result["checkpoint"], RESULT_NAME)
    else:
        try:
            write_whole(run_directory / RESULT_NAME, line + "\n")
        except OSError as error:
            _LOGGER.warning("Failed to write %s: %s", run_directory / RESULT_NAME, error.strerror)
    if result.get("note"):
        _LOGGER.warning("%s", result["note"])
    write_output(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
