"""Check parallel sizes against the model's shape and the number of processes."""

import math
from collections.abc import Iterator

from trainer.config.derived import find_dp_size, pad_vocab_size
from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trireme.config.suggest import divisors, join_or, nearest_multiples, nearest_values, to_yaml
from trireme.errors import Violation
from trireme.progress import format_number

_TP = "parallel.tensor_model_parallel_size"
_PP = "parallel.pipeline_model_parallel_size"
_VP = "parallel.virtual_pipeline_model_parallel_size"
_CP = "parallel.context_parallel_size"
_DP = "parallel.data_parallel_size"


@reads(_TP, _PP, _CP, _DP)
def _world_size_is_the_product(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    parallel = config.parallel
    if world_size is None:
        return
    model_parallel_size, dp_size = parallel.model_parallel_size, parallel.data_parallel_size
    product = (
        f"{_TP}={parallel.tensor_model_parallel_size} * {_PP}={parallel.pipeline_model_parallel_size}"
        f" * {_CP}={parallel.context_parallel_size}"
    )
    if dp_size is not None and world_size != model_parallel_size * dp_size:
        sizes = f"{to_yaml(world_size // model_parallel_size)} or null"
        other = f", or set {_DP} to {sizes}" if world_size % model_parallel_size == 0 else ""
        yield Violation(
            path="world_size",
            value=world_size,
            message=f"must equal {product} * {_DP}={dp_size} = {model_parallel_size * dp_size}",
            fix=f"Start {format_number(model_parallel_size * dp_size, 'process')}{other}.",
        )
    elif dp_size is None and world_size % model_parallel_size:
        yield Violation(
            path="world_size",
            value=world_size,
            message=f"must be a multiple of {product} = {model_parallel_size}",
            fix=f"Start {join_or(nearest_multiples(world_size, model_parallel_size))} processes, or choose parallel"
            f" sizes whose product is {join_or(nearest_values(model_parallel_size, divisors(world_size)))}.",
        )


def _tensor_parallel_sizes(config: TrainConfig) -> str:
    """List the tensor-parallel sizes that every dimension of this model allows, nearest to the configured one."""
    model = config.model
    common = math.gcd(model.num_attention_heads, model.num_query_groups, model.ffn_hidden_size)
    common = math.gcd(common, _padded_vocab_size(config) or model.make_vocab_size_divisible_by)
    return join_or(nearest_values(config.parallel.tensor_model_parallel_size, divisors(common)))


def _padded_vocab_size(config: TrainConfig) -> int | None:
    model = config.model
    return None if model.vocab_size is None else pad_vocab_size(model, model.vocab_size)


@reads(
    _TP,
    "model.num_attention_heads",
    "model.num_query_groups",
    "model.ffn_hidden_size",
    "model.vocab_size",
    "model.make_vocab_size_divisible_by",
)
def _tensor_parallel_divides_the_model(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model, tp_size = config.model, config.parallel.tensor_model_parallel_size
    padded = _padded_vocab_size(config)
    shared = {
        "model.num_attention_heads": (model.num_attention_heads, ""),
        "model.num_query_groups": (model.num_query_groups, ""),
        "model.ffn_hidden_size": (model.ffn_hidden_size, ""),
        "model.make_vocab_size_divisible_by": (
            model.make_vocab_size_divisible_by,
            ": the vocabulary is padded to a multiple of that, and cut into equal parts",
        ),
    }
    if padded is not None:
        reason = f", padded to {padded} by model.make_vocab_size_divisible_by={model.make_vocab_size_divisible_by}"
        del shared["model.make_vocab_size_divisible_by"]
        shared["model.vocab_size"] = (padded, reason)
    for path, (size, note) in shared.items():
        if size % tp_size == 0:
            continue
        written, other = size, f"{path} to {join_or(nearest_multiples(size, tp_size))}"
        if path == "model.vocab_size":
            divisible_by = math.lcm(model.make_vocab_size_divisible_by, tp_size)
            written, other = model.vocab_size or size, f"model.make_vocab_size_divisible_by to {divisible_by}"
        yield Violation(
            path=_TP,
            value=tp_size,
            message=f"must divide {path}={written}{note}",
            fix=f"Use {_tensor_parallel_sizes(config)}, or set {other}.",
        )


@reads(_PP, _VP, _TP, _CP, _DP, "training.global_batch_size", "training.micro_batch_size")
def _interleaving_fits(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    """Source: Megatron-Core schedules.py, forward_backward_pipelining_with_interleaving."""
    parallel, training = config.parallel, config.training
    chunks_per_stage, stages = parallel.virtual_pipeline_model_parallel_size, parallel.pipeline_model_parallel_size
    if chunks_per_stage is None:
        return
    if stages == 1:
        yield Violation(
            path=_VP,
            value=chunks_per_stage,
            message=f"requires {_PP} of at least 2: interleaving needs several pipeline stages",
            fix=f"Use null, or set {_PP} to 2 or more.",
        )
        return
    sequences = training.micro_batch_size * (find_dp_size(config, world_size=world_size) or 1)
    num_microbatches, rest = divmod(training.global_batch_size, sequences)
    if rest == 0 and num_microbatches % stages:
        sizes = [count * sequences for count in nearest_multiples(num_microbatches, stages)]
        yield Violation(
            path="training.global_batch_size",
            value=training.global_batch_size,
            message=f"must give a multiple of {_PP}={stages} micro batches with {_VP}={chunks_per_stage}, and gives"
            f" {num_microbatches}",
            fix=f"Use {join_or(sizes)}, or set {_VP} to null.",
        )


@reads(_TP, "parallel.sequence_parallel")
def _sequence_parallel_needs_tensor_parallel(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    if config.parallel.sequence_parallel and config.parallel.tensor_model_parallel_size == 1:
        yield Violation(
            path="parallel.sequence_parallel",
            value="true",
            message=f"requires {_TP} of at least 2: it shards activations over tensor-parallel ranks",
            fix=f"Use false, or set {_TP} to 2 or more.",
        )


@reads(_TP, _CP, "parallel.sequence_parallel", "model.seq_length")
def _sequence_is_cut_evenly(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    parallel, seq_length = config.parallel, config.model.seq_length
    factors, parts = [], 1
    if parallel.context_parallel_size > 1:
        factors.append(f"2 * {_CP}={parallel.context_parallel_size} balanced chunks")
        parts *= 2 * parallel.context_parallel_size
    if parallel.sequence_parallel:
        factors.append(f"{_TP}={parallel.tensor_model_parallel_size} parts for parallel.sequence_parallel")
        # Each context-parallel rank's share, itself a whole number, is sharded once more over tensor-parallel ranks.
        parts = math.lcm(parts, max(parallel.context_parallel_size, 1) * parallel.tensor_model_parallel_size)
    if seq_length % parts:
        yield Violation(
            path="model.seq_length",
            value=seq_length,
            message=f"must be a multiple of {parts}, to be cut into {' and '.join(factors)}",
            fix=f"Use {join_or(nearest_multiples(seq_length, parts))}.",
        )


@reads(_TP, _CP, "parallel.cp_comm_type", "model.num_query_groups", "model.num_attention_heads")
def _exchanged_heads_are_whole(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    parallel, model = config.parallel, config.model
    tp_size, cp_size, groups = (
        parallel.tensor_model_parallel_size,
        parallel.context_parallel_size,
        model.num_query_groups,
    )
    # Query heads are a multiple of their groups; another rule checks that tensor parallelism divides them.
    if parallel.cp_comm_type != "a2a" or groups % tp_size or model.num_attention_heads % groups:
        return
    local_groups = groups // tp_size
    if local_groups % cp_size:
        yield Violation(
            path="parallel.cp_comm_type",
            value="a2a",
            message=f"requires {_CP}={cp_size} to divide the key-value heads of a rank, model.num_query_groups={groups}"
            f" / {_TP}={tp_size} = {local_groups}",
            fix=f"Use all_gather, or set {_CP} to {join_or(nearest_values(cp_size, divisors(local_groups)))}.",
        )


RULES = (
    _world_size_is_the_product,
    _tensor_parallel_divides_the_model,
    _interleaving_fits,
    _sequence_parallel_needs_tensor_parallel,
    _sequence_is_cut_evenly,
    _exchanged_heads_are_whole,
)
