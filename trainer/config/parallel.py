"""Define the `parallel` group: parallel sizes, pipeline split and activation recomputation."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Sizes of the parallel dimensions; their product with the data-parallel size is the world size."""

    tensor_model_parallel_size: int = 1
    """Tensor parallelism: processes over which every layer's matrices are sharded."""
    pipeline_model_parallel_size: int = 1
    """Pipeline parallelism: stages into which the layers are split."""
    virtual_pipeline_model_parallel_size: int | None = None
    """Model chunks per stage (interleaved schedule); null means one."""
    num_layers_in_first_pipeline_stage: int | None = None
    """Layers of the first stage, over all its chunks; null means as many as a middle stage."""
    num_layers_in_last_pipeline_stage: int | None = None
    """Layers of the last stage, over all its chunks; null means as many as a middle stage."""
    account_for_embedding_in_pipeline_split: bool = False
    """Count the embedding as one layer of the split: the first chunk gets one layer less."""
    account_for_loss_in_pipeline_split: bool = False
    """Count the output layer and loss as one layer of the split: the last chunk gets one layer less."""
    pipeline_model_parallel_layout: str | None = None
    """Explicit layers of every chunk: E the embedding, t a transformer layer, L output layer and loss, | between
    chunks, (...)*n and t*n repeat; chunks in the order of the forward pass. `Ettt|(tttt|)*2ttL` has four chunks: four
    stages, or two stages with two chunks each."""
    context_parallel_size: int = 1
    """Context parallelism: processes over which every sequence is sharded."""
    cp_comm_type: Literal["all_gather", "a2a"] = "all_gather"
    """Attention under context parallelism: all_gather collects keys and values of the whole sequence on each rank (any
    number of heads); a2a exchanges sequence shards for head shards (DeepSpeed-Ulysses; less traffic with many ranks,
    and context_parallel_size must divide the key-value heads of a rank)."""
    expert_model_parallel_size: int = 1
    """Expert parallelism: processes over which the experts of a layer are distributed. They are those of data, context
    and tensor parallelism: the world size does not grow."""
    expert_tensor_parallel_size: int | None = None
    """Processes over which every expert's matrices are sharded; null means tensor_model_parallel_size, 1 does not shard
    experts."""
    moe_token_dispatcher_type: Literal["allgather", "alltoall"] = "alltoall"
    """Dispatch of tokens to the ranks of their experts: alltoall sends each token there; allgather collects all tokens
    on all of them, which is faster where a token goes to most ranks anyway."""
    data_parallel_size: int | None = None
    """Data parallelism: replicas of the model; null derives it from the world size (1 when the launcher counts
    processes)."""
    sequence_parallel: bool = False
    """Shard activations along the sequence between tensor-parallel regions; requires tensor_model_parallel_size > 1."""
    recompute_granularity: Literal["full", "selective"] | None = None
    """Activations to recompute in the backward pass instead of storing: full, all inside transformer layers; selective,
    those inside recompute_modules; null, none. Results are bit-identical."""
    recompute_method: Literal["uniform", "block"] | None = None
    """With full: uniform stores only the input of every recompute_num_layers-th layer; block recomputes the first
    recompute_num_layers layers of each chunk, and stores all activations of the others."""
    recompute_num_layers: int | None = None
    """With full: see recompute_method."""
    recompute_modules: list[Literal["core_attn", "layernorm", "mlp", "moe"]] = field(default_factory=list)
    """With selective: core_attn (scores and their weighted sum), layernorm (before attention and MLP), mlp (of
    layers without experts), moe (router and experts)."""
    defer_embedding_wgrad_compute: bool = False
    """Compute the output layer's weight gradients while the pipeline drains. Not supported by either engine."""

    @property
    def model_parallel_size(self) -> int:
        """Return the number of processes that hold one replica of the model: tensor * pipeline * context."""
        return self.tensor_model_parallel_size * self.pipeline_model_parallel_size * self.context_parallel_size

    @property
    def num_model_chunks(self) -> int:
        """Return the number of model chunks over all pipeline stages."""
        return self.pipeline_model_parallel_size * (self.virtual_pipeline_model_parallel_size or 1)
