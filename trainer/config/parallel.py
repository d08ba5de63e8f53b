"""How the model is laid over processes, and which activations it keeps: the `parallel` group."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Sizes of the parallel dimensions; their product with the data-parallel size is the world size."""

    tensor_model_parallel_size: int = 1
    """Processes that share every layer's matrices."""
    pipeline_model_parallel_size: int = 1
    """Stages that the layers are cut into."""
    virtual_pipeline_model_parallel_size: int | None = None
    """Model chunks per stage (interleaved schedule); null means one."""
    num_layers_in_first_pipeline_stage: int | None = None
    """Layers of the first stage, over all its chunks; null gives it as many as a middle stage."""
    num_layers_in_last_pipeline_stage: int | None = None
    """Layers of the last stage, over all its chunks; null gives it as many as a middle stage."""
    account_for_embedding_in_pipeline_split: bool = False
    """Count the embedding as one layer when layers are cut into stages: the first chunk gets one layer less."""
    account_for_loss_in_pipeline_split: bool = False
    """Count the output layer and loss as one layer when layers are cut into stages: the last chunk gets one layer
    less."""
    pipeline_model_parallel_layout: str | None = None
    """Layers of every chunk, written out: E the embedding, t a transformer layer, L output layer and loss, | between
    chunks, (...)*n and t*n repeat; chunks in the order that a token passes them. `Ettt|(tttt|)*2ttL` is four
    chunks: of four stages, or of two stages with two chunks each."""
    context_parallel_size: int = 1
    """Processes that share every sequence."""
    cp_comm_type: Literal["all_gather", "a2a"] = "all_gather"
    """How attention sees a sequence that context-parallel processes share: all_gather collects keys and values of the
    whole sequence on each of them (any number of heads), a2a exchanges shares of the sequence for shares of the heads
    (DeepSpeed-Ulysses; less traffic with many processes, and context_parallel_size must divide the key-value heads of
    a process)."""
    expert_model_parallel_size: int = 1
    """Processes that share the experts of each mixture-of-experts layer. They are taken from those of data, context and
    tensor parallelism: the world size does not grow."""
    expert_tensor_parallel_size: int | None = None
    """Processes that share every expert's matrices; null means tensor_model_parallel_size, 1 keeps experts whole."""
    moe_token_dispatcher_type: Literal["allgather", "alltoall"] = "alltoall"
    """How tokens reach the processes that hold their experts: alltoall sends each token there, allgather collects all
    tokens on all of them, which pays where a token is sent to most of them anyway."""
    data_parallel_size: int | None = None
    """Copies of the model; null takes what the world size leaves (1 when the launcher counts processes)."""
    sequence_parallel: bool = False
    """Shard activations along the sequence between tensor-parallel regions; needs tensor_model_parallel_size > 1."""
    recompute_granularity: Literal["full", "selective"] | None = None
    """Activations that are computed again in the backward pass instead of kept: full, all inside transformer layers;
    selective, those inside recompute_modules; null, none. Results are the same bit for bit."""
    recompute_method: Literal["uniform", "block"] | None = None
    """With full: uniform keeps the input of every recompute_num_layers-th layer only; block recomputes the first
    recompute_num_layers layers of each chunk, and keeps all activations of the others."""
    recompute_num_layers: int | None = None
    """With full: see recompute_method."""
    recompute_modules: list[Literal["core_attn", "layernorm", "mlp", "moe"]] = field(default_factory=list)
    """With selective: core_attn (scores and their weighted sum), layernorm (in front of attention and MLP), mlp (of
    layers without experts), moe (router and experts)."""
    defer_embedding_wgrad_compute: bool = False
    """Compute the output layer's weight gradients while the pipeline drains. Not available: see the rule's message."""

    @property
    def model_parallel_size(self) -> int:
        """Processes that hold one copy of the model and one copy of each sequence."""
        return self.tensor_model_parallel_size * self.pipeline_model_parallel_size * self.context_parallel_size

    @property
    def num_model_chunks(self) -> int:
        """Pieces that the layers are cut into, over all pipeline stages."""
        return self.pipeline_model_parallel_size * (self.virtual_pipeline_model_parallel_size or 1)
