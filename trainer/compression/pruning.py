"""Remove the layers, attention heads or channels of MLPs whose removal raises the loss on given rows least.

Layers are removed one after another, each time the one whose removal costs least (greedily). Heads are removed in
groups of queries that share a key and a value, as many in every layer, since all layers have the same number. Of the
channels of MLPs there are too many to measure each: in every layer those go that write least into the hidden states,
by the norm of their activations on the rows times the norm of their output weights.

b: rows, s: tokens of a row, n: query heads, g: key-value heads, d: channels of a head, h: hidden size, f: channels of
an MLP.
Source: Men et al. 2024 (ShortGPT, arXiv:2403.03853) and Muralidharan et al. 2024 (Minitron, arXiv:2407.14679), with the
measured loss in place of an estimate of importance for layers and heads; Sun et al. 2023 (Wanda, arXiv:2306.11695) for
the product of norms.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from trainer.checkpoint.collective import Ranks
from trainer.checkpoint.manifest import FileRecord
from trainer.checkpoint.pieces import WEIGHTS_PREFIX, ShardedTensorView
from trainer.checkpoint.quantized import stored_name
from trainer.checkpoint.save import write_pieces
from trainer.compression.quantizing import name_of
from trainer.compression.rows import row_losses
from trainer.config.model import ModelConfig, find_moe_layers, find_windows
from trainer.huggingface.native_tensors import NativeTensor, list_native_tensors
from trainer.huggingface.native_weights import row_ranges
from trainer.model.gpt import GPT
from trainer.model.sharding import describe_buffers, describe_parameters

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Hold one step of pruning."""

    layer: int
    """Of the original model, from 0."""
    group: int | None
    """The key-value head in the layer, from 0, which is removed with its queries; None for another part."""
    loss: float
    """Of the model without everything that has been removed so far, in nats."""
    num_channels: int | None = None
    """Channels of the layer's MLP that are removed; None for another part."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """Hold what remains of a model."""

    model: ModelConfig
    kept_layers: tuple[int, ...]
    """Numbers of the original layers, ascending."""
    kept_groups: Mapping[int, tuple[int, ...]]
    """Key-value heads that each kept layer keeps, by the layer's original number."""
    removals: tuple[Removal, ...]
    """In their order."""
    loss_before: float
    kept_channels: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Channels of the MLP that each kept layer keeps, ascending, by the layer's original number; others keep all."""


Report = Callable[[Removal], object]


@torch.no_grad()
def prune_layers(
    model: GPT, config: ModelConfig, rows: torch.Tensor, *, num_layers: int, report: Report = lambda _: None
) -> Pruned:
    """Choose layers to remove; the model loses them.

    Args:
        model: the whole model, in this process and evaluation mode.
        rows: [b, s + 1] int64.
        num_layers: layers to remove, fewer than the model has.
        report: is called after each removal.
    """
    layers = list(model.decoder.layers)
    kept = list(range(len(layers)))
    loss_before = _mean_loss(model, rows)
    removals: list[Removal] = []
    # The first layer without its norm is another kind of layer, which nothing can replace.
    fixed = 1 if config.skip_first_layernorm else 0

    def measure_without(layer: int) -> float:
        model.decoder.layers = nn.ModuleList(layers[other] for other in kept if other != layer)
        return _mean_loss(model, rows)

    for _ in range(num_layers):
        best, loss = _find_least(kept[fixed:], measure_without)
        kept.remove(best)
        removals.append(Removal(layer=best, group=None, loss=loss))
        report(removals[-1])
    model.decoder.layers = nn.ModuleList(layers[layer] for layer in kept)
    experts, windows = find_moe_layers(config), find_windows(config)
    smaller = replace(
        config,
        num_layers=len(kept),
        moe_layer_freq=_pattern([int(experts[layer]) for layer in kept], config.moe_layer_freq),
        window_attn_skip_freq=_pattern(
            [int(windows[layer] is not None) for layer in kept], config.window_attn_skip_freq
        ),
    )
    groups = tuple(range(config.num_query_groups))
    return Pruned(
        model=smaller,
        kept_layers=tuple(kept),
        kept_groups=dict.fromkeys(kept, groups),
        removals=tuple(removals),
        loss_before=loss_before,
    )


def _pattern(kinds: list[int], before: list[int]) -> list[int]:
    """Return the kinds of the kept layers as the configuration has them: one number if all are alike."""
    if before in ([1], [0]):
        return before
    return kinds[:1] if len(set(kinds)) == 1 else kinds


@torch.no_grad()
def prune_heads(
    model: GPT, config: ModelConfig, rows: torch.Tensor, *, num_heads: int, report: Report = lambda _: None
) -> Pruned:
    """Choose query heads to remove in every layer; their outputs become 0 in the model.

    Args:
        model: the whole model, in this process and evaluation mode.
        rows: [b, s + 1] int64.
        num_heads: query heads to remove in each layer, a multiple of those that share a key.
        report: is called after each removal.
    """
    sharing = config.num_attention_heads // config.num_query_groups
    assert num_heads % sharing == 0
    width = sharing * config.head_size
    loss_before = _mean_loss(model, rows)
    kept: dict[int, list[int]] = {}
    removals: list[Removal] = []
    for number, layer in enumerate(model.decoder.layers):
        parts = list(layer.self_attention.linear_proj.weight.split(width, dim=1))

        def measure_without(group: int, parts: Sequence[torch.Tensor] = parts) -> float:
            saved = parts[group].clone()
            parts[group].zero_()
            loss = _mean_loss(model, rows)
            parts[group].copy_(saved)
            return loss

        kept[number] = list(range(config.num_query_groups))
        for _ in range(num_heads // sharing):
            best, loss = _find_least(kept[number], measure_without)
            parts[best].zero_()
            kept[number].remove(best)
            removals.append(Removal(layer=number, group=best, loss=loss))
            report(removals[-1])
    smaller = replace(
        config,
        num_attention_heads=config.num_attention_heads - num_heads,
        num_query_groups=config.num_query_groups - num_heads // sharing,
        kv_channels=config.head_size,
    )
    return Pruned(
        model=smaller,
        kept_layers=tuple(range(config.num_layers)),
        kept_groups={layer: tuple(groups) for layer, groups in kept.items()},
        removals=tuple(removals),
        loss_before=loss_before,
    )


@torch.no_grad()
def prune_channels(
    model: GPT, config: ModelConfig, rows: torch.Tensor, *, num_channels: int, report: Report = lambda _: None
) -> Pruned:
    """Choose channels of the MLP to remove in every layer; their outputs become 0 in the model.

    Args:
        model: the whole model, in this process and evaluation mode, without experts.
        rows: [b, s + 1] int64.
        num_channels: channels to remove in each layer, fewer than it has.
        report: is called after each layer, with the loss without the channels that are removed so far.
    """
    weights = [layer.mlp.linear_fc2.weight for layer in model.decoder.layers]
    sums = [torch.zeros(weight.shape[1], dtype=torch.float64, device=weight.device) for weight in weights]

    def add(number: int, activations: torch.Tensor) -> None:
        sums[number] += activations.double().square().flatten(0, -2).sum(dim=0)

    handles = [
        layer.mlp.linear_fc2.register_forward_pre_hook(lambda _, inputs, number=number: add(number, inputs[0]))
        for number, layer in enumerate(model.decoder.layers)
    ]
    loss_before = _mean_loss(model, rows)
    for handle in handles:
        handle.remove()
    kept: dict[int, tuple[int, ...]] = {}
    removals: list[Removal] = []
    for number, weight in enumerate(weights):
        importance = sums[number].sqrt() * weight.double().norm(dim=0)
        removed = importance.argsort(stable=True)[:num_channels]
        weight[:, removed] = 0
        gone = set(removed.tolist())
        kept[number] = tuple(channel for channel in range(weight.shape[1]) if channel not in gone)
        removals.append(Removal(layer=number, group=None, loss=_mean_loss(model, rows), num_channels=num_channels))
        report(removals[-1])
    layers = tuple(range(config.num_layers))
    return Pruned(
        model=replace(config, ffn_hidden_size=config.ffn_hidden_size - num_channels),
        kept_layers=layers,
        kept_groups=dict.fromkeys(layers, tuple(range(config.num_query_groups))),
        removals=tuple(removals),
        loss_before=loss_before,
        kept_channels=kept,
    )


def _find_least(candidates: Sequence[int], measure: Callable[[int], float]) -> tuple[int, float]:
    """Return the candidate with the least loss without it, the first of equal ones, and that loss."""
    losses = {candidate: measure(candidate) for candidate in candidates}
    best = min(losses, key=lambda candidate: losses[candidate])
    return best, losses[best]


def _mean_loss(model: GPT, rows: torch.Tensor) -> float:
    return float(row_losses(model, rows).mean())


def collect_tensors(model: GPT) -> dict[str, torch.Tensor]:
    """Return copies of all saved tensors of a whole model by `stored_name`, on the CPU."""
    described = [*describe_parameters([model]), *describe_buffers([model])]
    return {name_of(one): one.parameter.detach().cpu().clone() for one in described}


def write_pruned(
    directory: Path,
    tensors: Mapping[str, torch.Tensor],
    pruned: Pruned,
    *,
    config: ModelConfig,
    padded_vocab_size: int,
) -> dict[str, FileRecord]:
    """Write the remaining weights as a checkpoint's, in fp32.

    Args:
        directory: an unfinished checkpoint.
        tensors: of the original model, from `collect_tensors` before anything was removed.
        pruned: what remains.
        config: of the original model.
        padded_vocab_size: rows of the embedding.
    Returns:
        The files written, for `commit`.
    """
    originals = {
        (one.name, one.layer, one.expert): one
        for one in list_native_tensors(config, padded_vocab_size=padded_vocab_size)
    }
    pieces: dict[str, ShardedTensorView] = {}
    for one in list_native_tensors(pruned.model, padded_vocab_size=padded_vocab_size):
        layer = None if one.layer is None else pruned.kept_layers[one.layer]
        original = originals[one.name, layer, one.expert]
        values = tensors[stored_name(original.key, original.place)]
        if layer is not None:
            values = _take_heads(values, one, config=config, groups=pruned.kept_groups[layer])
            values = _take_channels(values, one, config=config, channels=pruned.kept_channels.get(layer))
        assert values.shape == one.shape, one.name
        key = WEIGHTS_PREFIX + one.key
        view = pieces.setdefault(key, ShardedTensorView((*one.stacked_shape, *one.shape), dtype=torch.float32))
        for first, end in row_ranges(one.shape):
            offset = (*one.place, first, *(0 for _ in one.shape[1:]))
            part = values[first:end].float().cpu().contiguous()
            view.add(offset, part.view((1,) * len(one.place) + tuple(part.shape)))
    return write_pieces(directory, pieces, ranks=Ranks(is_alone=True))


def _take_heads(
    values: torch.Tensor, tensor: NativeTensor, *, config: ModelConfig, groups: Sequence[int]
) -> torch.Tensor:
    """Return a layer's tensor with some key-value heads and their queries."""
    if len(groups) == config.num_query_groups:
        return values
    sharing, chosen = config.num_attention_heads // config.num_query_groups, torch.tensor(groups)
    if tensor.name in ("self_attention.linear_qkv.weight", "self_attention.linear_qkv.bias"):
        return _select(values, chosen, (sharing + 2) * config.head_size)
    if tensor.name == "self_attention.linear_proj.weight":
        return _select(values.t(), chosen, sharing * config.head_size).t()
    return values


def _take_channels(
    values: torch.Tensor, tensor: NativeTensor, *, config: ModelConfig, channels: Sequence[int] | None
) -> torch.Tensor:
    """Return a layer's tensor with some channels of its MLP; None keeps all."""
    if channels is None:
        return values
    chosen = torch.tensor(channels)
    if tensor.name in ("mlp.linear_fc1.weight", "mlp.linear_fc1.bias"):
        # With a gated activation, the rows of both branches.
        branches = values.unflatten(0, (-1, config.ffn_hidden_size))
        return branches[:, chosen].flatten(0, 1)
    return values[:, chosen] if tensor.name == "mlp.linear_fc2.weight" else values


def _select(values: torch.Tensor, chosen: torch.Tensor, size: int) -> torch.Tensor:
    """Return blocks of `size` rows."""
    blocks = values.reshape(-1, size, *values.shape[1:])[chosen]
    return blocks.reshape(-1, *values.shape[1:])
