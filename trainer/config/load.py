"""From a command line, or a saved file, to one `TrainConfig`."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from trainer.config.schema import TrainConfig
from trainer.config.validate import validate
from trireme.config.compose import CONF_DIR, ConfigRoot, compose_config
from trireme.config.convert import to_dataclass
from trireme.errors import ConfigError, Violation

ROOT = ConfigRoot(name="train", schema=TrainConfig, recipe_group="experiment")


def load_config(overrides: Sequence[str], *, world_size: int | None = None) -> TrainConfig:
    """Compose conf/train.yaml with Hydra overrides.

    Args:
        overrides: `GROUP=OPTION` and `PATH=VALUE`; the last of several for one path counts.
        world_size: only for the rules of `validate` that are reported together with errors of form.
    Returns:
        A configuration of the right form. The rules between its fields are for the caller to check with `validate`.
    Raises:
        ConfigError: everything that is wrong in form; then, too, every rule of `validate` that can be judged all the
            same, so that the user sees all problems at once.
    """

    def judge(config: TrainConfig, ignore: Collection[str]) -> list[Violation]:
        return validate(config, world_size=world_size, ignore=ignore)

    return compose_config(ROOT, overrides, validate=judge)


def dump_config(config: TrainConfig) -> str:
    """Write a configuration as YAML that `load_config_file` and `config_file=PATH` read back to an equal one."""
    return OmegaConf.to_yaml(OmegaConf.create(_escape(dataclasses.asdict(config))))


def _escape(value: Any) -> Any:
    """Keep what looks like an interpolation: all of them are resolved, so it is text, such as a shell's ${NAME}."""
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escape(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def load_config_file(path: str | Path) -> TrainConfig:
    """Read the YAML that `dump_config` wrote.

    Raises:
        ConfigError: the file cannot be read, or what it holds is no configuration; all errors at once.
    """
    try:
        plain = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError([_file_violation(path, f"cannot be read: {reason}", "name a saved config.yaml")]) from error
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError([_file_violation(path, f"is no YAML: {error}", "correct the file")]) from error
    if not isinstance(plain, dict):
        raise ConfigError([_file_violation(path, "holds no mapping", "name a saved config.yaml")])
    conversion = to_dataclass(TrainConfig, {str(key): value for key, value in plain.items()})
    if conversion.config is None:
        raise ConfigError(
            dataclasses.replace(violation, path=f"{path}: {violation.path}") for violation in conversion.violations
        )
    return conversion.config


def group_options(directories: Iterable[Path] = (CONF_DIR,)) -> dict[str, list[str]]:
    """The groups of conf/train.yaml and the options of each."""
    return ROOT.group_options(directories)


def _file_violation(path: str | Path, rule: str, fix: str) -> Violation:
    return Violation(path="file", value=str(path), message=rule, fix=fix)
