"""Add low-rank adapters to Megatron-Core's tensor-parallel linear layers.

s: sequence, b: batch, r: rank, p: parts of a fused layer (query, key, value; or gate, up).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker, get_expert_parallel_rng_tracker_name
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import nn
from torch.nn import functional

from trainer.model.forward_only import ColumnLinear, RowLinear

Parts = Literal["one", "qkv", "gated"]
"""What a layer's output consists of: one projection; queries, keys and values by group; gate rows, then up rows."""


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Hold the settings of one layer's adapter."""

    rank: int
    scale: float
    dropout: float = 0.0
    parts: Parts = "one"
    is_shared: bool = False
    """Whether all parts share one A."""


class LoraColumnLinear(ColumnLinear):
    """ColumnParallelLinear with an update of its weight: A is on every tensor-parallel rank, B is cut as the weight.

    The parts of a fused layer have an A each: `lora_a` [p * r, input] holds them one after the other, and each row of
    `lora_b` [output / tp_size, r] belongs to the part that the same row of the weight belongs to.
    """

    def __init__(self, input_size: int, output_size: int, *, lora: LowRank, config: Any, **others: Any) -> None:
        super().__init__(input_size, output_size, config=config, **others)
        assert not self.gather_output
        self.lora = lora
        part_of_row = _find_parts(self, lora, config)
        num_parts = 1 if lora.is_shared else int(part_of_row.max()) + 1
        rows, dtype = self.output_size_per_partition, config.params_dtype
        self.lora_a = nn.Parameter(torch.empty(num_parts * lora.rank, input_size, dtype=dtype))
        self.lora_b = nn.Parameter(torch.empty(rows, lora.rank, dtype=dtype))
        self.lora_b.tensor_model_parallel, self.lora_b.partition_dim = True, 0  # type: ignore[attr-defined]
        is_dense = not (self.is_expert and self.expert_parallel)
        self.lora_a.allreduce = self.lora_b.allreduce = is_dense  # type: ignore[attr-defined]
        # With a split sequence, each rank's gradient of A is that of its part.
        self.lora_a.sequence_parallel = self.sequence_parallel and not self.is_expert  # type: ignore[attr-defined]
        if num_parts > 1:
            is_of_part = functional.one_hot(part_of_row, num_parts).to(dtype)
            self.register_buffer("part_mask", is_of_part[:, :, None], persistent=False)
        self.num_parts = num_parts

    def forward(
        self,
        input_: torch.Tensor,
        weight: torch.Tensor | None = None,
        runtime_gather_output: bool | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return [s, b, output / tp_size] of [s, b, input], and the bias if it is added later."""
        assert not runtime_gather_output
        output, bias = super().forward(input_, weight)
        dropped = _drop(input_, self.lora, is_training=self.training, is_split=self.sequence_parallel, layer=self)
        low = functional.linear(dropped, self.lora_a)
        if self.tp_group.size() > 1 and not self.is_expert:
            if self.sequence_parallel:
                low = gather_from_sequence_parallel_region(low, group=self.tp_group)
            else:
                low = copy_to_tensor_model_parallel_region(low, group=self.tp_group)
        return output + functional.linear(low, self.wide_b()) * self.lora.scale, bias

    def wide_b(self) -> torch.Tensor:
        """Return B for all parts of A, [output / tp_size, p * r]: zero where a row is not of the part."""
        if self.num_parts == 1:
            return self.lora_b
        return (self.lora_b[:, None, :] * self.part_mask).flatten(1)

    @torch.no_grad()
    def weight_update(self) -> torch.Tensor:
        """Return what the adapter adds to this rank's weight: [output / tp_size, input] fp32."""
        return self.wide_b().float() @ self.lora_a.float() * self.lora.scale

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Describe the weights for checkpoints; rows of gate and up are cut separately, as those of the weight are."""
        sharded: dict[str, Any] = make_sharded_tensors_for_checkpoint(
            self.state_dict(prefix="", keep_vars=True),
            prefix,
            {"weight": 0, "bias": 0, "lora_b": 0},
            sharded_offsets,
            tp_group=self.tp_group,
            dp_cp_group=metadata["dp_cp_group"],
        )
        if self.lora.parts == "gated":
            key = f"{prefix}lora_b"
            sharded[key] = apply_swiglu_sharded_factory(
                sharded[key], sharded_offsets, metadata.get("singleton_local_shards", False)
            )
        return sharded


class LoraRowLinear(RowLinear):
    """RowParallelLinear with an update of its weight: A is cut as the weight, B is on every tensor-parallel rank.

    The bias is returned as a view, as `OutputLinear` does.
    """

    def __init__(self, input_size: int, output_size: int, *, lora: LowRank, config: Any, **others: Any) -> None:
        super().__init__(input_size, output_size, config=config, **others)
        assert lora.parts == "one" and self.input_is_parallel
        self.lora = lora
        columns, dtype = self.input_size_per_partition, config.params_dtype
        self.lora_a = nn.Parameter(torch.empty(lora.rank, columns, dtype=dtype))
        self.lora_b = nn.Parameter(torch.empty(output_size, lora.rank, dtype=dtype))
        self.lora_a.tensor_model_parallel, self.lora_a.partition_dim = True, 1  # type: ignore[attr-defined]
        is_dense = not (self.is_expert and self.expert_parallel)
        self.lora_a.allreduce = self.lora_b.allreduce = is_dense  # type: ignore[attr-defined]
        # With a split sequence, each rank's gradient of B is that of its part.
        self.lora_b.sequence_parallel = self.sequence_parallel and not self.is_expert  # type: ignore[attr-defined]

    def forward(self, input_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return [s, b, output] of [s, b, input / tp_size], and the bias if it is added later."""
        output, bias = super().forward(input_)
        is_split = self.tp_group.size() > 1
        dropped = _drop(input_, self.lora, is_training=self.training, is_split=is_split, layer=self)
        low = functional.linear(dropped, self.lora_a)
        if is_split and not self.is_expert:
            if self.sequence_parallel:
                low = reduce_scatter_to_sequence_parallel_region(low, group=self.tp_group)
            else:
                low = reduce_from_tensor_model_parallel_region(low, group=self.tp_group)
        output = output + functional.linear(low, self.lora_b) * self.lora.scale
        return output, None if bias is None else bias.view_as(bias)

    @torch.no_grad()
    def weight_update(self) -> torch.Tensor:
        """Return what the adapter adds to this rank's weight: [output, input / tp_size] fp32."""
        return self.lora_b.float() @ self.lora_a.float() * self.lora.scale

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Describe the weights for checkpoints."""
        sharded: dict[str, Any] = make_sharded_tensors_for_checkpoint(
            self.state_dict(prefix="", keep_vars=True),
            prefix,
            {"weight": 1, "lora_a": 1},
            sharded_offsets,
            tp_group=self.tp_group,
            dp_cp_group=metadata["dp_cp_group"],
        )
        return sharded


LoraLinear = LoraColumnLinear | LoraRowLinear


def mark_expert_gradients(experts: nn.Module, *, expert_tp_size: int) -> None:
    """Mark the adapters' weights of experts of which each tensor-parallel rank computes a part of the gradient.

    The token dispatcher gathers and sums an expert's tokens over the ranks that share it, outside of its layers: there
    a whole A or B sees this rank's rows of the weight only.
    """
    if expert_tp_size == 1:
        return
    for module in experts.modules():
        if isinstance(module, LoraColumnLinear):
            module.lora_a.sequence_parallel = True  # type: ignore[attr-defined]
        elif isinstance(module, LoraRowLinear):
            module.lora_b.sequence_parallel = True  # type: ignore[attr-defined]


def freeze_base(chunks: Sequence[GPTModel], *, has_task_head: bool) -> None:
    """Leave gradients to adapters, and to a task head, which has no pretrained weights."""
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            is_trained = name.endswith(("lora_a", "lora_b")) or (has_task_head and name.startswith("head."))
            parameter.requires_grad_(is_trained)


def has_adapters(model: nn.Module) -> bool:
    """Return whether a model has adapters."""
    return any(isinstance(module, LoraColumnLinear | LoraRowLinear) for module in model.modules())


def _find_parts(layer: LoraColumnLinear, lora: LowRank, config: Any) -> torch.Tensor:
    """Return the part that each of this rank's rows belongs to: [output / tp_size] int64."""
    rows = torch.arange(layer.output_size_per_partition, device="cpu")
    if lora.parts == "one":
        return torch.zeros_like(rows)
    if lora.parts == "gated":
        return (rows >= len(rows) // 2).long()
    channels = config.kv_channels
    queries = config.num_attention_heads // config.num_query_groups * channels
    place = (rows + layer.tp_group.rank() * len(rows)) % (queries + 2 * channels)
    return (place >= queries).long() + (place >= queries + channels).long()


def _drop(input_: torch.Tensor, lora: LowRank, *, is_training: bool, is_split: bool, layer: LoraLinear) -> torch.Tensor:
    """Drop elements of an adapter's input, with random numbers that ranks with the same input share."""
    if lora.dropout == 0.0 or not is_training:
        return input_
    if layer.is_expert:
        with get_cuda_rng_tracker().fork(get_expert_parallel_rng_tracker_name()):
            return functional.dropout(input_, lora.dropout)
    if is_split:
        with get_cuda_rng_tracker().fork():
            return functional.dropout(input_, lora.dropout)
    return functional.dropout(input_, lora.dropout)
