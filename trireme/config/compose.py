"""Compose one configuration of any schema from conf/ and a command line. Only this module and sweeps use Hydra.

Hydra composes the YAML groups; the values of the command line are applied afterwards, one by one, so that all errors
among them are found at once.
"""

import copy
import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from trireme.config.arguments import Misplaced, explain, regroup
from trireme.config.convert import find_aliases, to_dataclass
from trireme.config.fields import Loc, field_types, is_inside, leaf_paths, nested_schemas, path_of, tag_of
from trireme.config.override_line import parse_override, quote_text, suggest_quoting
from trireme.config.path_text import BadPathError, expand_path
from trireme.config.suggest import did_you_mean, join_or, to_yaml
from trireme.errors import ConfigError, Violation
from trireme.project import CONF_DIR

T = TypeVar("T")

SEARCH_PATH = "hydra.searchpath"
_NAME_A_SAVED_CONFIG = "Set it to the config.yaml of a run directory."
CONFIG_FILE = "config_file"
"""Override that names a complete configuration saved by a run, instead of the files of conf/."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigRoot(Generic[T]):
    """Describe a file of conf/ that configurations start from."""

    name: str
    """The file's name without .yaml."""
    schema: type[T]
    """One field per group, and single fields."""
    recipe_group: str | None = None
    """A group that is not a field of the schema; its options choose among the others and set any value."""
    aliases: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Names of other projects -> the settings that mean the same: PATH, or PATH=VALUE for a fixed value."""
    suggest_preset: Callable[[str, str, Sequence[str]], str] | None = None
    """Returns what to write instead of a preset that does not exist, as a sentence, from group, name and the presets of
    the group; an empty text without a suggestion."""

    def find_settings(self, name: str) -> list[str]:
        """Return the settings that a name may mean: its own, those of other projects' name, those of any group."""
        paths = dict.fromkeys(path for path, _ in leaf_paths(self.schema))
        if name in paths or name in field_types(self.schema):
            return [name]
        last = name.rpartition(".")[2]
        return list(find_aliases(name, self.aliases)) or [path for path in paths if path.rpartition(".")[2] == last]

    def is_boolean(self, path: str) -> bool:
        """Return whether a setting is true or false."""
        return (path, bool) in leaf_paths(self.schema)

    def group_options(self, directories: Iterable[Path] = (CONF_DIR,)) -> dict[str, list[str]]:
        """Return the groups and the options of each."""
        groups: dict[str, list[str]] = {}
        for group in (*field_types(self.schema), *([self.recipe_group] if self.recipe_group else [])):
            files = {
                file.relative_to(directory / group).with_suffix("").as_posix()
                for directory in directories
                for file in (directory / group).rglob("*.yaml")
            }
            if files:
                groups[group] = sorted(files)
        return groups


def compose_config(
    root: ConfigRoot[T], overrides: Sequence[str], *, validate: Callable[[T, Collection[str]], Iterable[Violation]]
) -> T:
    """Compose a file of conf/ with Hydra overrides.

    Args:
        overrides: `GROUP=OPTION` and `PATH=VALUE`; the last one for a path takes effect. `config_file=PATH` starts
            from a saved configuration instead; values may follow, options may not.
        validate: yields the broken rules of a configuration, except those that read the given paths. Used only to
            report broken rules together with errors of form.
    Returns:
        A configuration of valid form. The caller checks the rules between its fields.
    Raises:
        ConfigError: all errors of form, together with every broken rule of `validate` that can still be checked, so
            that the user sees all errors at once.
    """
    request = _read_overrides(root, overrides)
    composed = _compose(root, request)
    problems = list(request.problems)
    for override in request.values:
        try:
            OmegaConf.update(composed, override.key_or_group, override.value(), merge=True, force_add=True)
        except OmegaConfBaseException as error:
            # Where the preset is unknown, its values do not exist and cannot be set; that is not a second error.
            if not any(is_inside(override.key_or_group, problem.doubtful_path) for problem in request.problems):
                problems.append(_Problem.of_override(override, f"cannot be set: {_without_period(first_line(error))}"))
    _add_defaults(composed, root.schema)
    plain, unresolved = _to_plain(composed)
    conversion = to_dataclass(root.schema, plain, aliases=root.aliases)
    if conversion.config is not None and not problems and not unresolved:
        return conversion.config
    before = _compose(root, request)
    _add_defaults(before, root.schema)
    doubtful = {problem.doubtful_path for problem in problems} | {path_of(loc) for loc in unresolved}
    fallback = to_dataclass(root.schema, _repaired(plain, _to_plain(before)[0], conversion.bad_locs))
    further: list[Violation] = []
    if not {root.recipe_group, CONFIG_FILE} & doubtful and fallback.config is not None:
        further = list(validate(fallback.config, doubtful | conversion.doubtful_paths))
    form = list({str(problem.violation): problem.violation for problem in problems}.values())
    form += unresolved.values()
    # A field whose interpolation failed is absent from the plain values; that it is missing is not a second error.
    form += [violation for violation in conversion.violations if violation.path not in doubtful]
    raise ConfigError([*form, *further])


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Problem:
    """Hold the error of an override, and the path whose value the user intended to set with it."""

    violation: Violation
    doubtful_path: str

    @classmethod
    def of_override(cls, override: Override, rule: str, fix: str = "Write PATH=VALUE.") -> "_Problem":
        path = override.key_or_group
        value = override.input_line.partition("=")[2] if override.input_line else ""
        return cls(violation=Violation(path=path, value=value, message=rule, fix=fix), doubtful_path=path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Request:
    """Hold a command line, sorted by kind of override."""

    options: dict[str, str]
    """Group -> option."""
    search_path: list[str]
    """Additional directories with groups."""
    config_files: list[Path]
    """Saved configurations to start from; the last one takes effect."""
    values: list[Override]
    problems: list[_Problem]


def _read_overrides(root: ConfigRoot[Any], lines: Sequence[str]) -> _Request:
    """Sort overrides into group options and values; report those that are neither."""
    request = _Request(options={}, search_path=[], config_files=[], values=[], problems=[])
    regrouped = regroup(lines)
    for each in (each for each in regrouped if isinstance(each, Misplaced)):
        violation = explain(each, find_settings=root.find_settings, is_boolean=root.is_boolean)
        doubtful = [setting.partition("=")[0] for setting in root.find_settings(each.name)] or [each.name]
        request.problems.extend(_Problem(violation=violation, doubtful_path=path) for path in doubtful)
    lines = [each for each in regrouped if isinstance(each, str)]
    parsed = [override for override in (_parse(line, request.problems) for line in lines) if override is not None]
    for override in (override for override in parsed if override.key_or_group == SEARCH_PATH):
        _read_search_path(override, request)
    for override in (override for override in parsed if override.key_or_group == CONFIG_FILE):
        _read_config_file(override, request)
    options = root.group_options([CONF_DIR, *map(Path, request.search_path)])
    for override in parsed:
        path, value = override.key_or_group, override.value()
        if path in (SEARCH_PATH, CONFIG_FILE):
            continue
        if path not in options or isinstance(value, dict):
            request.values.append(override)
        elif request.config_files:
            rule = f"presets cannot be combined with {CONFIG_FILE}={request.config_files[-1]}"
            fix = f"Set single values, or remove {CONFIG_FILE}."
            request.problems.append(_Problem.of_override(override, rule, fix))
        elif path == root.recipe_group and value is None:
            request.options.pop(path, None)
        elif to_yaml(value) in options[path]:
            request.options[path] = to_yaml(value)
        else:
            written = to_yaml(value)
            fix = root.suggest_preset(path, written, options[path]) if root.suggest_preset else ""
            fix = fix or did_you_mean(written.lower(), options[path]) or f"Choose {join_or(options[path])}."
            violation = Violation(path=path, value="", message=f"no such preset '{written}'", fix=fix)
            request.problems.append(_Problem(violation=violation, doubtful_path=path))
    return request


def _parse(line: str, problems: list[_Problem]) -> Override | None:
    """Parse one override; a leading `+` or `++` has no effect, since the schema knows all keys."""
    path, _, text = line.partition("=")
    path = path.lstrip("+~")
    if path == CONFIG_FILE and os.path.isfile(
        text
    ):  # scripts pass a path unquoted, even with characters of Hydra's grammar
        line = f"{CONFIG_FILE}={quote_text(text)}"
    try:
        override = parse_override(line)
    except HydraException as error:
        reason = _without_period(first_line(error)) if "=" in line else "it has no value"
        rule = f"not a valid override: {reason}"
        quoted = suggest_quoting(line)
        fix = f"Quote it: {quoted}" if quoted else "Write PATH=VALUE; a list as [A,B], a mapping as {A:1}."
        violation = Violation(path="override", value=line, message=rule, fix=fix)
        problems.append(_Problem(violation=violation, doubtful_path=path))
        return None
    if override.is_delete():
        rule, fix = "fields can be set, but not deleted", f"Write {path}=VALUE, where VALUE may be null or []."
        problems.append(
            _Problem(violation=Violation(path="override", value=line, message=rule, fix=fix), doubtful_path=path)
        )
    elif override.is_sweep_override():
        value = line.partition("=")[2]
        problems.append(_Problem.of_override(override, "must be a single value", f"For a list write {path}=[{value}]"))
    elif override.package is not None:
        problems.append(
            _Problem.of_override(override, f"a group cannot be moved to @{override.package}", f"Write {path}=PRESET.")
        )
    else:
        return override
    return None


def _read_search_path(override: Override, request: _Request) -> None:
    value = override.value()
    for entry in value if isinstance(value, list) else [value]:
        directory = str(_expand(str(entry).removeprefix("file://")))
        if Path(directory).is_dir():
            request.search_path.append(str(Path(directory).absolute()))
        else:
            rule = f"no such directory: {directory}"
            request.problems.append(
                _Problem.of_override(override, rule, "Set it to a directory with groups of presets.")
            )


def _read_config_file(override: Override, request: _Request) -> None:
    path = _expand(str(override.value()))
    if path.is_file():
        request.config_files.append(path)
    else:
        request.problems.append(_Problem.of_override(override, "no such file", _NAME_A_SAVED_CONFIG))


def _expand(text: str) -> Path:
    """Expand a path; an invalid one is returned as it is, and refused because it does not exist."""
    try:
        return Path(expand_path(text))
    except BadPathError:
        return Path(text)


def _load_saved(path: Path) -> DictConfig:
    try:
        return DictConfig(OmegaConf.load(path))
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        rule = f"cannot be read: {_without_period(first_line(error))}"
        raise ConfigError([Violation(path=CONFIG_FILE, value=path, message=rule, fix=_NAME_A_SAVED_CONFIG)]) from error


def _compose(root: ConfigRoot[Any], request: _Request) -> DictConfig:
    if request.config_files:
        return _load_saved(request.config_files[-1])
    overrides = [f"{group}={option}" for group, option in request.options.items()]
    if request.search_path:
        overrides.append(f"{SEARCH_PATH}=[{','.join(repr(directory) for directory in request.search_path)}]")
    try:
        return copy.deepcopy(_compose_groups(root.name, tuple(overrides)))
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        violation = Violation(
            path="override",
            value=" ".join(overrides),
            message=f"cannot be composed: {_without_period(' '.join(str(error).split()))}",
            fix="Correct the YAML file.",
        )
        raise ConfigError([*(problem.violation for problem in request.problems), violation]) from error


@functools.lru_cache(maxsize=32)
def _compose_groups(name: str, overrides: tuple[str, ...]) -> DictConfig:
    """Compose a file of conf/ and presets with Hydra, and cache the result: it takes two thirds of the loading time.

    All points of a sweep share it. The YAML files are thereby read once per process.
    """
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose(name, list(overrides))


def _add_defaults(node: DictConfig, schema: type) -> None:
    """Add the defaults of fields that no YAML file sets, so that interpolations can refer to every field."""
    OmegaConf.set_struct(node, False)
    types = field_types(schema)
    for field in dataclasses.fields(schema):
        if field.name not in node.keys():  # noqa: SIM118 - `in node` is false for what cannot be resolved
            if nested_schemas(types[field.name]):
                node[field.name] = {}
            elif field.default is not dataclasses.MISSING:
                node[field.name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                node[field.name] = field.default_factory()
        if OmegaConf.is_missing(node, field.name) or OmegaConf.is_interpolation(node, field.name):
            continue
        child, nested = node.get(field.name), nested_schemas(types[field.name])
        if isinstance(child, DictConfig):
            for member in nested:
                if len(nested) == 1 or tag_of(member) == child.get("name"):
                    _add_defaults(child, member)


def _to_plain(config: DictConfig) -> tuple[dict[str, Any], dict[Loc, Violation]]:
    """Resolve every interpolation; skip fields that are missing or cannot be resolved, and report the latter."""
    violations: dict[Loc, Violation] = {}

    def resolve(node: object, loc: Loc) -> Any:
        if isinstance(node, DictConfig):
            keys: Iterable[Any] = list(node.keys())
        elif isinstance(node, ListConfig):
            keys = range(len(node))
        else:
            return node
        values = {}
        for key in keys:
            place = (*loc, key if isinstance(key, int) else str(key))
            if OmegaConf.is_missing(node, key):
                continue
            try:
                values[key] = resolve(node[key], place)
            except OmegaConfBaseException as error:
                raw = OmegaConf.to_container(node, resolve=False)
                written = raw[key] if isinstance(raw, dict | list) else None
                violations[place] = Violation(
                    path=path_of(place),
                    value=to_yaml(written),
                    message=f"cannot be resolved: {_without_period(first_line(error))}",
                    fix="Refer to a field as ${group.field}, to an environment variable as ${oc.env:NAME}.",
                )
        return values if isinstance(node, DictConfig) else list(values.values())

    return resolve(config, ()), violations


def _repaired(plain: Mapping[str, Any], before: Mapping[str, Any], bad_locs: Iterable[Loc]) -> dict[str, Any]:
    """Restore the former values, or nothing, at invalid places, so that the other rules can be checked."""
    repaired = copy.deepcopy(dict(plain))
    for bad_loc in bad_locs:
        loc = list(bad_loc)
        while isinstance(loc[-1], int):  # a single item cannot be restored: the list can
            loc.pop()
        target: Any = repaired
        source: Any = before
        for part in loc[:-1]:
            target = _child(target, part)
            source = _child(source, part)
        old = _child(source, loc[-1])
        if isinstance(target, dict):
            target.pop(loc[-1], None)
            if old is not None:
                target[loc[-1]] = old
    return repaired


def _child(node: Any, key: str | int) -> Any:
    if isinstance(node, dict):
        return node.get(key)
    return node[key] if isinstance(node, list) and isinstance(key, int) and key < len(node) else None


def first_line(error: Exception) -> str:
    """Return the first line of a library's message."""
    return str(error).strip().partition("\n")[0]


def _without_period(text: str) -> str:
    return text.rstrip(".")
