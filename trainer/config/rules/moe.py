"""Rules between a mixture of experts, its layout and the engine."""

import math
from collections.abc import Iterator

from trainer.config.derived import find_dp_size
from trainer.config.model import find_expert_width, find_moe_layers
from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trireme.config.suggest import divisors, join_or, nearest_multiples, nearest_values, to_yaml
from trireme.errors import Violation
from trireme.progress import format_number

_EXPERTS = "model.num_moe_experts"
_FREQUENCY = "model.moe_layer_freq"
_TOP_K = "model.moe_router_topk"
_SHARED = "model.moe_shared_expert_intermediate_size"
_TP = "parallel.tensor_model_parallel_size"
_CP = "parallel.context_parallel_size"
_PP = "parallel.pipeline_model_parallel_size"
_DP = "parallel.data_parallel_size"
_EP = "parallel.expert_model_parallel_size"
_ETP = "parallel.expert_tensor_parallel_size"


def _expert_tp_size(config: TrainConfig) -> int:
    parallel = config.parallel
    return parallel.expert_tensor_parallel_size or parallel.tensor_model_parallel_size


@reads(_EXPERTS, _EP, _ETP, "model.moe_ffn_hidden_size", _SHARED)
def _dense_models_have_no_experts(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model, parallel = config.model, config.parallel
    if model.num_moe_experts is not None:
        return
    for path, value, dense in (
        (_EP, parallel.expert_model_parallel_size, 1),
        (_ETP, parallel.expert_tensor_parallel_size, None),
        ("model.moe_ffn_hidden_size", model.moe_ffn_hidden_size, None),
        (_SHARED, model.moe_shared_expert_intermediate_size, None),
    ):
        if value != dense:
            yield Violation(
                path=path,
                value=to_yaml(value),
                message=f"is about experts, and {_EXPERTS} is null",
                fix=f"use {to_yaml(dense)}, or set {_EXPERTS}",
            )


@reads(_EXPERTS, _FREQUENCY, "model.num_layers")
def _layer_pattern_fits(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    pattern, num_layers = config.model.moe_layer_freq, config.model.num_layers
    if set(pattern) - {0, 1} or not pattern:
        problem = "is no list of 1 (a layer with experts) and 0 (a dense layer)"
    elif not any(pattern):
        problem = "gives no layer experts"
    elif config.model.num_moe_experts is not None and num_layers % len(pattern):
        problem = f"has {len(pattern)} entries, which do not divide model.num_layers={num_layers}"
    else:
        return
    yield Violation(
        path=_FREQUENCY,
        value=to_yaml(pattern),
        message=problem,
        fix="use [1] for experts in all layers"
        + (", [1, 0] for every second" if num_layers % 2 == 0 else "")
        + f", or one entry for each of the {num_layers} layers",
    )


@reads(_EXPERTS, _TOP_K)
def _tokens_find_enough_experts(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if model.num_moe_experts is not None and model.moe_router_topk > model.num_moe_experts:
        yield Violation(
            path=_TOP_K,
            value=model.moe_router_topk,
            message=f"is more than {_EXPERTS}={model.num_moe_experts}",
            fix=f"use 1 to {model.num_moe_experts}",
        )


@reads(_EXPERTS, _TOP_K, "model.moe_router_pre_softmax", "model.moe_router_score_function")
def _one_expert_needs_softmax_over_all(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if (
        model.num_moe_experts is not None
        and model.moe_router_topk == 1
        and model.moe_router_score_function == "softmax"
        and not model.moe_router_pre_softmax
    ):
        yield Violation(
            path="model.moe_router_pre_softmax",
            value="false",
            message=f"takes the softmax over the one expert that {_TOP_K}=1 chooses: its weight is always 1, and the"
            " router learns nothing",
            fix=f"use true, or {_TOP_K} 2 or more, or model.moe_router_score_function=sigmoid",
        )


@reads(_EXPERTS, _SHARED, _TP, _ETP, "model.add_bias_linear")
def _experts_take_no_biases_when_cut(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    """Source: Megatron-Core transformer_config.py and shared_experts.py."""
    model = config.model
    if model.num_moe_experts is None or not model.add_bias_linear:
        return
    if model.moe_shared_expert_intermediate_size is not None:
        yield Violation(
            path="model.add_bias_linear",
            value="true",
            message=f"gives biases to all linear layers, and the shared expert of {_SHARED} takes none",
            fix=f"use false, or {_SHARED} null",
        )
    if _expert_tp_size(config) > 1:
        yield Violation(
            path="model.add_bias_linear",
            value="true",
            message=f"gives biases to experts, whose matrices {_expert_tp_size(config)} processes share, and each of them"
            " would add the bias",
            fix=f"use false, or {_ETP} 1",
        )


@reads(_EXPERTS, "model.transformer_impl")
def _experts_are_torch_layers(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    if config.model.num_moe_experts is not None and config.model.transformer_impl != "torch":
        yield Violation(
            path="model.transformer_impl",
            value=config.model.transformer_impl,
            message="has no mixture of experts here",
            fix=f"use torch, or {_EXPERTS} null",
        )


@reads(_EXPERTS, _EP)
def _expert_parallel_divides_experts(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    num_experts, ep_size = config.model.num_moe_experts, config.parallel.expert_model_parallel_size
    if num_experts is not None and num_experts % ep_size:
        yield Violation(
            path=_EP,
            value=ep_size,
            message=f"does not divide {_EXPERTS}={num_experts}",
            fix=f"use {join_or(nearest_values(ep_size, divisors(num_experts)))}",
        )


@reads(_EXPERTS, _TP, _ETP, "model.ffn_hidden_size", "model.moe_ffn_hidden_size", _SHARED)
def _experts_are_cut_evenly(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model, parallel = config.model, config.parallel
    if model.num_moe_experts is None:
        return
    expert_tp_size = _expert_tp_size(config)
    path = _TP if parallel.expert_tensor_parallel_size is None else _ETP
    width = find_expert_width(model)
    # Where experts are as wide as the MLP and cut alike, layout.py has the rule.
    is_own_width = model.moe_ffn_hidden_size is not None or path == _ETP
    if is_own_width and width % expert_tp_size:
        name = "model.ffn_hidden_size" if model.moe_ffn_hidden_size is None else "model.moe_ffn_hidden_size"
        yield Violation(
            path=path,
            value=expert_tp_size,
            message=f"does not divide {name}={width}, the width of an expert",
            fix=f"use {_ETP} {join_or(divisors(math.gcd(width, expert_tp_size)))}, or {name}"
            f" {join_or(nearest_multiples(width, expert_tp_size))}",
        )
    shared = model.moe_shared_expert_intermediate_size
    if shared is not None and shared % parallel.tensor_model_parallel_size:
        yield Violation(
            path=_TP,
            value=parallel.tensor_model_parallel_size,
            message=f"does not divide {_SHARED}={shared}",
            fix=f"use {join_or(nearest_values(parallel.tensor_model_parallel_size, divisors(shared)))}",
        )


@reads(_EXPERTS, _TP, "parallel.sequence_parallel")
def _tensor_parallel_experts_need_split_sequences(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    """Source: Megatron-Core moe_layer.py: its dispatchers take tensor-parallel ranks for owners of other tokens."""
    parallel = config.parallel
    if config.model.num_moe_experts is None or parallel.tensor_model_parallel_size == 1:
        return
    if not parallel.sequence_parallel:
        yield Violation(
            path="parallel.sequence_parallel",
            value="false",
            message=f"lets all {_TP}={parallel.tensor_model_parallel_size} processes send the same tokens to the experts",
            fix=f"use true, or {_TP} 1",
        )


@reads(_EXPERTS, _TP, _PP, _CP, _DP, _EP, _ETP)
def _experts_fit_the_processes(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    parallel, dp_size = config.parallel, find_dp_size(config, world_size=world_size)
    if config.model.num_moe_experts is None or dp_size is None:
        return
    processes = parallel.tensor_model_parallel_size * parallel.context_parallel_size * dp_size
    expert_tp_size, ep_size = _expert_tp_size(config), parallel.expert_model_parallel_size
    if processes % (expert_tp_size * ep_size) == 0:
        return
    fitting = [size for size in divisors(config.model.num_moe_experts) if processes % (expert_tp_size * size) == 0]
    yield Violation(
        path=_EP,
        value=ep_size,
        message=f"* {format_number(expert_tp_size, 'process')} for each expert does not divide the"
        f" {format_number(processes, 'process')} of a pipeline stage ({_TP}={parallel.tensor_model_parallel_size} *"
        f" {_CP}={parallel.context_parallel_size} * data-parallel size {dp_size})",
        fix=f"use {join_or(nearest_values(ep_size, fitting))}" if fitting else f"use {_ETP} 1",
    )


@reads("engine.name", _EXPERTS, _EP, _TP, _ETP)
def _shared_experts_need_megatron(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    """ZeRO reduces all gradients over one group.

    Its way out, groups of experts that DeepSpeed itself creates beside the layout, knows neither Megatron-Core's order
    of ranks nor weights that only some of the data-parallel ranks hold.
    """
    parallel = config.parallel
    if config.engine.name != "deepspeed" or config.model.num_moe_experts is None:
        return
    rule = "makes fewer ranks share an expert's gradients than share the others, and engine=deepspeed sums all alike"
    if parallel.expert_model_parallel_size > 1:
        yield Violation(
            path=_EP, value=parallel.expert_model_parallel_size, message=rule, fix="use 1, or engine=megatron"
        )
    elif _expert_tp_size(config) != parallel.tensor_model_parallel_size:
        yield Violation(
            path=_ETP,
            value=_expert_tp_size(config),
            message=rule.replace("fewer", "other"),
            fix="use null, or engine=megatron",
        )


@reads(_EXPERTS, _FREQUENCY, "model.num_layers", "parallel.recompute_modules")
def _recomputed_modules_exist(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    layers, modules = find_moe_layers(config.model), config.parallel.recompute_modules
    for module, exists, other in (("mlp", not all(layers), "moe"), ("moe", any(layers), "mlp")):
        if module in modules and not exists:
            yield Violation(
                path="parallel.recompute_modules",
                value=to_yaml(modules),
                message=f"names {module}, and no layer has one: "
                + ("all have experts" if module == "mlp" else f"{_EXPERTS} is null"),
                fix=f"use {other} instead",
            )


RULES = (
    _dense_models_have_no_experts,
    _layer_pattern_fits,
    _tokens_find_enough_experts,
    _one_expert_needs_softmax_over_all,
    _experts_take_no_biases_when_cut,
    _experts_are_torch_layers,
    _expert_parallel_divides_experts,
    _experts_are_cut_evenly,
    _tensor_parallel_experts_need_split_sequences,
    _experts_fit_the_processes,
    _shared_experts_need_megatron,
    _recomputed_modules_exist,
)
