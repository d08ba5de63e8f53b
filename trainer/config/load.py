"""Load a `TrainConfig` from a command line or a saved file."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from trainer.config.aliases import ALIASES, suggest_preset
from trainer.config.examples import with_examples
from trainer.config.pretrained import RECIPE_GROUP, add_pretrained_settings
from trainer.config.schema import TrainConfig
from trainer.config.validate import validate
from trireme.config.compose import ConfigRoot, compose_config
from trireme.config.convert import to_dataclass
from trireme.errors import ConfigError, Violation
from trireme.project import CONF_DIR

ROOT = ConfigRoot(
    name="train", schema=TrainConfig, recipe_group=RECIPE_GROUP, aliases=ALIASES, suggest_preset=suggest_preset
)


Check = Callable[[TrainConfig, Collection[str]], Iterable[Violation]]
"""Yields the errors of a configuration, apart from those that depend on the given paths."""


def load_config(overrides: Sequence[str], *, world_size: int | None = None, check: Check | None = None) -> TrainConfig:
    """Compose conf/train.yaml with Hydra overrides.

    Args:
        overrides: `GROUP=OPTION` and `PATH=VALUE`; the last one for a path takes effect. With pretrained_checkpoint,
            the model and tokenizer of that checkpoint come first, see `add_pretrained_settings`; with finetune.task,
            the settings that follow from the examples are filled in, see `with_examples`.
        world_size: used only to report broken rules of `validate` together with errors of form.
        check: what to report together with errors of form instead of the broken rules of `validate`, for a command
            that needs less than a run, or more.
    Returns:
        A configuration of valid form. The caller checks the rules between its fields with `validate`.
    Raises:
        ConfigError: all errors of form, together with every broken rule that can still be checked, so that the user
            sees all errors at once.
    """

    def check_rules(config: TrainConfig, ignore: Collection[str]) -> list[Violation]:
        return validate(config, world_size=world_size, ignore=ignore)

    return with_examples(compose_config(ROOT, add_pretrained_settings(overrides), validate=check or check_rules))


def dump_config(config: TrainConfig) -> str:
    """Write a configuration as YAML that `load_config_file` and `config_file=PATH` read back to an equal one."""
    return OmegaConf.to_yaml(OmegaConf.create(_escape(dataclasses.asdict(config))))


def _escape(value: Any) -> Any:
    """Escape text that looks like an interpolation: all are resolved by now, so it is a shell's ${NAME}."""
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escape(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def load_config_file(path: str | Path) -> TrainConfig:
    """Read the YAML that `dump_config` wrote.

    Raises:
        ConfigError: the file cannot be read, or is not a configuration; all errors at once.
    """
    try:
        plain = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            [_file_violation(path, f"cannot be read: {reason}", "Use a config.yaml saved by a run.")]
        ) from error
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError([_file_violation(path, f"must be YAML: {error}", "Correct the file.")]) from error
    if not isinstance(plain, dict):
        raise ConfigError([_file_violation(path, "must contain a mapping", "Use a config.yaml saved by a run.")])
    conversion = to_dataclass(TrainConfig, {str(key): value for key, value in plain.items()})
    if conversion.config is None:
        raise ConfigError(
            dataclasses.replace(violation, path=f"{path}: {violation.path}") for violation in conversion.violations
        )
    return conversion.config


def group_options(directories: Iterable[Path] = (CONF_DIR,)) -> dict[str, list[str]]:
    """Return the groups of conf/train.yaml and the options of each."""
    return ROOT.group_options(directories)


def _file_violation(path: str | Path, rule: str, fix: str) -> Violation:
    return Violation(path=str(path), value="", message=rule, fix=fix)
