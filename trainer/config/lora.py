"""Define the group of low-rank adapters."""

from dataclasses import dataclass, field
from typing import Literal

from trainer.config.model import ModelConfig, find_moe_layers
from trireme.config.path_text import PathText

LoraTarget = Literal[
    "linear_qkv",
    "linear_proj",
    "linear_fc1",
    "linear_fc2",
    "experts.linear_fc1",
    "experts.linear_fc2",
    "linear_q_proj",
    "linear_q_down_proj",
    "linear_q_up_proj",
    "linear_kv_down_proj",
    "linear_kv_up_proj",
]


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters: the model's weights stay frozen, and small matrices beside them are trained.

    Each adapted weight W acts as W + s * B A with B [output, rank] and A [rank, input].
    Source: Hu et al. 2021 (LoRA, arXiv:2106.09685).
    """

    rank: int = 0
    """Rank of each update; 0 trains all weights instead. Requires pretrained_checkpoint."""
    alpha: float = 16.0
    """Scale of the updates: s = alpha / rank, or alpha / sqrt(rank) with use_rslora."""
    dropout: float = 0.0
    """Dropout of the adapters' inputs in training."""
    use_rslora: bool = False
    """Divide alpha by sqrt(rank), which keeps updates of high ranks from vanishing (arXiv:2312.03732)."""
    target_modules: list[LoraTarget] = field(
        default_factory=lambda: ["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"]
    )
    """Adapted layers, by Megatron-Core's names: attention (linear_qkv, linear_proj), MLPs and shared experts
    (linear_fc1, linear_fc2), experts (experts.linear_fc1, experts.linear_fc2), and instead of linear_qkv those of
    multi-latent attention."""
    separate_projections: bool = True
    """Queries, keys and values have an A each, and so have gate and up projection, as in peft, where they are layers of
    their own; false shares one A (Megatron's fused LoRA), with fewer weights."""
    base: PathText | None = None
    """Where the checkpoint with the frozen weights is now, for a resumed run whose adapters name a path that has
    moved; null takes the path that they name. The files must be the same."""

    @property
    def is_on(self) -> bool:
        """Return whether there are adapters."""
        return self.rank > 0

    @property
    def scale(self) -> float:
        """Return the factor s of every update."""
        assert self.rank > 0
        return self.alpha / (self.rank**0.5 if self.use_rslora else self.rank)


def find_lora_targets(model: ModelConfig) -> list[LoraTarget]:
    """Return the layers of a model that adapters can be added to."""
    has_experts = find_moe_layers(model)
    targets: list[LoraTarget] = []
    if model.multi_latent_attention:
        queries: list[LoraTarget] = ["linear_q_down_proj", "linear_q_up_proj"]
        targets += ["linear_q_proj"] if model.q_lora_rank is None else queries
        targets += ["linear_kv_down_proj", "linear_kv_up_proj"]
    else:
        targets += ["linear_qkv"]
    targets += ["linear_proj"]
    if not all(has_experts) or model.moe_shared_expert_intermediate_size:
        targets += ["linear_fc1", "linear_fc2"]
    if any(has_experts):
        targets += ["experts.linear_fc1", "experts.linear_fc2"]
    return targets
