"""Rules between the engine, the number formats and the layer specification."""

from collections.abc import Iterator

from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trireme.config.suggest import join_or
from trireme.errors import Violation


@reads("precision.params_dtype", "engine.name", "engine.zero_stage")
def _zero_0_is_for_fp32(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    engine, dtype = config.engine, config.precision.params_dtype
    if engine.name == "deepspeed" and engine.zero_stage == 0 and dtype != "fp32":
        yield Violation(
            path="engine.zero_stage",
            value=0,
            message=f"keeps no fp32 master weights, and precision.params_dtype={dtype} needs them",
            fix="use engine.zero_stage=1, or engine=megatron engine.use_distributed_optimizer=false, or"
            " precision.params_dtype=fp32",
        )


@reads("precision.grad_accumulation_dtype", "engine.name")
def _gradients_in_params_dtype_need_megatron(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    if config.engine.name == "deepspeed" and config.precision.grad_accumulation_dtype == "params_dtype":
        yield Violation(
            path="precision.grad_accumulation_dtype",
            value="params_dtype",
            message="is not supported by engine=deepspeed, which adds gradients up in fp32 only",
            fix="use fp32, or engine=megatron",
        )


@reads("engine.name", "engine.overlap_param_gather", "engine.overlap_grad_reduce", "engine.use_distributed_optimizer")
def _overlapped_gather_has_something_to_gather(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    engine = config.engine
    if engine.name != "megatron" or not engine.overlap_param_gather:
        return
    if not engine.use_distributed_optimizer:
        yield Violation(
            path="engine.overlap_param_gather",
            value="true",
            message="gathers weights, and with engine.use_distributed_optimizer=false every rank updates all of its own",
            fix="use false, or engine.use_distributed_optimizer=true",
        )
    if not engine.overlap_grad_reduce:
        yield Violation(
            path="engine.overlap_param_gather",
            value="true",
            message="gathers the buckets that engine.overlap_grad_reduce reduces, and without it there is one bucket",
            fix="use false, or engine.overlap_grad_reduce=true",
        )


@reads("precision.params_dtype", "precision.initial_loss_scale", "precision.min_loss_scale")
def _loss_scales_are_powers_of_two(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    precision = config.precision
    if precision.params_dtype != "fp16":
        return
    for name, value in (
        ("precision.initial_loss_scale", precision.initial_loss_scale),
        ("precision.min_loss_scale", precision.min_loss_scale),
    ):
        below = 1 << value.bit_length() - 1
        if value != below:
            yield Violation(
                path=name,
                value=value,
                message="is no power of two, and only those scale a loss and its gradients without rounding",
                fix=f"use {join_or([below, 2 * below])}",
            )
    if precision.min_loss_scale > precision.initial_loss_scale:
        yield Violation(
            path="precision.min_loss_scale",
            value=precision.min_loss_scale,
            message=f"is more than precision.initial_loss_scale={precision.initial_loss_scale}",
            fix=f"use {precision.initial_loss_scale} or less, or precision.initial_loss_scale"
            f" {precision.min_loss_scale} or more",
        )


@reads("precision.fp8", "precision.params_dtype", "model.transformer_impl")
def _fp8_needs_transformer_engine(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    fp8, implementation = config.precision.fp8, config.model.transformer_impl
    if fp8 is None:
        return
    if implementation != "transformer_engine":
        yield Violation(
            path="precision.fp8",
            value=fp8,
            message=f"needs the kernels of Transformer Engine, and model.transformer_impl={implementation} has none",
            fix="use null, or model.transformer_impl=transformer_engine",
        )
    if config.precision.params_dtype == "fp32":
        yield Violation(
            path="precision.fp8",
            value=fp8,
            message="multiplies what is kept in 16 bits otherwise, and precision.params_dtype=fp32",
            fix="use null, or precision.params_dtype=bf16",
        )


RULES = (
    _zero_0_is_for_fp32,
    _gradients_in_params_dtype_need_megatron,
    _overlapped_gather_has_something_to_gather,
    _loss_scales_are_powers_of_two,
    _fp8_needs_transformer_engine,
)
