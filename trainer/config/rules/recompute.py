"""Check settings of activation recomputation and of deferred work."""

from collections.abc import Iterator

from trainer.config.pipeline_split import split_layers
from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trireme.config.suggest import divisors, join_or, nearest_values, to_yaml
from trireme.errors import Violation
from trireme.progress import format_number

_GRANULARITY = "parallel.recompute_granularity"
_METHOD = "parallel.recompute_method"
_NUM_LAYERS = "parallel.recompute_num_layers"
_MODULES = "parallel.recompute_modules"
_SPLIT = (
    "model.num_layers",
    "parallel.pipeline_model_parallel_size",
    "parallel.virtual_pipeline_model_parallel_size",
    "parallel.num_layers_in_first_pipeline_stage",
    "parallel.num_layers_in_last_pipeline_stage",
    "parallel.account_for_embedding_in_pipeline_split",
    "parallel.account_for_loss_in_pipeline_split",
    "parallel.pipeline_model_parallel_layout",
)


@reads(_GRANULARITY, _METHOD, _NUM_LAYERS, _MODULES)
def _recompute_settings_belong_together(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    parallel = config.parallel
    granularity = parallel.recompute_granularity
    used = {"full": (_METHOD, _NUM_LAYERS), "selective": (_MODULES,), None: ()}[granularity]
    examples = {_METHOD: "uniform or block", _NUM_LAYERS: "1", _MODULES: "[core_attn], [layernorm], [mlp] or several"}
    values = {
        _METHOD: parallel.recompute_method,
        _NUM_LAYERS: parallel.recompute_num_layers,
        _MODULES: parallel.recompute_modules,
    }
    others = {_METHOD: "full", _NUM_LAYERS: "full", _MODULES: "selective"}
    for path, value in values.items():
        empty: list[str] | None = [] if path == _MODULES else None
        if path in used and value == empty:
            yield Violation(
                path=path,
                value=to_yaml(value),
                message=f"must be set with {_GRANULARITY}={granularity}",
                fix=f"Use {examples[path]}, or set {_GRANULARITY} to null.",
            )
        if path not in used and value != empty:
            yield Violation(
                path=path,
                value=to_yaml(value),
                message=f"requires {_GRANULARITY}={others[path]}",
                fix=f"Use {to_yaml(empty)}, or {_GRANULARITY}={others[path]}.",
            )


@reads(_GRANULARITY, _METHOD, _NUM_LAYERS, *_SPLIT)
def _recomputed_layers_fit_the_chunks(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    """Megatron-Core's uniform method accesses missing layers where a chunk is not a multiple of the unit."""
    parallel, unit = config.parallel, config.parallel.recompute_num_layers
    stages = split_layers(config.model.num_layers, parallel)
    if parallel.recompute_granularity != "full" or unit is None or stages is None:
        return
    sizes = sorted({size for stage in stages for size in stage if size})
    if parallel.recompute_method == "uniform" and any(size % unit for size in sizes):
        common = [size for size in divisors(sizes[0]) if all(other % size == 0 for other in sizes)]
        rule = f"must divide the {join_or(sizes)} layers of a model chunk with {_METHOD}=uniform"
        fix = f"Use {join_or(nearest_values(unit, common))}, or {_METHOD}=block."
    elif parallel.recompute_method == "block" and unit > sizes[-1]:
        rule = f"must be at most the {format_number(sizes[-1], 'layer')} of the largest model chunk"
        fix = f"Use 1 to {sizes[-1]}."
    else:
        return
    yield Violation(path=_NUM_LAYERS, value=unit, message=rule, fix=fix)


@reads("parallel.defer_embedding_wgrad_compute")
def _embedding_gradient_is_not_deferred(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    """Source: Megatron-Core model_parallel_config.py and drain_embedding_wgrad_compute."""
    if config.parallel.defer_embedding_wgrad_compute:
        yield Violation(
            path="parallel.defer_embedding_wgrad_compute",
            value="true",
            message="requires Apex's fused weight-gradient kernel (gradient_accumulation_fusion), which the layers of"
            " neither engine use",
            fix="Use false; parallel.virtual_pipeline_model_parallel_size also shortens the pipeline flush.",
        )


RULES = (_recompute_settings_belong_together, _recomputed_layers_fit_the_chunks, _embedding_gradient_is_not_deferred)
