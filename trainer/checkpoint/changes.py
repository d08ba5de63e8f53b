"""Compare the settings of a resumed or forked run with those of its checkpoint."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from trainer.checkpoint.tokenizer import find_config
from trainer.checkpoint.trainer_state import TrainerState
from trainer.config.load import dump_config
from trainer.config.schema import TrainConfig
from trireme.config.suggest import to_yaml

_LONGEST_VALUE = 160
_NAMES_ONLY = ("run_name", "output_dir", "resume")
"""Where a run is and how it was started."""
_CHANGE_TRAINING = ("model", "data", "tokenizer", "training", "optimizer", "lr_schedule", "precision", "recovery")
"""Groups that decide what is computed; the others decide where and how."""
_DO_NOT = ("data.verify", "data.prefetch_steps", "training.stop_after_step", "training.eval_")
_MISSING = object()


@dataclass(frozen=True, kw_only=True)
class Change:
    """Hold a setting that differs from the checkpoint's."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.path}: {_shorten(self.old)} -> {_shorten(self.new)}"

    @property
    def changes_training(self) -> bool:
        """Whether the setting changes the computed numbers or the data that is read."""
        return _section(self.path) in _CHANGE_TRAINING and not self.path.startswith(_DO_NOT)


def find_changes(
    config: TrainConfig, *, state: TrainerState, checkpoint: Path, vocab_size: int, tokenizer_sha256: str | None
) -> list[Change]:
    """Compare the settings of a start with those that a checkpoint was saved with.

    Model, seed and tokenizer are in every checkpoint's state. All other settings are in its config.yaml; for a
    checkpoint of an older version, in the config.yaml of its run, if that exists.

    Args:
        vocab_size: tokens, without padding.
        tokenizer_sha256: of the tokenizer; None without a tokenizer.
    """
    new = _flatten(yaml.safe_load(dump_config(config)))
    old = _flatten(_read_config(checkpoint))
    old |= _flatten({"model": asdict(state.model_config())})
    old |= {"training.seed": state.seed}
    if state.vocab_size is not None:
        old["model.vocab_size"], new["model.vocab_size"] = state.vocab_size, vocab_size
    else:
        del new["model.vocab_size"]
    if state.tokenizer is not None and tokenizer_sha256 is not None:
        old["tokenizer.sha256"], new["tokenizer.sha256"] = state.tokenizer.sha256, tokenizer_sha256
    sections = {_section(path) for path in old}
    return [
        Change(path=path, old=_plain(old.get(path, _MISSING)), new=_plain(new.get(path, _MISSING)))
        for path in dict.fromkeys([*new, *old])
        # A field that only one of the two versions knows is no change; an entry of a list is one.
        if (path in old and path in new) or ("[" in path and _section(path) in sections)
        if path not in _NAMES_ONLY and old.get(path, _MISSING) != new.get(path, _MISSING)
    ]


def _read_config(checkpoint: Path) -> Mapping[str, Any]:
    """Read a configuration without its schema: another version may have other fields."""
    path = find_config(checkpoint)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path is not None else {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by path, such as data.train[0].weight; a list of plain values is one value, except of paths."""
    return dict(_leaves(tree, path=""))


def _leaves(value: Any, *, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, path=f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and (path.startswith("data.") or any(isinstance(item, dict) for item in value)):
        for number, item in enumerate(value):
            yield from _leaves(item, path=f"{path}[{number}]")
    else:
        yield path, value


def _section(path: str) -> str:
    return path.split("[")[0].split(".")[0]


def _plain(value: Any) -> Any:
    return "absent" if value is _MISSING else value


def _shorten(value: Any) -> str:
    text = to_yaml(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
