"""Find the frozen weights beneath a checkpoint of adapters, and add adapters to a model's weights.

A checkpoint of adapters holds only what was trained, and names the checkpoint of all other weights by path and hash.
r: rank, p: parts of a fused layer.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from trainer.checkpoint.dcp import SafeReader, read_pieces
from trainer.checkpoint.discovery import choose_at
from trainer.checkpoint.manifest import read_manifest
from trainer.checkpoint.pieces import WEIGHTS_PREFIX, ShardedTensorView, weights_to_load
from trainer.checkpoint.trainer_state import BaseRecord, TrainerState, read_state
from trainer.config.lora import LoraConfig
from trainer.config.model import ModelConfig
from trainer.config.pretrained import PRETRAINED
from trainer.model.sharding import ShardedParameter, describe_trained
from trireme.errors import ConfigError, Violation

LORA_BASE = "lora.base"
_WEIGHT = ".weight"
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


@dataclass(frozen=True, kw_only=True)
class LowRankUpdate:
    """Hold what an adapter adds to a part of one weight: scale * b @ a."""

    a: torch.Tensor
    """[p * r, columns] fp32."""
    b: torch.Tensor
    """[rows, p * r] fp32, zero where a row is not of the part."""
    scale: float

    def product(self) -> torch.Tensor:
        """Return the update of the weight: [rows, columns] fp32."""
        return self.b @ self.a * self.scale


class SavedAdapters:
    """Read the adapters of a checkpoint by the names and places of the weights that they are added to."""

    def __init__(self, checkpoint: Path, state: TrainerState | None = None) -> None:
        state = read_state(checkpoint) if state is None else state
        lora = saved_lora(state)
        assert lora is not None, f"{checkpoint} holds no adapters"
        self.checkpoint, self.state, self.lora = checkpoint, state, lora
        self._model = state.model_config()
        contents = SafeReader(checkpoint).read_metadata().state_dict_metadata
        self._shapes = {
            key.removeprefix(WEIGHTS_PREFIX): tuple(entry.size)
            for key, entry in contents.items()
            if key.startswith(WEIGHTS_PREFIX) and isinstance(entry, TensorStorageMetadata)
        }

    @property
    def whole(self) -> frozenset[str]:
        """Names of the weights that are stored whole: those of a task head."""
        return frozenset(key for key in self._shapes if not is_adapter(key))

    @property
    def whole_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights that are stored whole, by name."""
        return {key: self._shapes[key] for key in self.whole}

    @property
    def adapted(self) -> frozenset[str]:
        """Names of the weights that have adapters."""
        return frozenset(key.removesuffix(".lora_a") + _WEIGHT for key in self._shapes if key.endswith(".lora_a"))

    def read(self, weight: str, index: Sequence[int] = ()) -> LowRankUpdate:
        """Read the adapter of one weight of one layer (and expert).

        Args:
            weight: name of the weight, one of `adapted`.
            index: of the stacked axes.
        """
        name = weight.removesuffix(_WEIGHT)
        a, b = (self._read(f"{name}.{part}", tuple(index)) for part in ("lora_a", "lora_b"))
        num_parts = a.shape[0] // b.shape[1]
        part_of_row = find_parts(name, self._model, num_rows=b.shape[0], num_parts=num_parts)
        wide = torch.zeros(b.shape[0], num_parts, b.shape[1])
        wide[torch.arange(b.shape[0]), part_of_row] = b
        return LowRankUpdate(a=a, b=wide.flatten(1), scale=self.lora.scale)

    def read_whole(self, key: str) -> torch.Tensor:
        """Read a weight that is stored whole, fp32."""
        return self._read(key, ())

    def _read(self, key: str, index: tuple[int, ...]) -> torch.Tensor:
        shape = self._shapes[key]
        values = torch.empty(shape[len(index) :], dtype=torch.float32)
        view = ShardedTensorView(shape, dtype=torch.float32)
        view.add((*index, *(0 for _ in values.shape)), values.view((1,) * len(index) + tuple(values.shape)))
        read_pieces(self.checkpoint, {WEIGHTS_PREFIX + key: view})
        return values

    def updates_of(self, sharded: ShardedParameter) -> list[tuple[slice, LowRankUpdate]]:
        """Return the updates of a local weight: rows of the local parameter, and what is added to them."""
        if sharded.blocks[0].key not in self.adapted:
            return []
        found = []
        for block in sharded.blocks:
            stacked, columns = block.num_stacked_axes, block.local_shape[-1]
            update = self.read(block.key, block.global_offset[:stacked])
            row, column = block.global_offset[stacked:]
            first = block.flat_start // columns
            part = LowRankUpdate(
                a=update.a[:, column : column + columns],
                b=update.b[row : row + block.local_shape[0]],
                scale=update.scale,
            )
            found.append((slice(first, first + block.local_shape[0]), part))
        return found

    @torch.no_grad()
    def load_into(self, chunks: Sequence[nn.Module]) -> None:
        """Load the adapters, and a task head, into model chunks that have the same adapters."""
        read_pieces(self.checkpoint, weights_to_load(describe_trained(chunks)))

    @torch.no_grad()
    def merge_into(self, parameters: Sequence[ShardedParameter]) -> None:
        """Load the weights that are stored whole, and add the adapters to the weights of a model, in place.

        The sums are computed in fp32 and rounded once to the weights' data type.
        """
        whole = [sharded for sharded in parameters if sharded.blocks[0].key in self.whole]
        read_pieces(self.checkpoint, weights_to_load(whole))
        for sharded in parameters:
            for rows, update in self.updates_of(sharded):
                part = sharded.parameter.data[rows]
                part.copy_(part.float() + update.product().to(part.device))


def find_parts(name: str, model: ModelConfig, *, num_rows: int, num_parts: int) -> torch.Tensor:
    """Return the part of a fused layer that each row of a whole weight belongs to: [rows] int64.

    Args:
        name: of the layer in a checkpoint.
        num_rows: rows of the whole weight.
        num_parts: 3 for queries, keys and values, 2 for gate and up, 1 for one A.
    """
    rows = torch.arange(num_rows)
    if num_parts == 1:
        return torch.zeros_like(rows)
    if num_parts == 2:
        assert name.endswith("linear_fc1")
        return (rows >= num_rows // 2).long()
    assert name.endswith("linear_qkv") and num_parts == 3
    channels = model.head_size
    queries = model.num_attention_heads // model.num_query_groups * channels
    place = rows % (queries + 2 * channels)
    return (place >= queries).long() + (place >= queries + channels).long()


def is_adapter(key: str) -> bool:
    """Return whether a tensor of a checkpoint, by its name, belongs to an adapter."""
    return key.endswith((".lora_a", ".lora_b"))


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
