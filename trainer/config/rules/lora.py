"""Check settings of low-rank adapters."""

from collections.abc import Iterator

from trainer.config.lora import find_lora_targets
from trainer.config.pipeline_split import split_layers
from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trireme.errors import Violation

_RANK, _TARGETS, _DROPOUT = "lora.rank", "lora.target_modules", "lora.dropout"
_TP, _ETP = "parallel.tensor_model_parallel_size", "parallel.expert_tensor_parallel_size"
_LATENT, _EXPERTS = "model.multi_latent_attention", "model.num_moe_experts"
_EXPERT_LAYERS = ("experts.linear_fc1", "experts.linear_fc2")


@reads(
    _RANK,
    _TARGETS,
    _LATENT,
    "model.q_lora_rank",
    _EXPERTS,
    "model.moe_layer_freq",
    "model.moe_shared_expert_intermediate_size",
    "model.num_layers",
)
def _targets_exist(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    if not config.lora.is_on:
        return
    chosen, known = config.lora.target_modules, find_lora_targets(config.model)
    missing = [name for name in chosen if name not in known]
    if missing or not chosen:
        yield Violation(
            path=_TARGETS,
            value=", ".join(chosen) or "[]",
            message=f"names layers that the model does not have: {', '.join(missing)}"
            if missing
            else f"must name at least one layer with {_RANK}={config.lora.rank}",
            fix=f"Choose from [{','.join(known)}].",
        )


@reads(_RANK, "model.transformer_impl")
def _adapters_are_torch_layers(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    if config.lora.is_on and config.model.transformer_impl != "torch":
        yield Violation(
            path="model.transformer_impl",
            value=config.model.transformer_impl,
            message=f"must be torch with {_RANK}={config.lora.rank}: adapters are layers of torch kernels",
            fix=f"Use torch, or {_RANK}=0.",
        )


@reads(_RANK, _TARGETS, _DROPOUT, _TP, _ETP)
def _adapted_experts_fit_their_ranks(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    """Ranks that share an expert would drop different elements, and others hold no copy to sum gradients over."""
    lora, tp_size = config.lora, config.parallel.tensor_model_parallel_size
    expert_tp_size = config.parallel.expert_tensor_parallel_size or tp_size
    if not lora.is_on or expert_tp_size == 1 or not any(name in _EXPERT_LAYERS for name in lora.target_modules):
        return
    if lora.dropout > 0:
        yield Violation(
            path=_DROPOUT,
            value=lora.dropout,
            message=f"must be 0 for adapters of experts that {expert_tp_size} tensor-parallel ranks share",
            fix=f"Use 0, or {_ETP}=1.",
        )
    if expert_tp_size != tp_size:
        yield Violation(
            path=_ETP,
            value=expert_tp_size,
            message=f"must be 1 or {_TP}={tp_size} with adapters of experts",
            fix=f"Use 1 or {tp_size}.",
        )


@reads(
    _RANK,
    "model.num_layers",
    "parallel.pipeline_model_parallel_size",
    "parallel.virtual_pipeline_model_parallel_size",
    "parallel.pipeline_model_parallel_layout",
    "parallel.num_layers_in_first_pipeline_stage",
    "parallel.num_layers_in_last_pipeline_stage",
    "parallel.account_for_embedding_in_pipeline_split",
    "parallel.account_for_loss_in_pipeline_split",
)
def _every_stage_trains(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    """A stage of the embedding or the loss alone has only frozen weights, and an engine has nothing to update there."""
    stages = split_layers(config.model.num_layers, config.parallel) if config.lora.is_on else None
    empty = [number for number, chunks in enumerate(stages or []) if not any(chunks)]
    if empty:
        size = config.parallel.pipeline_model_parallel_size
        yield Violation(
            path="parallel.pipeline_model_parallel_size",
            value=size,
            message=f"leaves pipeline stage {empty[0]} without layers, and so without adapters to train",
            fix="Give every stage at least one layer, or use fewer stages.",
        )


RULES = (_targets_exist, _adapters_are_torch_layers, _adapted_experts_fit_their_ranks, _every_stage_trains)
