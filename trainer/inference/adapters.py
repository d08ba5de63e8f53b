"""Load several adapters beside the one model that they share."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from trainer.checkpoint.adapter_base import fingerprint
from trainer.checkpoint.adapters import SavedAdapters
from trainer.model.adapter_bank import AdapterBank, BankedUpdate
from trainer.model.gpt import GPT
from trainer.model.sharding import describe_parameters
from trainer.saved_run import SavedRun, open_saved_run
from trireme.errors import ConfigError, Violation

_LOGGER = logging.getLogger(__name__)


def load_adapters(model: GPT, adapters: Mapping[str, Path], *, base: SavedRun) -> AdapterBank | None:
    """Load adapters for requests to choose from, by number in their order from 1; None without adapters.

    All ranks call this, before the model's weights are packed.

    Args:
        model: with the weights of `base`.
        adapters: run directories or checkpoints, by name.
        base: the model's checkpoint.
    Raises:
        ConfigError: one holds no adapters, those of experts or a task's head, or was trained on another checkpoint.
    """
    if not adapters:
        return None
    parameters = describe_parameters([model])
    found: list[dict[str, BankedUpdate]] = []
    for name, path in adapters.items():
        saved = open_saved_run(path, verify=True, name="--adapter")
        _check(saved, base, name=name)
        source = SavedAdapters(saved.checkpoint, saved.state)
        updates = {}
        for sharded in parameters:
            parts = source.updates_of(sharded)
            if parts:
                _, layer = sharded.name.split(".", 1)
                a, b = parts[0][1].a, torch.cat([update.b for _, update in parts])
                weight = sharded.parameter
                scale = parts[0][1].scale
                updates[layer.removesuffix(".weight")] = BankedUpdate(a=a.to(weight), b=(b * scale).to(weight))
        found.append(updates)
        _LOGGER.info("Adapter %s: %s, step %d.", name, saved.checkpoint, saved.state.step)
    return AdapterBank(model, found)


def _check(saved: SavedRun, base: SavedRun, *, name: str) -> None:
    value, state = f"{name}={saved.checkpoint}", saved.state
    if state.base is None:
        message, fix = "holds all weights and no adapters", "Serve it as PATH."
    elif base.state.base is not None or state.base.sha256 != fingerprint(base.checkpoint):
        message = f"was trained on another checkpoint than {base.checkpoint}: {state.base.checkpoint}"
        fix = "Serve that one as PATH."
    elif any(target.startswith("experts.") for target in (state.lora or {})["target_modules"]):
        message, fix = (
            "has adapters of experts, which requests cannot choose between",
            "Merge it: trireme merge-adapter.",
        )
    else:
        return
    raise ConfigError([Violation(path="--adapter", value=value, message=message, fix=fix)])
