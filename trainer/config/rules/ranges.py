"""The range of every number, taken by itself."""

from collections.abc import Iterator

from trainer.common.errors import Violation
from trainer.config.number_range import Range, find_out_of_range
from trainer.config.schema import TrainConfig

_COUNT = Range(minimum=1)
_MAYBE_NONE = Range(minimum=0)
_POSITIVE = Range(minimum=0, is_minimum_excluded=True)
_SHARE = Range(minimum=0, maximum=1, is_maximum_excluded=True)

RANGES: dict[str, Range] = {
    "model.num_layers": _COUNT,
    "model.hidden_size": _COUNT,
    "model.ffn_hidden_size": _COUNT,
    "model.num_attention_heads": _COUNT,
    "model.num_query_groups": _COUNT,
    "model.seq_length": _COUNT,
    "model.kv_channels": _COUNT,
    "model.rotary_base": Range(minimum=1, is_minimum_excluded=True),
    "model.rope_scaling_factor": Range(minimum=1),
    "model.norm_epsilon": _POSITIVE,
    "model.hidden_dropout": _SHARE,
    "model.attention_dropout": _SHARE,
    "model.init_method_std": _POSITIVE,
    "model.vocab_size": Range(minimum=2),
    "model.make_vocab_size_divisible_by": _COUNT,
    "model.num_moe_experts": Range(minimum=2, reason="a layer with one expert is a dense one, written null"),
    "model.moe_ffn_hidden_size": _COUNT,
    "model.moe_shared_expert_intermediate_size": _COUNT,
    "model.moe_router_topk": _COUNT,
    "model.moe_router_topk_scaling_factor": _POSITIVE,
    "model.moe_aux_loss_coeff": Range(minimum=0),
    "model.moe_z_loss_coeff": _POSITIVE,
    "training.train_iters": _COUNT,
    "training.global_batch_size": _COUNT,
    "training.micro_batch_size": _COUNT,
    "training.seed": Range(minimum=0, maximum=2**63 - 1),
    "training.eval_interval": _MAYBE_NONE,
    "training.eval_iters": _COUNT,
    "training.stop_after_step": _COUNT,
    "parallel.tensor_model_parallel_size": _COUNT,
    "parallel.pipeline_model_parallel_size": _COUNT,
    "parallel.virtual_pipeline_model_parallel_size": Range(minimum=2, reason="one chunk per stage is written null"),
    "parallel.num_layers_in_first_pipeline_stage": _COUNT,
    "parallel.num_layers_in_last_pipeline_stage": _COUNT,
    "parallel.recompute_num_layers": _COUNT,
    "parallel.context_parallel_size": _COUNT,
    "parallel.expert_model_parallel_size": _COUNT,
    "parallel.expert_tensor_parallel_size": _COUNT,
    "parallel.data_parallel_size": _COUNT,
    "engine.zero_stage": Range(minimum=0, maximum=3),
    "engine.param_persistence_threshold": _MAYBE_NONE,
    "engine.prefetch_bucket_size": _MAYBE_NONE,
    "engine.reduce_bucket_size": _COUNT,
    "engine.allgather_bucket_size": _COUNT,
    "engine.bucket_size": _COUNT,
    "precision.initial_loss_scale": _COUNT,
    "precision.min_loss_scale": _COUNT,
    "precision.loss_scale_window": _COUNT,
    "precision.loss_scale_hysteresis": _COUNT,
    "optimizer.lr": _POSITIVE,
    "optimizer.weight_decay": Range(minimum=0),
    "optimizer.adam_beta1": _SHARE,
    "optimizer.adam_beta2": _SHARE,
    "optimizer.adam_eps": _POSITIVE,
    "optimizer.clip_grad": Range(minimum=0),
    "lr_schedule.warmup_steps": _MAYBE_NONE,
    "lr_schedule.decay_steps": _COUNT,
    "lr_schedule.min_lr": Range(minimum=0),
    "lr_schedule.wsd_decay_steps": _COUNT,
    "data.eod_token_id": _MAYBE_NONE,
    "data.prefetch_steps": _MAYBE_NONE,
    "checkpoint.save_interval": _MAYBE_NONE,
    "checkpoint.keep_last": _MAYBE_NONE,
    "checkpoint.keep_interval": _MAYBE_NONE,
    "checkpoint.keep_best": _MAYBE_NONE,
    "logging.log_interval": _COUNT,
    "health.heartbeat_seconds": _POSITIVE,
    "health.hang_step_multiple": Range(minimum=1, is_minimum_excluded=True),
    "health.hang_min_seconds": _POSITIVE,
    "health.startup_seconds": _POSITIVE,
    "health.validation_seconds": _POSITIVE,
    "health.checkpoint_seconds": _POSITIVE,
    "health.straggler_interval": _MAYBE_NONE,
    "health.straggler_ratio": Range(minimum=1, is_minimum_excluded=True),
    "health.replica_check_interval": _MAYBE_NONE,
    "cluster.num_nodes": _COUNT,
    "cluster.gpus_per_node": _COUNT,
    "cluster.device_peak_tflops": _POSITIVE,
    "cluster.device_memory_gib": _POSITIVE,
    "cluster.intra_node_gb_per_second": _POSITIVE,
    "cluster.inter_node_gb_per_second": _POSITIVE,
    "cluster.device_price_per_hour": Range(minimum=0),
    "cluster.timeout_seconds": _COUNT,
    # The most that sbatch takes.
    "cluster.slurm.warn_seconds": Range(minimum=1, maximum=65535),
    "cluster.slurm.max_restarts_without_progress": _COUNT,
    "cluster.slurm.cpus_per_task": _COUNT,
    "cluster.slurm.max_running": _COUNT,
    "cluster.kubernetes.max_restarts": _MAYBE_NONE,
    "cluster.kubernetes.grace_seconds": _COUNT,
}
"""Every number of the schema, by path; passed over where the engine has no such field or the value is null."""


def check_ranges(config: TrainConfig) -> Iterator[Violation]:
    """Name every number outside its range."""
    return find_out_of_range(config, RANGES)
