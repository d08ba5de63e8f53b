"""Check settings of a mixture of experts, its layout and the engine."""

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
_GROUPS = "model.moe_router_num_groups"
_GROUP_TOP_K = "model.moe_router_group_topk"
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
                message=f"must be {to_yaml(dense)} with {_EXPERTS}=null, a dense model",
                fix=f"Use {to_yaml(dense)}, or set {_EXPERTS}.",
            )


@reads(_EXPERTS, _FREQUENCY, "model.num_layers")
def _layer_pattern_fits(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    pattern, num_layers = config.model.moe_layer_freq, config.model.num_layers
    if set(pattern) - {0, 1} or not pattern:
        problem = "must be a list of 1 for a layer with experts and 0 for a dense layer"
    elif not any(pattern):
        problem = "must give experts to at least one layer"
    elif config.model.num_moe_experts is not None and num_layers % len(pattern):
        problem = f"must have a length that divides model.num_layers={num_layers}"
    else:
        return
    yield Violation(
        path=_FREQUENCY,
        value=to_yaml(pattern),
        message=problem,
        fix="Use [1] for experts in all layers"
        + (", [1, 0] for every second layer" if num_layers % 2 == 0 else "")
        + f", or one entry for each of the {num_layers} layers.",
    )


@reads(_EXPERTS, _TOP_K)
def _tokens_find_enough_experts(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if model.num_moe_experts is not None and model.moe_router_topk > model.num_moe_experts:
        yield Violation(
            path=_TOP_K,
            value=model.moe_router_topk,
            message=f"must be at most {_EXPERTS}={model.num_moe_experts}",
            fix=f"Use 1 to {model.num_moe_experts}.",
        )


@reads(_SHARED, "model.moe_shared_expert_gate")
def _gates_have_a_shared_expert(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    if model.moe_shared_expert_gate and model.moe_shared_expert_intermediate_size is None:
        yield Violation(
            path="model.moe_shared_expert_gate",
            value="true",
            message=f"requires {_SHARED}: there is no shared expert to gate",
            fix=f"Use false, or set {_SHARED}.",
        )


@reads(_EXPERTS, "model.moe_router_enable_expert_bias", "model.moe_router_score_function")
def _biases_follow_sigmoid_scores(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    """Source: Megatron-Core transformer_config.py."""
    model = config.model
    if model.num_moe_experts is None or not model.moe_router_enable_expert_bias:
        return
    if model.moe_router_score_function != "sigmoid":
        yield Violation(
            path="model.moe_router_enable_expert_bias",
            value="true",
            message="requires model.moe_router_score_function=sigmoid",
            fix="Use false, or model.moe_router_score_function=sigmoid.",
        )


@reads(_EXPERTS, _TOP_K, _GROUPS, _GROUP_TOP_K)
def _groups_of_experts_fit(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model = config.model
    groups, chosen, experts = model.moe_router_num_groups, model.moe_router_group_topk, model.num_moe_experts
    if experts is None or (groups is None and chosen is None):
        return
    if groups is None or chosen is None:
        path, other = (_GROUPS, _GROUP_TOP_K) if groups is None else (_GROUP_TOP_K, _GROUPS)
        yield Violation(
            path=path, value="null", message=f"must be set with {other}", fix=f"Set it, or set {other} to null."
        )
        return
    if experts % groups:
        yield Violation(
            path=_GROUPS,
            value=groups,
            message=f"must divide {_EXPERTS}={experts}",
            fix=f"Use {join_or(nearest_values(groups, divisors(experts)))}.",
        )
    if chosen > groups:
        yield Violation(
            path=_GROUP_TOP_K,
            value=chosen,
            message=f"must be at most {_GROUPS}={groups}",
            fix=f"Use 1 to {groups}.",
        )
    elif model.moe_router_topk % chosen:
        yield Violation(
            path=_GROUP_TOP_K,
            value=chosen,
            message=f"must divide {_TOP_K}={model.moe_router_topk}",
            fix=f"Use {join_or(nearest_values(chosen, divisors(model.moe_router_topk)))}.",
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
            message=f"must be true with {_TOP_K}=1: the softmax over a single expert is always 1, and the router would"
            " not learn",
            fix=f"Use true, or set {_TOP_K} to 2 or more, or use model.moe_router_score_function=sigmoid.",
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
            message=f"must be false with {_SHARED}={model.moe_shared_expert_intermediate_size}: shared experts support"
            " no biases",
            fix=f"Use false, or set {_SHARED} to null.",
        )
    if _expert_tp_size(config) > 1:
        yield Violation(
            path="model.add_bias_linear",
            value="true",
            message=f"must be false with experts that are sharded over {_expert_tp_size(config)} ranks: each of them"
            " would add the bias",
            fix=f"Use false, or set {_ETP} to 1.",
        )


@reads(_EXPERTS, "model.transformer_impl")
def _experts_are_torch_layers(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    if config.model.num_moe_experts is not None and config.model.transformer_impl != "torch":
        yield Violation(
            path="model.transformer_impl",
            value=config.model.transformer_impl,
            message="must be torch for a mixture of experts",
            fix=f"Use torch, or set {_EXPERTS} to null.",
        )


@reads(_EXPERTS, _EP)
def _expert_parallel_divides_experts(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    num_experts, ep_size = config.model.num_moe_experts, config.parallel.expert_model_parallel_size
    if num_experts is not None and num_experts % ep_size:
        yield Violation(
            path=_EP,
            value=ep_size,
            message=f"must divide {_EXPERTS}={num_experts}",
            fix=f"Use {join_or(nearest_values(ep_size, divisors(num_experts)))}.",
        )


@reads(_EXPERTS, _TP, _ETP, "model.ffn_hidden_size", "model.moe_ffn_hidden_size", _SHARED)
def _experts_are_cut_evenly(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    model, parallel = config.model, config.parallel
    if model.num_moe_experts is None:
        return
    expert_tp_size = _expert_tp_size(config)
    path = _TP if parallel.expert_tensor_parallel_size is None else _ETP
    width = find_expert_width(model)
    # Where experts are as wide as the MLP and sharded alike, a rule of layout.py applies.
    is_own_width = model.moe_ffn_hidden_size is not None or path == _ETP
    if is_own_width and width % expert_tp_size:
        name = "model.ffn_hidden_size" if model.moe_ffn_hidden_size is None else "model.moe_ffn_hidden_size"
        yield Violation(
            path=path,
            value=expert_tp_size,
            message=f"must divide {name}={width}, the width of an expert",
            fix=f"Set {_ETP} to {join_or(divisors(math.gcd(width, expert_tp_size)))}, or {name} to"
            f" {join_or(nearest_multiples(width, expert_tp_size))}.",
        )
    shared = model.moe_shared_expert_intermediate_size
    if shared is not None and shared % parallel.tensor_model_parallel_size:
        yield Violation(
            path=_TP,
            value=parallel.tensor_model_parallel_size,
            message=f"must divide {_SHARED}={shared}",
            fix=f"Use {join_or(nearest_values(parallel.tensor_model_parallel_size, divisors(shared)))}.",
        )


@reads(_EXPERTS, _TP, "parallel.sequence_parallel")
def _tensor_parallel_experts_need_split_sequences(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    """Source: Megatron-Core moe_layer.py: its dispatchers assume that tensor-parallel ranks hold different tokens."""
    parallel = config.parallel
    if config.model.num_moe_experts is None or parallel.tensor_model_parallel_size == 1:
        return
    if not parallel.sequence_parallel:
        yield Violation(
            path="parallel.sequence_parallel",
            value="false",
            message=f"must be true with experts and {_TP}={parallel.tensor_model_parallel_size}: otherwise all"
            " tensor-parallel ranks send the same tokens to the experts",
            fix=f"Use true, or set {_TP} to 1.",
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
        message=f"its product with the expert tensor-parallel size {expert_tp_size} must divide the"
        f" {format_number(processes, 'process')} of a pipeline stage, {_TP}={parallel.tensor_model_parallel_size} *"
        f" {_CP}={parallel.context_parallel_size} * data-parallel size {dp_size}",
        fix=f"Use {join_or(nearest_values(ep_size, fitting))}." if fitting else f"Set {_ETP} to 1.",
    )


@reads("engine.name", _EXPERTS, _EP, _TP, _ETP)
def _shared_experts_need_megatron(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    """ZeRO reduces all gradients over one group.

    DeepSpeed's own expert groups support neither Megatron-Core's order of ranks nor weights that only some of the
    data-parallel ranks hold.
    """
    parallel = config.parallel
    if config.engine.name != "deepspeed" or config.model.num_moe_experts is None:
        return
    rule = "with engine=deepspeed, which reduces the gradients of experts and of other weights over the same ranks"
    if parallel.expert_model_parallel_size > 1:
        yield Violation(
            path=_EP,
            value=parallel.expert_model_parallel_size,
            message=f"must be 1 {rule}",
            fix="Use 1, or engine=megatron.",
        )
    elif _expert_tp_size(config) != parallel.tensor_model_parallel_size:
        yield Violation(
            path=_ETP,
            value=_expert_tp_size(config),
            message=f"must equal {_TP}={parallel.tensor_model_parallel_size} {rule}",
            fix="Use null, or engine=megatron.",
        )


@reads(_EXPERTS, _FREQUENCY, "model.num_layers", "parallel.recompute_modules")
def _recomputed_modules_exist(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    layers, modules = find_moe_layers(config.model), config.parallel.recompute_modules
    for module, exists, other in (("mlp", not all(layers), "moe"), ("moe", any(layers), "mlp")):
        if module in modules and not exists:
            yield Violation(
                path="parallel.recompute_modules",
                value=to_yaml(modules),
                message=f"must not contain {module}: "
                + ("all layers have experts" if module == "mlp" else f"no layer has experts with {_EXPERTS}=null"),
                fix=f"Use {other} instead.",
            )


RULES = (
    _dense_models_have_no_experts,
    _layer_pattern_fits,
    _tokens_find_enough_experts,
    _gates_have_a_shared_expert,
    _biases_follow_sigmoid_scores,
    _groups_of_experts_fit,
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
