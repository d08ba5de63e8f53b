"""Environment variables that every launcher sets for runs on GPUs."""

from pathlib import PurePath

from trainer.config.schema import TrainConfig


def device_variables(config: TrainConfig, *, run_directory: PurePath) -> dict[str, str]:
    """Return the variables of a run on GPUs, in the order in which they are set; those that the user sets win.

    Args:
        run_directory: as the nodes see it; NCCL writes its traces of timed-out collectives there.
    """
    if config.cluster.gpus_per_node is None:
        return {}
    variables = schedule_variables(config)
    if not (config.cluster.device or "").startswith("mi"):
        # Fewer out-of-memory errors by fragmentation; ROCm does not have it.
        # docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-cuda-alloc-conf
        variables["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    # Record each rank's last collectives: after a timeout, they show which one hung and which rank did not join it.
    # docs.pytorch.org/docs/stable/torch_nccl_environment_variables.html, docs.pytorch.org/tutorials/unstable/
    # flight_recorder_tutorial.html
    variables["TORCH_NCCL_TRACE_BUFFER_SIZE"] = "2000"
    variables["TORCH_NCCL_DUMP_ON_TIMEOUT"] = "1"
    variables["TORCH_NCCL_DEBUG_INFO_TEMP_FILE"] = str(run_directory / "logs" / "nccl_trace_rank_")
    return variables


def schedule_variables(config: TrainConfig) -> dict[str, str]:
    """Return the variable that keeps kernels in launch order, so that collectives overlap with matrix products.

    Source: Megatron-Core, tensor_parallel/layers.py, linear_with_grad_accumulation_and_async_allreduce.
    """
    parallel = config.parallel
    is_cut = parallel.tensor_model_parallel_size > 1 or parallel.context_parallel_size > 1
    return {"CUDA_DEVICE_MAX_CONNECTIONS": "1"} if is_cut else {}
