"""Convert a configuration to the planner's input and training job."""

import dataclasses
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from launch.plan.hardware import Device, load_devices, load_frameworks
from launch.plan.job import Layout, Machine, ModelShape, Number, TrainingJob, shape_of
from trainer.config.derived import count_processes, find_dp_size, pad_vocab_size
from trainer.config.engine import DeepSpeedEngineConfig, MegatronEngineConfig
from trainer.config.model import ModelConfig
from trainer.config.model_math import attention_matrix_parameters, mean_keys_share
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.config.pipeline_split import split_layers
from trainer.config.schema import TrainConfig
from trireme.config.fields import overlaps
from trireme.config.suggest import did_you_mean, join_or
from trireme.errors import Violation

DATA_PATHS = ("data", "tokenizer", "output_dir", "resume", "run_name")
"""Paths that a plan does not need; the rules that read them are skipped."""
_HOST_DOMAIN = 8
"""Devices per host when the cluster does not set them."""


@dataclass(frozen=True, kw_only=True)
class PlannerInput:
    """Hold the input of a plan, apart from the layout."""

    model: ModelConfig
    shape: ModelShape
    vocab_size: int
    """Without padding."""
    device: Device
    number_format: str
    machine: Machine
    world_size: int
    global_batch_size: int
    precision: PrecisionConfig


def check_planner_input(config: TrainConfig, *, ignore: Collection[str] = frozenset()) -> Iterator[Violation]:
    """Report what prevents a plan, in addition to violations of the trainer's rules.

    Args:
        ignore: paths whose values are known to be invalid; what depends on them is not reported.
    """
    devices = load_devices()
    name = config.cluster.device or "cpu"
    if overlaps("cluster.device", ignore):
        pass
    elif name not in devices:
        fix = f"{did_you_mean(name, devices)}Use {join_or(devices)}."
        yield Violation(path="cluster.device", value=name, message="the planner does not know this device", fix=fix)
    elif not overlaps("precision", ignore) and _number_format(config.precision) not in devices[name].tflops:
        path = "precision.fp8" if config.precision.fp8 else "precision.params_dtype"
        value = config.precision.fp8 or config.precision.params_dtype
        formats = [each for each in devices[name].tflops if each in ("fp32", "bf16", "fp16")]
        rule = f"not supported by cluster.device={name}"
        yield Violation(path=path, value=value, message=rule, fix=f"Use {join_or(formats)}.")
    if config.model.vocab_size is None and not overlaps("model.vocab_size", ignore):
        yield Violation(
            path="model.vocab_size",
            value="null",
            message="must be set for a plan, which does not read the tokenizer",
            fix="Set model.vocab_size=N.",
        )


def planner_input_of(config: TrainConfig) -> PlannerInput:
    """Return the input of a plan for a configuration that has passed `check_planner_input`."""
    model, vocab_size = config.model, config.model.vocab_size
    assert vocab_size is not None
    device = load_devices()[config.cluster.device or "cpu"]
    number_format = _number_format(config.precision)
    return PlannerInput(
        model=model,
        shape=shape_of(
            model,
            vocab_size=pad_vocab_size(model, vocab_size),
            lora=config.lora,
            # A teacher's probabilities are compared over all tokens.
            target_share=1.0 if config.distill.is_on else config.data.mask_prob or 1.0,
        ),
        vocab_size=vocab_size,
        device=device,
        number_format=number_format,
        machine=_machine(config, device, number_format),
        world_size=count_processes(config),
        global_batch_size=config.training.global_batch_size,
        precision=config.precision,
    )


def _number_format(precision: PrecisionConfig) -> str:
    return "fp8" if precision.fp8 else precision.params_dtype


def _machine(config: TrainConfig, device: Device, number_format: str) -> Machine:
    cluster, machine = config.cluster, device.machine(number_format=number_format)
    per_host = cluster.gpus_per_node or _HOST_DOMAIN
    return dataclasses.replace(
        machine,
        memory_bytes=machine.memory_bytes if cluster.device_memory_gib is None else cluster.device_memory_gib * 2**30,
        link_rate=_rate(cluster.intra_node_gb_per_second, machine.link_rate),
        network_rate=_rate(cluster.inter_node_gb_per_second, machine.network_rate),
        link_domain=device.link_domain if device.spans_hosts else min(per_host, device.link_domain),
    )


def _rate(configured: float | None, usual: Number) -> Number:
    return usual if configured is None else configured * 1e9


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """Identify an engine and its sharding."""

    name: str
    zero_stage: int
    """For engine=megatron: 1 with the distributed optimizer, 0 without."""

    @property
    def name_and_sharding(self) -> str:
        """Return it in words, as the tables do: `deepspeed zero1`, `megatron dist-opt`."""
        if self.name == "deepspeed":
            return f"deepspeed zero{self.zero_stage}"
        return "megatron dist-opt" if self.zero_stage else "megatron"

    @property
    def framework(self) -> str:
        """Return the name of its entry in frameworks.yaml."""
        return f"trireme-{self.name}"

    @property
    def overrides(self) -> tuple[str, ...]:
        """Return the overrides that select it."""
        if self.name == "deepspeed":
            return ("engine=deepspeed", f"engine.zero_stage={self.zero_stage}")
        return ("engine=megatron", f"engine.use_distributed_optimizer={'true' if self.zero_stage else 'false'}")


def engine_choice(engine: DeepSpeedEngineConfig | MegatronEngineConfig) -> EngineChoice:
    """Return the configured engine and sharding."""
    if isinstance(engine, DeepSpeedEngineConfig):
        return EngineChoice(name="deepspeed", zero_stage=engine.zero_stage)
    return EngineChoice(name="megatron", zero_stage=int(engine.use_distributed_optimizer))


@dataclass(frozen=True, kw_only=True)
class StateBytes:
    """Hold bytes per parameter, before sharding."""

    weights: int
    gradients: int
    optimizer: int


def state_bytes(choice: EngineChoice, precision: PrecisionConfig) -> StateBytes:
    """Return what an engine stores per parameter, before sharding.

    Both engines store fp32 moments, and an fp32 copy of 16-bit weights; DeepSpeed's sharding stages also copy fp32
    weights. Gradients are accumulated in fp32 unless configured otherwise.
    """
    is_fp32 = precision.params_dtype == "fp32"
    own_format = precision.grad_accumulation_dtype == "params_dtype"
    has_copy = not is_fp32 or (choice.name == "deepspeed" and choice.zero_stage > 0)
    return StateBytes(
        weights=4 if is_fp32 else 2,
        gradients=2 if own_format and not is_fp32 else 4,
        optimizer=12 if has_copy else 8,
    )


def low_precision_copies(precision: PrecisionConfig) -> float:
    """Return the bytes per parameter of Transformer Engine's fp8 copies of the weights, in both memory orders."""
    return 2 if precision.fp8 else 0


def recomputed_share(model: ModelConfig, parallel: ParallelConfig) -> float:
    """Return the share of the time of the layers' forward passes that is recomputed, without the core of attention."""
    # Multiplications per token: the causal half of the scores, and of their weighted sum.
    core = model.seq_length * model.num_attention_heads * model.head_size * mean_keys_share(model)
    return _share_without_attention(model, parallel, attention=attention_matrix_parameters(model) + core)


def dropped_share(model: ModelConfig, parallel: ParallelConfig) -> float:
    """Return the share of the layers' activations that is recomputed instead of kept, without the core of attention."""
    return _share_without_attention(model, parallel, attention=attention_matrix_parameters(model))


def _share_without_attention(model: ModelConfig, parallel: ParallelConfig, *, attention: float) -> float:
    """Return the share of recomputed modules in a layer.

    Args:
        attention: its weight next to that of an MLP, which is its number of parameters.
    """
    if parallel.recompute_granularity is None:
        return 0.0
    if parallel.recompute_granularity == "full":
        stages = split_layers(model.num_layers, parallel)
        if parallel.recompute_method != "block" or stages is None:
            return 1.0
        return min((parallel.recompute_num_layers or 0) / max(max(stage) for stage in stages), 1.0)
    mlp = (3 if model.is_gated else 2) * model.hidden_size * model.ffn_hidden_size
    share = mlp / (mlp + attention) if {"mlp", "moe"} & set(parallel.recompute_modules) else 0.0
    return share + (0.05 if "layernorm" in parallel.recompute_modules else 0.0)


def layout_of(config: TrainConfig) -> Layout:
    """Return the configured layout; the configuration must be valid."""
    parallel, training = config.parallel, config.training
    dp_size = find_dp_size(config, world_size=count_processes(config))
    assert dp_size is not None
    choice = engine_choice(config.engine)
    sizes = state_bytes(choice, config.precision)
    tp_size = parallel.tensor_model_parallel_size
    is_offloaded = isinstance(config.engine, DeepSpeedEngineConfig) and config.engine.offload_optimizer != "none"
    return Layout(
        tp=tp_size,
        pp=parallel.pipeline_model_parallel_size,
        vp=parallel.virtual_pipeline_model_parallel_size or 1,
        cp=parallel.context_parallel_size,
        ep=parallel.expert_model_parallel_size,
        etp=parallel.expert_tensor_parallel_size or tp_size,
        dp=dp_size,
        micro_batch_size=training.micro_batch_size,
        num_microbatches=training.global_batch_size // (training.micro_batch_size * dp_size),
        sequence_parallel=int(parallel.sequence_parallel),
        recomputed_share=recomputed_share(config.model, parallel),
        dropped_share=dropped_share(config.model, parallel),
        recomputes_core=int("core_attn" in parallel.recompute_modules),
        zero_stage=choice.zero_stage,
        optimizer_shards=dp_size * parallel.context_parallel_size if choice.zero_stage else 1,
        weight_bytes=sizes.weights,
        gradient_bytes=sizes.gradients,
        optimizer_bytes=sizes.optimizer,
        extra_unsharded_bytes=low_precision_copies(config.precision),
        offload=int(is_offloaded),
    )


def job_of(config: TrainConfig, setting: PlannerInput) -> TrainingJob:
    """Return the configured training job."""
    return TrainingJob(
        model=setting.shape,
        layout=layout_of(config),
        machine=setting.machine,
        framework=load_frameworks()[engine_choice(config.engine).framework],
    )
