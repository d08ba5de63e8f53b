"""Find the frozen weights beneath a checkpoint of adapters, and check that adapters and their base fit together.

A checkpoint of adapters holds only what was trained, and names the checkpoint of all other weights by path and hash.
Needs no Megatron-Core: it is checked before anything starts.
"""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.checkpoint.discovery import choose_at
from trainer.checkpoint.manifest import read_manifest
from trainer.checkpoint.trainer_state import BaseRecord, TrainerState, read_state
from trainer.config.lora import LoraConfig
from trainer.config.pretrained import PRETRAINED
from trireme.errors import ConfigError, Violation

LORA_BASE = "lora.base"
_MUST_BE_EQUAL = ("rank", "alpha", "use_rslora", "target_modules", "separate_projections")


def fingerprint(checkpoint: Path) -> str:
    """Return a hash of all files of a checkpoint: the hex digest of their names and sha256 in its manifest.

    Raises:
        ConfigError: the manifest is missing or damaged.
    """
    files = {name: record.sha256 for name, record in read_manifest(checkpoint).files.items()}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def record_base(checkpoint: Path, *, run_directory: Path) -> BaseRecord:
    """Return the record of a base checkpoint for checkpoints of adapters in a run directory."""
    absolute = checkpoint.resolve()
    return BaseRecord(
        checkpoint=str(absolute),
        relative=os.path.relpath(absolute, run_directory.resolve()),
        sha256=fingerprint(absolute),
    )


def locate_base(record: BaseRecord, *, adapters: Path | None, given: Path | None = None, path: str = LORA_BASE) -> Path:
    """Return where the base checkpoint of adapters is now.

    Args:
        record: of the adapters' checkpoint.
        adapters: that checkpoint; None for a run that has none yet.
        given: where the user says that it is: a checkpoint, or a run directory.
        path: the user's name of `given`, for messages.
    Raises:
        ConfigError: it is not there, or is another checkpoint.
    """
    if given is not None:
        found = choose_at(given, verify=False, name=path, is_alone=True)
        if fingerprint(found) != record.sha256:
            raise ConfigError([_differs(record, found, path=path)])
        return found
    places = [Path(record.checkpoint)]
    if adapters is not None:
        # A run directory and its base may have moved together.
        places.append(adapters.resolve().parent.parent / record.relative)
    existing = [place for place in places if place.is_dir()]
    for place in existing:
        if fingerprint(place) == record.sha256:
            return place
    if existing:
        raise ConfigError([_differs(record, existing[0], path=path)])
    message = f"the checkpoint with the weights beneath the adapters does not exist{_of(adapters)}"
    fix = {
        "--adapter": "Give that checkpoint as PATH, and the adapters with --adapter.",
        "--base": "Give --base PATH, where it is now.",
    }.get(path, f"Name the place where it is now: {path}=PATH.")
    raise ConfigError([Violation(path=path, value=record.checkpoint, message=message, fix=fix)])


def _of(adapters: Path | None) -> str:
    return "" if adapters is None else f" ({adapters})"


def _differs(record: BaseRecord, found: Path, *, path: str) -> Violation:
    return Violation(
        path=path,
        value=found,
        message="is not the checkpoint that the adapters were trained on: its files have another hash"
        f" ({record.checkpoint} had {record.sha256[:12]}...)",
        fix="Name that checkpoint, or an unchanged copy of it.",
    )


def check_adapters(
    lora: LoraConfig, *, state: TrainerState, checkpoint: Path, action: str = "resume it"
) -> list[Violation]:
    """Return every reason for which a run's adapters, or its lack of them, do not fit a checkpoint to resume from.

    Args:
        lora: of the run.
        state: of the checkpoint.
        action: what the run does with the checkpoint, for messages.
    """
    saved = saved_lora(state)
    if saved is None and lora.is_on:
        message = f"must be 0 to resume {checkpoint}, in which all weights were trained"
        fix = "Start a run of adapters on its weights: set pretrained_checkpoint, and another run_name."
        return [Violation(path="lora.rank", value=lora.rank, message=message, fix=fix)]
    if saved is None:
        return []
    return [
        Violation(
            path=f"lora.{name}",
            value=_show(getattr(lora, name)),
            message=f"differs from the checkpoint's {_show(getattr(saved, name))} ({checkpoint})",
            fix=f"Use {_show(getattr(saved, name))} to {action}, or merge it (trireme merge-adapter) to train others.",
        )
        for name in _MUST_BE_EQUAL
        if _comparable(getattr(lora, name)) != _comparable(getattr(saved, name))
    ]


def _comparable(value: Any) -> Any:
    return sorted(value) if isinstance(value, list | tuple) else value


def _show(value: Any) -> str:
    return f"[{','.join(value)}]" if isinstance(value, list | tuple) else str(value)


def lora_record(lora: LoraConfig) -> dict[str, Any] | None:
    """Return the settings of adapters as a checkpoint records them; None without adapters."""
    return {name: value for name, value in asdict(lora).items() if name != "base"} if lora.is_on else None


def saved_lora(state: TrainerState) -> LoraConfig | None:
    """Return the settings of a checkpoint's adapters; None if it holds all weights."""
    return (
        None if state.lora is None else LoraConfig(**{**state.lora, "target_modules": [*state.lora["target_modules"]]})
    )


def check_start(lora: LoraConfig, *, checkpoint: Path) -> list[Violation]:
    """Return why a run cannot start with the weights of a checkpoint: adapters continue as the same adapters only."""
    state = read_state(checkpoint)
    if state.base is None:
        return []
    if lora.is_on:
        return check_adapters(lora, state=state, checkpoint=checkpoint, action="continue its adapters")
    message = "holds adapters, which can only be trained on as adapters"
    fix = (
        f"Set the same lora settings to continue them, or merge them first: trireme merge-adapter {checkpoint} OUTPUT."
    )
    return [Violation(path=PRETRAINED, value=checkpoint, message=message, fix=fix)]


def check_base_files(state: TrainerState, *, adapters: Path, given: Path | None, path: str) -> list[Violation]:
    """Return why the weights beneath adapters cannot be loaded; empty for a checkpoint of all weights."""
    if state.base is None:
        return []
    try:
        locate_base(state.base, adapters=adapters, given=given, path=path)
    except ConfigError as error:
        return list(error.violations)
    return []
