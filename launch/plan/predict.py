"""Predict memory, step time, throughput and cost of one configured run."""

from dataclasses import dataclass

import numpy as np

from launch.plan.coefficients import Coefficients
from launch.plan.from_config import PlannerInput, engine_choice, job_of, planner_input_of
from launch.plan.job import TrainingJob, stack
from launch.plan.memory import Memory, Stage, predict_memory
from launch.plan.step_time import StepTime, head_time, layer_exchange, layer_time, predict_step_time
from launch.plan.timeline import MAX_MICROBATCHES, Work, play_schedule
from trainer.config.derived import pad_vocab_size
from trainer.config.lora_math import count_trained_parameters, target_flops_per_token, trained_flops_per_token
from trainer.config.pipeline_split import split_layers
from trainer.config.schema import TrainConfig

CHECKPOINT_BYTES_PER_PARAMETER = 12.005
"""fp32 weights and both moments, with their index (docs/training/checkpoints.md)."""
SECONDS_PER_DAY = 86400


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Hold the predictions for one configured run."""

    stages: tuple[Memory, ...]
    """Memory of a device of each pipeline stage, in bytes."""
    device_memory_bytes: float
    step_time: StepTime
    tokens_per_step: int
    tokens_per_second: float
    model_flops_per_second: float
    """Per device."""
    mfu: float
    """Model FLOP/s as a share of the device's peak in the format of matrix products."""
    checkpoint_bytes: float
    num_tokens: float
    """Training tokens, for days and cost."""
    days: float
    cost: float | None
    """In US dollars; None without a price."""
    price_per_hour: float | None
    """cluster.device_price_per_hour, with which the cost is computed: US dollars per device."""

    @property
    def peak_bytes(self) -> float:
        """Return the memory of the fullest device."""
        return max(float(stage.total) for stage in self.stages)

    @property
    def fullest_stage(self) -> int:
        """Return the pipeline stage of that device."""
        return int(np.argmax([float(stage.total) for stage in self.stages]))


def predict(config: TrainConfig, coefficients: Coefficients, *, num_tokens: float | None = None) -> Prediction:
    """Predict a configured run.

    Args:
        config: one that satisfies the trainer's rules and `from_config.check_planner_input`.
        num_tokens: training tokens; None uses those of training.train_iters.
    """
    setting = planner_input_of(config)
    job, framework = job_of(config, setting), engine_choice(config.engine).framework
    rates = coefficients.rates(device=setting.device.name, number_format=setting.number_format, framework=framework)
    step_time = predict_step_time(job, rates)
    step_time = StepTime(**{name: float(value) for name, value in vars(step_time).items()})
    stages = predict_stages(config, job, coefficients, device=setting.device.name, framework=framework)
    tokens_per_step = config.training.global_batch_size * config.model.seq_length
    tokens_per_second = tokens_per_step / float(step_time.total)
    flops_per_token = trained_flops_per_token(config.model, config.lora, setting.vocab_size) - (
        1 - float(job.model.target_share)
    ) * target_flops_per_token(config.model, config.lora, setting.vocab_size)
    flops = flops_per_token * tokens_per_second / setting.world_size
    wanted = num_tokens or float(tokens_per_step * config.training.train_iters)
    seconds = wanted / tokens_per_second
    price = config.cluster.device_price_per_hour
    return Prediction(
        stages=stages,
        device_memory_bytes=float(setting.machine.memory_bytes),
        step_time=step_time,
        tokens_per_step=tokens_per_step,
        tokens_per_second=tokens_per_second,
        model_flops_per_second=flops,
        mfu=flops / float(setting.machine.flops),
        checkpoint_bytes=checkpoint_bytes(config, setting),
        num_tokens=wanted,
        days=seconds / SECONDS_PER_DAY,
        cost=None if price is None else price * setting.world_size * seconds / 3600,
        price_per_hour=price,
    )


def checkpoint_bytes(config: TrainConfig, setting: PlannerInput) -> float:
    """Return the size of one checkpoint on disk."""
    padded_vocab_size = pad_vocab_size(config.model, setting.vocab_size)
    num_parameters = count_trained_parameters(config.model, config.lora, padded_vocab_size)
    return num_parameters * CHECKPOINT_BYTES_PER_PARAMETER


def predict_stages(
    config: TrainConfig, job: TrainingJob, coefficients: Coefficients, *, device: str, framework: str
) -> tuple[Memory, ...]:
    """Predict the memory of a device of each pipeline stage, with the layers that the configuration assigns to it."""
    layers = split_layers(config.model.num_layers, config.parallel)
    assert layers is not None
    last = len(layers) - 1
    stages = stack(
        [
            Stage(index=index, num_layers=sum(chunks), has_embedding=index == 0, has_output=index == last)
            for index, chunks in enumerate(layers)
        ]
    )
    memory = predict_memory(job, coefficients.memory_rates(device=device, framework=framework), stages)
    values = {name: np.broadcast_to(value, len(layers)) for name, value in vars(memory).items()}
    return tuple(
        Memory(**{name: float(column[index]) for name, column in values.items()}) for index in range(len(layers))
    )


def predict_timeline(config: TrainConfig, coefficients: Coefficients) -> list[Work]:
    """Simulate the passes of every pipeline stage in a step, at most for the first MAX_MICROBATCHES micro batches."""
    setting = planner_input_of(config)
    job, framework = job_of(config, setting), engine_choice(config.engine).framework
    rates = coefficients.rates(device=setting.device.name, number_format=setting.number_format, framework=framework)
    layer, exchange = layer_time(job, rates), layer_exchange(job, rates, layer=layer_time(job, rates))
    sent = exchange.tensor + exchange.context + exchange.expert
    forward = float(layer.forward * rates.framework + sent / 3)
    backward = float((layer.backward + job.layout.recomputed_share * layer.forward) * rates.framework + sent * 2 / 3)
    layers = split_layers(config.model.num_layers, config.parallel)
    assert layers is not None
    counts = [sum(chunks) for chunks in layers]
    head = float(head_time(job, rates) * rates.framework)
    num_stages = len(counts)
    num_chunks = config.parallel.virtual_pipeline_model_parallel_size or 1
    shown = min(int(job.layout.num_microbatches), max(MAX_MICROBATCHES, 2 * num_stages))
    shown -= shown % num_stages if num_chunks > 1 else 0
    return play_schedule(
        [*(count * forward for count in counts[:-1]), counts[-1] * forward + head / 3],
        [*(count * backward for count in counts[:-1]), counts[-1] * backward + head * 2 / 3],
        num_chunks=num_chunks,
        num_microbatches=shown,
    )
