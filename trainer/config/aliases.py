"""Know the names that users of Megatron-LM, torchtitan and Hugging Face's Trainer write for settings of this schema.

They are suggested in errors, and never accepted: two names for a setting would make configurations hard to compare.
Sources: Megatron-LM's megatron/training/arguments.py, torchtitan's config/job_config.py, TrainingArguments of
transformers.
"""

import re
from collections.abc import Sequence

from trireme.config.suggest import join_or

_SETTINGS = {
    "cluster.gpus_per_node": "gpus gpus_per_host n_gpus ngpus nproc nproc_per_node ntasks_per_node num_gpus",
    "cluster.num_nodes": "nnodes nodes num_hosts num_machines",
    "cluster.slurm.time_limit": "time walltime",
    "cluster.timeout_seconds": "distributed_timeout_minutes timeout",
    "checkpoint.async_save": "async_mode",
    "checkpoint.keep_last": "keep_latest_k save_total_limit",
    "checkpoint.save_interval": "checkpoint_interval checkpoint.interval save_every save_steps",
    "data.train": "data_path dataset dataset_name dataset_path train_data train_data_path train_dataset train_file",
    "data.validation": "eval_dataset valid_data_path validation_dataset validation_file",
    "engine.offload_optimizer": "cpu_offload enable_cpu_offload optimizer_cpu_offload",
    "engine.zero_stage": "zero",
    "logging.log_interval": "log_freq logging_steps metrics.log_freq",
    "logging.wandb.mode": "enable_wandb report_to use_wandb",
    "logging.wandb.project": "project wandb_project",
    "lr_schedule.decay_steps": "lr_decay_iters lr_decay_samples",
    "lr_schedule.min_lr": "min_lr_factor",
    "lr_schedule.style": "lr_decay_style lr_scheduler lr_scheduler_type decay_type scheduler",
    "lr_schedule.warmup_steps": "lr_warmup_fraction lr_warmup_iters lr_warmup_samples warmup warmup_iters warmup_ratio",
    "model": "flavor model_name model_name_or_path model_type",
    "model.activation": "hidden_act openai_gelu squared_relu swiglu",
    "model.ffn_hidden_size": "intermediate_size",
    "model.hidden_size": "d_model dim n_embd",
    "model.norm_epsilon": "layernorm_epsilon norm_eps rms_norm_eps",
    "model.num_attention_heads": "n_head n_heads num_heads",
    "model.num_layers": "n_layer n_layers num_hidden_layers",
    "model.num_moe_experts": "n_experts num_experts num_local_experts",
    "model.num_query_groups": "group_query_attention n_kv_heads num_key_value_heads",
    "model.moe_router_topk": "num_experts_per_tok top_k",
    "model.rotary_base": "rope_theta",
    "model.seq_length": "block_size context_length max_length max_seq_len max_seq_length seq_len sequence_length",
    "model.torch_compile": "compile",
    "model.transformer_impl": "attn_implementation use_flash_attn",
    "optimizer.adam_beta1": "beta1",
    "optimizer.adam_beta2": "beta2",
    "optimizer.adam_eps": "adam_epsilon eps epsilon",
    "optimizer.clip_grad": "grad_clip gradient_clip_val gradient_clipping max_grad_norm max_norm",
    "optimizer.lr": "learning_rate max_lr peak_lr",
    "optimizer.weight_decay": "wd",
    "output_dir": "dump_folder output_directory save save_dir",
    "parallel.context_parallel_size": "context_parallel_degree cp cp_size",
    "parallel.data_parallel_size": "data_parallel data_parallel_replicate_degree data_parallel_shard_degree dp dp_size",
    "parallel.expert_model_parallel_size": "ep ep_size expert_parallel_degree expert_parallel_size",
    "parallel.expert_tensor_parallel_size": "etp expert_tensor_parallel_degree",
    "parallel.pipeline_model_parallel_size": "pipeline_parallel_degree pipeline_parallel_size pp pp_size",
    "parallel.recompute_granularity": (
        "activation_checkpoint activation_checkpointing activation_checkpoint.mode gradient_checkpointing"
        " recompute_activations"
    ),
    "parallel.sequence_parallel": "sp",
    "parallel.tensor_model_parallel_size": "tensor_parallel_degree tensor_parallel_size tp tp_size",
    "parallel.virtual_pipeline_model_parallel_size": "num_layers_per_virtual_pipeline_stage vp vpp",
    "precision": "dtype mixed_precision mixed_precision_param torch_dtype",
    "precision.fp8": "enable_fp8 fp8_format",
    "precision.params_dtype": "param_dtype",
    "precision=bf16": "bf16 bfloat16",
    "precision=fp16": "fp16",
    "pretrained_checkpoint": "init_from initial_load_path pretrained pretrained_model pretrained_model_name_or_path",
    "resume": "load load_checkpoint resume_from resume_from_checkpoint",
    "run_name": "exp_name experiment_name job_name wandb_exp_name wandb_name wandb_run_name",
    "tokenizer.path": "tokenizer_model tokenizer_name tokenizer_name_or_path tokenizer_path",
    "training.eval_interval": "eval_every eval_freq eval_steps val_check_interval",
    "training.eval_iters": "limit_val_batches",
    "training.eval_at_start": "eval_on_start",
    "training.global_batch_size": "gradient_accumulation_steps total_batch_size train_batch_size",
    "training.micro_batch_size": (
        "local_batch_size mbs per_device_train_batch_size per_gpu_train_batch_size train_micro_batch_size_per_gpu"
    ),
    "training.global_batch_size training.micro_batch_size": "batch_size bs",
    "training.train_iters": (
        "epochs iterations iters max_iters max_steps num_epochs num_train_epochs num_steps steps total_steps"
        " train_samples train_steps"
    ),
}
"""Settings -> other names of them. A name that contains a group, such as checkpoint.interval, is known in it only."""

ALIASES: dict[str, tuple[str, ...]] = {
    alias: tuple(settings.split()) for settings, aliases in _SETTINGS.items() for alias in aliases.split()
}
"""Another project's name -> the settings that mean the same."""

_PRESETS = {
    ("engine", "zero1"): "deepspeed",
    ("engine", "zero2"): "deepspeed_zero2",
    ("engine", "zero3"): "deepspeed_zero3",
    ("engine", "fsdp"): "deepspeed_zero3",
    ("engine", "fsdp2"): "deepspeed_zero3",
    ("engine", "ddp"): "megatron",
    ("precision", "bfloat16"): "bf16",
    ("precision", "float16"): "fp16",
    ("precision", "half"): "fp16",
    ("precision", "float32"): "fp32",
    ("precision", "tf32"): "fp32",
}
_SIZES = {
    "tp": "tensor_model_parallel_size",
    "pp": "pipeline_model_parallel_size",
    "vp": "virtual_pipeline_model_parallel_size",
    "cp": "context_parallel_size",
    "ep": "expert_model_parallel_size",
    "dp": "data_parallel_size",
}
_SIZE = re.compile(rf"({'|'.join(_SIZES)})(\d+)[_-]?")


def suggest_preset(group: str, name: str, presets: Sequence[str]) -> str:
    """Suggest what to write instead of a preset that does not exist, where its name has a meaning.

    Args:
        group: such as parallel.
        name: such as tp3.
        presets: those of the group.
    Returns:
        A sentence; empty where the name has no known meaning.
    """
    if (preset := _PRESETS.get((group, name.lower()))) in presets:
        return f"Did you mean {preset}?"
    sizes = _read_sizes(name.lower()) if group == "parallel" else {}
    if not sizes:
        return ""
    if (same := next((preset for preset in presets if _read_sizes(preset) == sizes), None)) is not None:
        return f"Did you mean {same}?"
    fields = " ".join(f"parallel.{_SIZES[short]}={size}" for short, size in sizes.items())
    return f"Set {fields}, or choose {join_or(presets)}."


def _read_sizes(name: str) -> dict[str, int]:
    """Return the sizes that a name such as tp2_pp4 consists of; none if it contains anything else."""
    if not re.fullmatch(rf"({_SIZE.pattern})+", name):
        return {}
    return {short: int(size) for short, size in _SIZE.findall(name)}
