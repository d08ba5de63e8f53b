"""Translate adapters of experts to those of fused parameters, as transformers 5 and peft have them, and back.

E: experts, r: rank of a parameter (of gate and up together, where they have an A each), i: input, o: output.

transformers keeps the experts of a layer as parameters gate_up_proj and down_proj of one module, [E, o, i], whatever
the files call them. peft adapts a parameter (`target_parameters`) by A [E * r, i], the experts one after the other, and
B [o, r * E], in which the experts are the inner axis. Of two adapted parameters of a module, the first is in
`base_layer` of the module.
Source: peft 0.21, tuners/lora/layer.py (ParamWrapper).
"""

import re
from collections.abc import Mapping, MutableMapping, Sequence
from typing import NamedTuple

import torch

from trainer.checkpoint.adapters import LowRankUpdate
from trainer.huggingface.tensor_map import TensorRule
from trireme.errors import ConfigError, Violation

PARAMETERS = {"linear_fc1": "gate_up_proj", "linear_fc2": "down_proj"}
"""Fused parameter, by the end of the name of a layer of ours."""
TARGET_PARAMETER_ENDS = tuple(f"experts.{name}" for name in PARAMETERS.values())
"""Ends of the names by which peft finds them in all families."""
_INNER = ".base_layer"
_EXPERT = re.compile(r"(.+\.)(?:mlp|block_sparse_moe)\.experts\.\d+\..+")

Factors = tuple[torch.Tensor, torch.Tensor]
"""A and B of one layer."""


class FusedParameter(NamedTuple):
    """Name a fused parameter: its module in memory, and its own name."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """Return the name by which patterns of ranks and scales find it."""
        return f"{self.module}.{self.name}"


def fused_parameter(rule: TensorRule) -> FusedParameter | None:
    """Return the fused parameter that an expert's weight is part of; None for other weights, and without that form."""
    found = _EXPERT.fullmatch(rule.segments[0].name) if rule.tensor.expert is not None else None
    name = PARAMETERS.get(rule.tensor.name.removesuffix(".weight").rpartition(".")[2])
    return None if found is None or name is None else FusedParameter(f"{found[1]}mlp.experts", name)


def fuse(updates: Mapping[FusedParameter, Sequence[LowRankUpdate]]) -> dict[str, torch.Tensor]:
    """Return the tensors of peft, without its prefix.

    Args:
        updates: of each parameter, in the order of the experts.
    """
    tensors: dict[str, torch.Tensor] = {}
    for parameter, of_experts in updates.items():
        has_both = all(FusedParameter(parameter.module, name) in updates for name in PARAMETERS.values())
        place = parameter.module + (_INNER if has_both and parameter.name == "gate_up_proj" else "")
        tensors[f"{place}.lora_A.weight"] = torch.cat([update.a for update in of_experts])
        tensors[f"{place}.lora_B.weight"] = torch.stack([update.b for update in of_experts], dim=-1).flatten(1)
    return tensors


def take_fused(
    remaining: MutableMapping[str, torch.Tensor], rules: Sequence[TensorRule], *, prefix: str
) -> dict[tuple[FusedParameter, int], Factors]:
    """Take the adapters of fused parameters out of peft's tensors: A [r, i] and B [o, r] of each expert.

    Args:
        remaining: tensors by name; those that are taken are removed.
        rules: of every tensor of the model.
        prefix: of peft's names.
    Raises:
        ConfigError: shapes are not those of the base.
    """
    shapes: dict[FusedParameter, tuple[int, ...]] = {}
    num_experts: dict[FusedParameter, int] = {}
    for rule in rules:
        parameter = fused_parameter(rule)
        if parameter is not None:
            shapes[parameter] = rule.tensor.shape
            num_experts[parameter] = num_experts.get(parameter, 0) + 1
    found: dict[tuple[FusedParameter, int], Factors] = {}
    for module in dict.fromkeys(parameter.module for parameter in shapes):
        for place in (f"{prefix}{module}{_INNER}", f"{prefix}{module}"):
            a = remaining.pop(f"{place}.lora_A.weight", None)
            b = remaining.pop(f"{place}.lora_B.weight", None)
            if a is None or b is None:
                continue
            # Which parameter it is follows from the shapes: they never agree.
            fitting = [one for one in shapes if one.module == module and shapes[one] == (b.shape[0], a.shape[1])]
            if not fitting or a.shape[0] != b.shape[1] or a.shape[0] % num_experts[fitting[0]]:
                message = f"has shapes {list(a.shape)} and {list(b.shape)}, which fit no experts of the base"
                raise ConfigError([Violation(path=place, value="", message=message, fix="Give the adapter's base.")])
            count = num_experts[fitting[0]]
            parts_a = a.float().view(count, -1, a.shape[1])
            parts_b = b.float().view(b.shape[0], -1, count)
            for expert in range(count):
                found[fitting[0], expert] = parts_a[expert].contiguous(), parts_b[..., expert].contiguous()
    return found


def own_columns(b: torch.Tensor, is_of_part: torch.Tensor, *, num_parts: int) -> torch.Tensor:
    """Return the columns of B that belong to one part of a fused layer: all, unless parts have an A each.

    Args:
        b: [o, r].
        is_of_part: [o] bool.
        num_parts: parts of the layer.
    Returns:
        [r or r / num_parts] int64. Columns that are left out are 0 in all rows of the part, and no others of it are.
    """
    rank = b.shape[1]
    inside, outside = ((b[rows] != 0).any(dim=0) for rows in (is_of_part, ~is_of_part))
    columns = torch.nonzero(inside).flatten()
    is_apart = not bool((inside & outside).any()) and len(columns) * num_parts == rank
    return columns if is_apart else torch.arange(rank)
