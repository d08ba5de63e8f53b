"""Define and check the command-line options that generate, chat and serve share; imports nothing heavy."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trireme.errors import Violation
from trireme.processes import world_size

MAX_SEED = 2**64 - 1
"""Largest seed of PyTorch's generators."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Hold which model to load, and how."""

    path: Path
    """A run directory or a checkpoint."""
    tokenizer: Path | None = None
    """None takes the checkpoint's own."""
    params_dtype: Literal["fp32", "bf16"] = "fp32"
    max_batch_size: int = 8
    """Texts in progress at once, per replica."""
    tensor_model_parallel_size: int = 1
    pipeline_model_parallel_size: int = 1
    expert_model_parallel_size: int = 1
    base: Path | None = None
    """Checkpoint beneath the adapters at `path`; None takes the one that they name."""
    adapters: Mapping[str, Path] = field(default_factory=dict)
    """Adapters on `path` that requests choose from, by name."""


def add_model_options(
    parser: argparse.ArgumentParser,
    *,
    max_batch_size: int = 8,
    batch: str = "texts that are generated at once",
    has_layout: bool = True,
    names_adapters: bool = False,
) -> None:
    """Add PATH and the options of `ModelOptions`.

    Args:
        max_batch_size: default; 1 leaves the option out.
        batch: what --max-batch-size counts.
        has_layout: otherwise the model is in one process.
        names_adapters: several adapters can be given, each with a name.
    """
    group = parser.add_argument_group("model")
    group.add_argument("path", type=Path, metavar="PATH", help="a run directory, an import or a checkpoint")
    group.add_argument(
        "--tokenizer", type=Path, help="tokenizer.model or tokenizer.json (default: the checkpoint's own)"
    )
    if names_adapters:
        group.add_argument(
            "--adapter",
            action="append",
            default=[],
            metavar="NAME=PATH",
            help="adapters (LoRA) on PATH, used by requests for the model NAME; may be repeated",
        )
    else:
        group.add_argument(
            "--adapter", type=Path, metavar="PATH", help="adapters (LoRA): a run or checkpoint that was trained on PATH"
        )
    group.add_argument(
        "--params-dtype",
        choices=("fp32", "bf16"),
        default="fp32",
        help="data type of the weights (default: %(default)s)",
    )
    if max_batch_size > 1:
        group.add_argument(
            "--max-batch-size",
            type=int,
            metavar="N",
            help=f"{batch}, per replica of the model (default: {max_batch_size})",
        )
    parser.set_defaults(
        max_batch_size=max_batch_size,
        tensor_model_parallel_size=1,
        pipeline_model_parallel_size=1,
        expert_model_parallel_size=1,
    )
    if not has_layout:
        return
    layout = parser.add_argument_group(
        "layout", "with `torchrun --nproc-per-node N -m ...`; processes beyond these sizes hold replicas of the model"
    )
    for name in ("tensor", "pipeline", "expert"):
        layout.add_argument(
            f"--{name}-model-parallel-size",
            type=int,
            metavar="N",
            help=f"{name} parallelism (default: 1)",
        )


def model_options(arguments: argparse.Namespace) -> ModelOptions:
    """Return the parsed options of `add_model_options`."""
    adapter = arguments.adapter
    is_one = isinstance(adapter, Path)
    return ModelOptions(
        path=adapter if is_one else arguments.path,
        base=arguments.path if is_one else None,
        adapters={} if is_one else dict(_split_adapter(line) for line in adapter or []),
        tokenizer=arguments.tokenizer,
        params_dtype=arguments.params_dtype,
        max_batch_size=arguments.max_batch_size,
        tensor_model_parallel_size=arguments.tensor_model_parallel_size,
        pipeline_model_parallel_size=arguments.pipeline_model_parallel_size,
        expert_model_parallel_size=arguments.expert_model_parallel_size,
    )


def _split_adapter(line: str) -> tuple[str, Path]:
    name, _, path = line.partition("=")
    return name, Path(path)


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of sampling; None means that the model's generation_config.json, or else a default, decides."""
    group = parser.add_argument_group(
        "sampling", "defaults are those of the model's generation_config.json, where there is one"
    )
    group.add_argument("--temperature", type=float, help=f"0 is greedy (default: {SAMPLING_DEFAULTS['temperature']})")
    group.add_argument("--top-k", type=int, help="sample from the k most likely tokens; 0 from all (default: 0)")
    group.add_argument(
        "--top-p",
        type=float,
        help=f"sample from the most likely tokens whose probabilities sum to p (default: {SAMPLING_DEFAULTS['top_p']})",
    )
    group.add_argument(
        "--min-p",
        type=float,
        help="sample from tokens at least p times as likely as the most likely one (default: 0)",
    )
    group.add_argument(
        "--repetition-penalty", type=float, help="above 1 makes tokens of the text so far less likely (default: 1)"
    )
    group.add_argument("--seed", type=int, default=1234, help="random seed (default: %(default)s)")


SAMPLING_DEFAULTS: Mapping[str, Any] = {
    "temperature": 0.8,
    "top_k": 0,
    "top_p": 0.95,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}
"""Sampling of models that name none of their own."""


def choose_sampling(arguments: argparse.Namespace, *, generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `SamplingConfig`: options, else the model's own, else `SAMPLING_DEFAULTS`.

    A model that names some fields leaves the others neutral; one whose do_sample is false is greedy.
    """
    named = {name: generation_config[name] for name in SAMPLING_DEFAULTS if _is_number(generation_config.get(name))}
    neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    base = {**neutral, **named} if named else dict(SAMPLING_DEFAULTS)
    if generation_config.get("do_sample") is False:
        base = {**neutral, "temperature": 0.0}
    given = {name: getattr(arguments, name) for name in SAMPLING_DEFAULTS if getattr(arguments, name) is not None}
    return {**base, **given}


def check_model_options(arguments: argparse.Namespace) -> list[Violation]:
    """Report errors of the options of `add_model_options`, and sizes that do not fit the number of processes."""
    names = [f"{name}_model_parallel_size" for name in ("tensor", "pipeline", "expert")]
    found = [
        _violation(arguments, name, "must be at least 1")
        for name in ("max_batch_size", *names)
        if getattr(arguments, name) < 1
    ]
    if found:
        return found
    num_processes = world_size()
    tensor, pipeline, expert = (getattr(arguments, name) for name in names)
    if num_processes % (tensor * pipeline * expert):
        product = tensor * pipeline * expert
        found.append(
            Violation(
                path="--tensor-model-parallel-size, --pipeline-model-parallel-size, --expert-model-parallel-size",
                value=f"{tensor}, {pipeline}, {expert}",
                message=f"must divide the number of processes, which is {num_processes}",
                fix=f"Start the command with `torchrun --nproc-per-node {product} -m ...`.",
            )
        )
    return found


def check_sampling_options(arguments: argparse.Namespace, *, num_seeds: int = 1) -> list[Violation]:
    """Report errors of the options of `add_sampling_options`.

    Args:
        num_seeds: consecutive seeds that are used.
    """
    last_seed = MAX_SEED - max(num_seeds - 1, 0)
    infinity = float("inf")
    rules: tuple[tuple[str, str, Any], ...] = (
        ("temperature", "must be at least 0 and finite", lambda value: 0 <= value < infinity),
        ("top_k", "must be at least 0", lambda value: value >= 0),
        ("top_p", "must be greater than 0 and at most 1", lambda value: 0 < value <= 1),
        ("min_p", "must be at least 0 and at most 1", lambda value: 0 <= value <= 1),
        ("repetition_penalty", "must be greater than 0 and finite", lambda value: 0 < value < infinity),
        ("seed", f"must be between 0 and {last_seed}", lambda value: 0 <= value <= last_seed),
    )
    return [
        _violation(arguments, name, message)
        for name, message, holds in rules
        if getattr(arguments, name) is not None and not holds(getattr(arguments, name))
    ]


def _violation(arguments: argparse.Namespace, name: str, message: str, fix: str = "") -> Violation:
    return Violation(path=f"--{name.replace('_', '-')}", value=getattr(arguments, name), message=message, fix=fix)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
