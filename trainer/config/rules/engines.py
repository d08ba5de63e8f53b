"""Check settings of the engine against number formats and layer specification."""

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
            message=f"must be at least 1 with precision.params_dtype={dtype}: stage 0 keeps no fp32 master weights",
            fix="Use 1, or engine=megatron engine.use_distributed_optimizer=false, or precision.params_dtype=fp32.",
        )


@reads("precision.grad_accumulation_dtype", "engine.name")
def _gradients_in_params_dtype_need_megatron(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    if config.engine.name == "deepspeed" and config.precision.grad_accumulation_dtype == "params_dtype":
        yield Violation(
            path="precision.grad_accumulation_dtype",
            value="params_dtype",
            message="must be fp32 with engine=deepspeed, which accumulates gradients in fp32 only",
            fix="Use fp32, or engine=megatron.",
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
            message="requires engine.use_distributed_optimizer=true: without it there are no sharded weights to gather",
            fix="Use false, or engine.use_distributed_optimizer=true.",
        )
    if not engine.overlap_grad_reduce:
        yield Violation(
            path="engine.overlap_param_gather",
            value="true",
            message="requires engine.overlap_grad_reduce=true: weights are gathered in its buckets",
            fix="Use false, or engine.overlap_grad_reduce=true.",
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
                message="must be a power of two, so that scaling does not round",
                fix=f"Use {join_or([below, 2 * below])}.",
            )
    if precision.min_loss_scale > precision.initial_loss_scale:
        yield Violation(
            path="precision.min_loss_scale",
            value=precision.min_loss_scale,
            message=f"must be at most precision.initial_loss_scale={precision.initial_loss_scale}",
            fix=f"Use {precision.initial_loss_scale} or less, or set precision.initial_loss_scale to"
            f" {precision.min_loss_scale} or more.",
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
            message="requires model.transformer_impl=transformer_engine",
            fix="Use null, or model.transformer_impl=transformer_engine.",
        )
    if config.precision.params_dtype == "fp32":
        yield Violation(
            path="precision.fp8",
            value=fp8,
            message="requires precision.params_dtype=bf16 or fp16",
            fix="Use null, or precision.params_dtype=bf16.",
        )


RULES = (
    _zero_0_is_for_fp32,
    _gradients_in_params_dtype_need_megatron,
    _overlapped_gather_has_something_to_gather,
    _loss_scales_are_powers_of_two,
    _fp8_needs_transformer_engine,
)
