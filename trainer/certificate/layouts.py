"""Parse layouts in their short form: `llama tp2.sp.pp2 megatron recompute=full`.

A layout is a list of words in any order:

    sizes       tp2.sp.pp2.vp2.cp2.ep2.dp2: sizes that are not named are 1; `single` is one process
    engine      an option of conf/engine, and zero0 to zero3
    precision   an option of conf/precision
    shape       a name of certify.shapes
    ulysses     context parallelism by all-to-all
    recompute=  full, or modules for selective recomputation, separated by commas
    stages=     layers of every pipeline chunk, as in parallel.pipeline_model_parallel_layout
    PATH=VALUE  any other override of the training configuration

A mapping of overrides is equivalent: {name: my layout, parallel.tensor_model_parallel_size: 2, engine: megatron}.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.config.load import group_options
from trireme.config.fields import is_inside
from trireme.config.suggest import did_you_mean, join_or, to_yaml
from trireme.errors import ConfigError, Violation

SIZES = {
    "tp": "parallel.tensor_model_parallel_size",
    "pp": "parallel.pipeline_model_parallel_size",
    "vp": "parallel.virtual_pipeline_model_parallel_size",
    "cp": "parallel.context_parallel_size",
    "ep": "parallel.expert_model_parallel_size",
    "dp": "parallel.data_parallel_size",
}
SEQUENCE_PARALLEL = "parallel.sequence_parallel"
ONE_PROCESS = {path: "null" if name == "vp" else "1" for name, path in SIZES.items()} | {SEQUENCE_PARALLEL: "false"}
"""Values of the sizes that a layout does not name."""

LAYOUT_PATHS = ("parallel", "engine", "training.micro_batch_size", "model.transformer_impl", "model.torch_compile")
"""Settings that may differ between a layout and its reference: all others define what is computed, not how."""

_SIZE = re.compile(r"(tp|pp|vp|cp|ep|dp)([0-9]+)")
_ZERO = re.compile(r"zero([0-9]+)")


@dataclass(frozen=True, kw_only=True)
class LayoutSpec:
    """Hold one layout as overrides of the training configuration."""

    name: str
    """Its text."""
    place: str
    """Its path in the settings, for messages."""
    how: tuple[str, ...]
    """Overrides that define how the model is computed."""
    what: tuple[str, ...]
    """Overrides that define what is computed: shape, precision, any other setting. The reference shares them."""
    subject: str = ""
    """The words of `what`."""

    @property
    def overrides(self) -> list[str]:
        """All overrides."""
        return [*self.what, *self.how]


def read_layouts(
    layouts: Sequence[Any], *, shapes: Mapping[str, Sequence[str]]
) -> tuple[list[LayoutSpec], list[Violation]]:
    """Read the layouts of a certificate.

    Returns:
        The valid layouts, and the errors: unknown words, and layouts that are listed twice.
    """
    specs: dict[str, LayoutSpec] = {}
    violations: list[Violation] = []
    for number, layout in enumerate(layouts):
        place = f"certify.layouts[{number}]"
        try:
            spec = read_layout(layout, place=place, shapes=shapes)
        except ConfigError as error:
            violations += error.violations
            continue
        if spec.name in specs:
            message, fix = f"is the same as {specs[spec.name].place}", "Remove one of them."
            violations.append(Violation(path=place, value=spec.name, message=message, fix=fix))
        specs.setdefault(spec.name, spec)
    return list(specs.values()), violations


def read_layout(layout: Any, *, place: str, shapes: Mapping[str, Sequence[str]]) -> LayoutSpec:
    """Read one layout.

    Raises:
        ConfigError: unknown words.
    """
    if isinstance(layout, str):
        name = " ".join(layout.split())
        words, violations = _read_words(layout, place=place, shapes=shapes)
    elif isinstance(layout, dict):
        settings = {str(path): value for path, value in layout.items() if path != "name"}
        words, violations = [(f"{path}={value}", [f"{path}={_quoted(value)}"]) for path, value in settings.items()], []
        name = str(layout.get("name", " ".join(word for word, _ in words)))
    else:
        message, fix = "must be a layout", "Use words such as tp2.pp2, or a mapping of overrides."
        raise ConfigError([Violation(path=place, value=to_yaml(layout), message=message, fix=fix)])
    if violations:
        raise ConfigError(violations)
    how = [f"{path}={value}" for path, value in ONE_PROCESS.items()]
    what: list[str] = []
    subject = []
    for word, overrides in words:
        parts = [(override, _says_how(override)) for override in overrides]
        how += [override for override, says_how in parts if says_how]
        what += [override for override, says_how in parts if not says_how]
        if not all(says_how for _, says_how in parts):
            subject.append(word)
    return LayoutSpec(name=name, place=place, how=tuple(how), what=tuple(what), subject=" ".join(subject))


def _says_how(override: str) -> bool:
    return any(is_inside(override.partition("=")[0].lstrip("+"), path) for path in LAYOUT_PATHS)


Words = list[tuple[str, list[str]]]
"""Each word of a layout with its overrides."""


def _read_words(text: str, *, place: str, shapes: Mapping[str, Sequence[str]]) -> tuple[Words, list[Violation]]:
    words: Words = []
    violations: list[Violation] = []
    options = group_options()
    named: dict[str, str] = {}
    for word in text.split():
        overrides = _read_word(word, shapes=shapes, options=options)
        if overrides is not None:
            words.append((word, overrides))
            if word not in shapes and not _is_override(word):
                violations += _find_repeated(overrides, named, place=place, text=text)
            continue
        known = [*shapes, *options["engine"], *options["precision"], "ulysses", "single", "zero1"]
        fix = (
            f"{did_you_mean(word, known)}Use sizes such as tp2.sp.pp2, {join_or(known)}, recompute=, stages= or an"
            " override PATH=VALUE (docs/training/layout_equivalence.md)."
        )
        message = f"unknown word {word}"
        violations.append(Violation(path=place, value=text, message=message, fix=fix))
    return words, violations


def _find_repeated(overrides: Sequence[str], named: dict[str, str], *, place: str, text: str) -> list[Violation]:
    """Report overrides that an earlier word has set already; the last one would silently win.

    Args:
        named: overrides so far, by path; those of the word are added.
    """
    found = []
    for override in overrides:
        path = override.partition("=")[0]
        if path in named:
            message = f"sets both {named[path]} and {override}"
            fix = "Remove one of them, or make two layouts of it."
            found.append(Violation(path=place, value=text, message=message, fix=fix))
        named[path] = override
    return found


def _is_override(word: str) -> bool:
    key, is_setting, _ = word.partition("=")
    return bool(is_setting) and key not in ("recompute", "stages")


def _read_word(
    word: str, *, shapes: Mapping[str, Sequence[str]], options: Mapping[str, Sequence[str]]
) -> list[str] | None:
    """Return the overrides of a word; None if it is unknown."""
    key, _, value = word.partition("=")
    if _is_sizes(word):
        return _read_sizes(word)
    if word in shapes:
        return list(shapes[word])
    for group in ("engine", "precision"):
        if word in options[group]:
            return [f"{group}={word}"]
    if match := _ZERO.fullmatch(word):
        return [f"engine.zero_stage={match[1]}"]
    if word == "ulysses":
        return ["parallel.cp_comm_type=a2a"]
    if key == "recompute":
        return _read_recompute(value)
    if key == "stages":
        return [f"parallel.pipeline_model_parallel_layout={_quoted(value)}"]
    return [word] if _is_override(word) else None


def _is_sizes(word: str) -> bool:
    return all(part in ("sp", "single") or _SIZE.fullmatch(part) for part in word.split("."))


def _read_sizes(word: str) -> list[str]:
    overrides = []
    for part in word.split("."):
        if part == "sp":
            overrides.append(f"{SEQUENCE_PARALLEL}=true")
        elif match := _SIZE.fullmatch(part):
            overrides.append(f"{SIZES[match[1]]}={match[2]}")
    return overrides


def _read_recompute(value: str) -> list[str]:
    if value == "full":
        return [
            "parallel.recompute_granularity=full",
            "parallel.recompute_method=uniform",
            "parallel.recompute_num_layers=1",
        ]
    return ["parallel.recompute_granularity=selective", f"parallel.recompute_modules=[{value}]"]


def _quoted(value: Any) -> str:
    """Quote a value for Hydra's grammar."""
    if isinstance(value, str) and not re.fullmatch(r"[\w.+-]+", value):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return to_yaml(value)
