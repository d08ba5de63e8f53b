"""How the model is laid over processes: the `parallel` group."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Sizes of the parallel dimensions; their product with the data-parallel size is the world size."""

    tensor_model_parallel_size: int = 1
    """Processes that share every layer's matrices."""
    pipeline_model_parallel_size: int = 1
    """Stages that the layers are cut into."""
    virtual_pipeline_model_parallel_size: int | None = None
    """Model chunks per stage (interleaved schedule); null means one."""
    context_parallel_size: int = 1
    """Processes that share every sequence."""
    expert_model_parallel_size: int = 1
    """Processes that share the experts of a mixture-of-experts layer."""
    data_parallel_size: int | None = None
    """Copies of the model; null takes what the world size leaves (1 when the launcher counts processes)."""
    sequence_parallel: bool = False
    """Shard activations along the sequence between tensor-parallel regions; needs tensor_model_parallel_size > 1."""

    @property
    def model_parallel_size(self) -> int:
        """Processes that hold one copy of the model and one copy of each sequence."""
        return self.tensor_model_parallel_size * self.pipeline_model_parallel_size * self.context_parallel_size
