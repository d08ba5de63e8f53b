"""Build a run from its configuration: the one place where processes, model, data, engine and metrics meet."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import distributed

from trainer.build_data import build_training_loader, build_validation, resets_positions
from trainer.checkpoint.collective import Ranks
from trainer.checkpoint.load import load_frozen, load_weights
from trainer.checkpoint.manager import CheckpointManager
from trainer.checkpoint.tokenizer import copy_tokenizer
from trainer.checkpoint.trainer_state import BaseRecord, Layout, TrainProgress, layout_of
from trainer.config.derived import DerivedConfig
from trainer.config.engine import EngineConfig, MegatronEngineConfig
from trainer.config.examples import find_record
from trainer.config.finetune import FinetuneConfig
from trainer.config.lora import LoraConfig
from trainer.config.model import ModelConfig
from trainer.config.model_math import count_parameters
from trainer.config.optim import OptimizerConfig, PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.config.schema import TrainConfig
from trainer.data.loader import BatchLoader
from trainer.data.validation import ValidationLoader
from trainer.engine.base import Engine
from trainer.engine.deepspeed.engine import DeepSpeedEngine
from trainer.engine.distillation import DistillationObjective, FrozenTeacher
from trainer.engine.forward import PREDICT_NEXT, evaluate_step
from trainer.engine.megatron.engine import MegatronEngine
from trainer.engine.objective import Objective, PreferenceObjective, ScoreObjective, SpanObjective
from trainer.health.monitor import Health, build_health
from trainer.health.watchdog import Watchdog
from trainer.loop.question_scoring import open_questions
from trainer.loop.recovery import Recovery
from trainer.loop.scoring import Scorer, build_scorer
from trainer.loop.suite_evaluation import SuiteEvaluation, SuiteLayout, read_tasks
from trainer.loop.teacher_comparison import RESULT_NAME as COMPARISON_NAME
from trainer.loop.teacher_comparison import TeacherComparison
from trainer.loop.train_loop import LoopConfig, TrainLoop
from trainer.metrics import events
from trainer.metrics.mfu import device_peak_tflops
from trainer.metrics.recorder import MetricsRecorder, build_recorder
from trainer.metrics.throughput import ThroughputMeter
from trainer.model.finite import find_not_finite, join_first
from trainer.model.gpt import build_model_chunks, build_transformer_config, count_layers
from trainer.model.kernels import choose_kernels
from trainer.model.megatron_patches import install_megatron_patches
from trainer.parallel.world import World
from trainer.reference import (
    REFERENCE_NAME,
    Reference,
    find_reference,
    find_reference_key,
    locate_reference,
    write_reference,
)
from trainer.resume import (
    find_frozen_weights,
    has_work,
    recall_past,
    record_start,
    restore_run,
    start_from_pretrained,
)
from trainer.suite.items import shipped_tasks
from trainer.teacher import TEACHER, choose_teacher, teacher_model
from trireme.errors import ConfigError, Violation
from trireme.shards.examples import RECORD_NAME, write_record
from trireme.tokenizer.model_files import CHAT_TEMPLATE_NAME
from trireme.tokenizer.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Hold a built run: its training loop, and what to release afterwards."""

    loop: TrainLoop
    engine: Engine
    loader: BatchLoader
    validation: ValidationLoader | None
    recorder: MetricsRecorder
    checkpoints: CheckpointManager
    health: Health

    def close(self) -> None:
        """Release everything, in reverse order of building."""
        self.checkpoints.finish()
        self.health.close()
        self.recorder.close()
        if self.validation is not None:
            self.validation.close()
        self.loader.close()
        self.engine.close()


def build_run(
    config: TrainConfig, *, derived: DerivedConfig, world: World, watchdog: Watchdog, tokenizer: Tokenizer | None = None
) -> Run:
    """Build a run and restore its checkpoint; all ranks call this.

    Args:
        tokenizer: copied into each checkpoint.
    Raises:
        ConfigError: on every rank, if the checkpoint or the data cannot be used.
    """
    chunks: list[GPTModel] = []
    base = find_frozen_weights(config, run_directory=derived.run_directory)
    frozen = Path(base.checkpoint) if base is not None else None
    objective = build_objective(config, derived=derived, world=world)
    engine = build_engine(
        config, derived=derived, world=world, watch=chunks.extend, frozen_weights=frozen, objective=objective
    )
    layout = _layout(config, world)
    reference = _find_reference(config, derived=derived)
    reference_key = _ensure_reference(
        reference, config=config, derived=derived, world=world, engine=engine, chunks=chunks
    )
    state, origin = restore_run(config, derived=derived, engine=engine, layout=layout, base=base)
    progress = state.progress if state is not None else TrainProgress()
    is_active = has_work(config, progress)
    is_writer = world.is_main_rank and is_active
    past = recall_past(config, derived=derived, state=state, is_written=is_active)
    loader = build_training_loader(
        config,
        derived=derived,
        world=world,
        state=state,
        skipped_samples=past.skipped_samples,
        tokenizer=tokenizer,
        reference_key=reference_key,
    )
    recorder = build_recorder(
        config.logging,
        run_directory=derived.run_directory,
        run_name=config.run_name,
        run_config=dataclasses.asdict(config),
        total_steps=config.training.train_iters,
        resumed_step=progress.step,
        is_validation_due=progress.is_validation_due,
        is_evaluation_due=progress.is_evaluation_due,
        is_main_rank=is_writer,
    )
    validation = build_validation(
        config, derived=derived, world=world, tokenizer=tokenizer, reference_key=reference_key
    )
    event_log = events.EventLog(derived.run_directory / events.FILE_NAME if is_writer else None)
    if is_writer:
        record_start(
            config,
            derived=derived,
            layout=layout,
            state=state,
            origin=origin,
            mixture=loader.mixture,
            skipped_samples=loader.skipped_samples,
            tokenizer=tokenizer,
            record=event_log.record,
        )
    checkpoints = CheckpointManager(
        config,
        derived=derived,
        engine=engine,
        loader=loader,
        layout=layout,
        origin=origin,
        progress=progress,
        record=event_log.record,
        tokenizer=copy_tokenizer(tokenizer) if tokenizer is not None and world.is_main_rank else None,
        further_files=_task_files(config, reference=reference),
    )
    health = build_health(
        config.health,
        watchdog=watchdog,
        chunks=chunks,
        stage=world.pp_rank,
        groups=world.groups,
        device=world.device,
    )
    loop = TrainLoop(
        LoopConfig(
            training=config.training,
            lr_schedule=config.lr_schedule,
            checkpoint=config.checkpoint,
            peak_learning_rate=config.optimizer.lr,
            tokens_per_step=derived.tokens_per_step,
            finetune=config.finetune,
            evaluation=config.evaluation,
        ),
        engine=engine,
        loader=loader,
        validation=validation,
        recorder=recorder,
        meter=ThroughputMeter(
            tokens_per_step=derived.tokens_per_step,
            model_flops_per_token=derived.model_flops_per_token,
            target_flops_per_token=derived.target_flops_per_token,
            num_devices=world.world_size,
            peak_tflops=device_peak_tflops(world.device, configured=config.cluster.device_peak_tflops),
        ),
        checkpoints=checkpoints,
        health=health,
        recovery=Recovery(
            config.recovery,
            min_loss_scale=config.precision.min_loss_scale,
            checkpoints=checkpoints,
            loader=loader,
            recorder=recorder,
            log=past.log,
            replay=past.replay,
            state=state,
        ),
        progress=progress,
        device=world.device,
        scorer=build_validation_scorer(config, world=world, validation=validation, tokenizer=tokenizer),
        suite=_build_suite(config, world=world, tokenizer=tokenizer),
        teacher=_build_comparison(objective, config=config, derived=derived, world=world),
    )
    return Run(
        loop=loop,
        engine=engine,
        loader=loader,
        validation=validation,
        recorder=recorder,
        checkpoints=checkpoints,
        health=health,
    )


def _find_reference(config: TrainConfig, *, derived: DerivedConfig) -> BaseRecord | None:
    """Find the reference model of a preference run; None for other tasks."""
    if config.finetune.task != "dpo":
        return None
    return Ranks().run_on_rank0(
        lambda: find_reference(config, run_directory=derived.run_directory), doing="looking for the reference model"
    )


def _ensure_reference(
    reference: BaseRecord | None,
    *,
    config: TrainConfig,
    derived: DerivedConfig,
    world: World,
    engine: Engine,
    chunks: Sequence[GPTModel],
) -> str | None:
    """Compute the losses of a preference run's reference model, if they are not there yet; return their key.

    The weights that the engine then has are those of the start: a checkpoint to resume from is loaded after this.
    """
    if reference is None:
        return None
    key = Ranks().run_on_rank0(lambda: find_reference_key(reference, config), doing="hashing the rows of data.train")

    def load_reference() -> None:
        place = Ranks().run_on_rank0(
            lambda: str(locate_reference(reference, config, run_directory=derived.run_directory)),
            doing="looking for the reference model",
        )
        start = dataclasses.replace(config, pretrained_checkpoint=place)
        start_from_pretrained(start, derived=derived, engine=engine)

    losses = Reference(
        config=config,
        world=world,
        evaluate=lambda batches, observe: evaluate_step(
            chunks, batches, groups=world.groups, device=world.device, observe=observe
        ),
        is_writing=world.groups.tp.rank() == 0,
    )
    losses.ensure(key, load_start_weights=load_reference)
    return key


def _task_files(config: TrainConfig, *, reference: BaseRecord | None) -> dict[str, str]:
    """Return what a checkpoint of a fine-tuning run says about its task, which predictions and resumed runs need."""
    record = find_record(config.data.train) if config.finetune.task is not None else None
    files = {} if record is None else {RECORD_NAME: write_record(record)}
    if record is not None and record.texts is not None and record.texts.chat_template is not None:
        files[CHAT_TEMPLATE_NAME] = record.texts.chat_template  # the one that the model has learned
    return files if reference is None else {**files, REFERENCE_NAME: write_reference(reference)}


def build_validation_scorer(
    config: TrainConfig, *, world: World, validation: ValidationLoader | None, tokenizer: Tokenizer | None
) -> Scorer | None:
    """Build what scores the validations of a fine-tuning run."""
    record = find_record(config.data.validation) if config.finetune.task is not None else None
    if record is None or validation is None:
        return None
    return build_scorer(
        record,
        decode=tokenizer.decode if tokenizer is not None else None,
        questions=open_questions(validation, tokenizer=tokenizer) if record.task == "qa" else None,
        preference=_preference(config.finetune) if record.task == "dpo" else None,
        # The other tensor-parallel ranks have copies of the same scores.
        is_collecting=world.groups.tp.rank() == 0,
    )


def _build_suite(config: TrainConfig, *, world: World, tokenizer: Tokenizer | None) -> SuiteEvaluation | None:
    """Build the evaluation suite, if it is to be run during training."""
    if not config.evaluation.interval or tokenizer is None:
        return None
    parallel, training = config.parallel, config.training
    return SuiteEvaluation(
        read_tasks(config.evaluation.tasks or shipped_tasks(), num_items=config.evaluation.num_items),
        tokenizer=tokenizer,
        layout=SuiteLayout(
            dp_rank=world.dp_rank,
            dp_size=world.dp_size,
            micro_batch_size=training.micro_batch_size,
            seq_length=config.model.seq_length,
            length_multiple=2 * parallel.context_parallel_size * parallel.tensor_model_parallel_size,
            num_microbatches_multiple=world.pp_size if parallel.virtual_pipeline_model_parallel_size else 1,
            max_microbatches=training.global_batch_size // (training.micro_batch_size * world.dp_size),
        ),
        # The other tensor-parallel ranks have copies of the same losses.
        is_collecting=world.groups.tp.rank() == 0,
    )


def build_engine(
    config: TrainConfig,
    *,
    derived: DerivedConfig,
    world: World,
    watch: Callable[[Sequence[GPTModel]], object] | None = None,
    frozen_weights: Path | None = None,
    objective: Objective | None = None,
) -> Engine:
    """Build this rank's part of the model with its initial weights, and the engine around it.

    Args:
        watch: receives the chunks before the engine wraps them, for hooks.
        frozen_weights: checkpoint of the weights beneath adapters; None leaves the initial ones.
        objective: from `build_objective`; None builds it.
    """
    chunks = wire_model(
        config.model,
        parallel=config.parallel,
        precision=config.precision,
        padded_vocab_size=derived.padded_vocab_size,
        vocab_size=derived.vocab_size,
        world=world,
        seed=config.training.seed,
        reset_position_ids=resets_positions(config),
        lora=config.lora,
    )
    if frozen_weights is not None:
        load_frozen(frozen_weights, chunks=chunks)
    if watch is not None:
        watch(chunks)
    return wrap_in_engine(
        chunks,
        config=config.engine,
        optimizer=config.optimizer,
        precision=config.precision,
        groups=world.groups,
        device=world.device,
        objective=objective or build_objective(config, derived=derived, world=world),
    )


def build_objective(config: TrainConfig, *, derived: DerivedConfig, world: World) -> Objective:
    """Build what computes the loss of the configured task, with its teacher if there is one; all ranks call this."""
    finetune = config.finetune
    if config.distill.is_on:
        return DistillationObjective(
            build_teacher(config, derived=derived, world=world),
            weight=config.distill.weight,
            temperature=config.distill.temperature,
            group=world.groups.tp,
            vocab_size=derived.vocab_size,
        )
    if finetune.task in (None, "sft"):
        return PREDICT_NEXT
    if finetune.task == "dpo":
        return _preference(finetune)
    if finetune.task == "qa":
        return SpanObjective()
    record = find_record(config.data.train or config.data.validation)
    assert record is not None, "checked before the start"
    return ScoreObjective(record.target_kind, value_range=record.value_range)


def _preference(finetune: FinetuneConfig) -> PreferenceObjective:
    return PreferenceObjective(beta=finetune.dpo_beta, label_smoothing=finetune.dpo_label_smoothing)


def build_teacher(config: TrainConfig, *, derived: DerivedConfig, world: World) -> FrozenTeacher:
    """Build the teacher of a distillation, frozen, under the run's layout; all ranks call this.

    Raises:
        ConfigError: on every rank: there is no valid checkpoint, or its weights are not finite.
    """
    checkpoint, state = choose_teacher(config)
    model = teacher_model(state, model=config.model)
    chunks = wire_model(
        model,
        parallel=config.parallel,
        precision=config.precision,
        padded_vocab_size=derived.padded_vocab_size,
        vocab_size=derived.vocab_size,
        world=world,
        reset_position_ids=resets_positions(config),
    )
    load_weights(checkpoint, chunks=chunks)
    damage: list[list[str]] = [[]] * distributed.get_world_size()
    distributed.all_gather_object(damage, find_not_finite(chunks))
    if found := list(dict.fromkeys(one for of_rank in damage for one in of_rank)):
        message, fix = f"cannot teach: its weights contain {join_first(found)}", "Use an older checkpoint of its run."
        raise ConfigError([Violation(path=TEACHER, value=checkpoint, message=message, fix=fix)])
    for parameter in (parameter for chunk in chunks for parameter in chunk.parameters()):
        parameter.requires_grad_(False)
    return FrozenTeacher(
        chunks=chunks,
        groups=world.groups,
        device=world.device,
        checkpoint=checkpoint,
        num_parameters=count_parameters(model, derived.padded_vocab_size),
    )


def _build_comparison(
    objective: Objective, *, config: TrainConfig, derived: DerivedConfig, world: World
) -> TeacherComparison | None:
    """Build what compares a distilled model with its teacher at the end; None for other runs."""
    if not isinstance(objective, DistillationObjective):
        return None
    teacher = objective.teacher
    return TeacherComparison(
        evaluate=teacher.evaluate,
        teacher=str(teacher.checkpoint.resolve()),
        num_parameters=(teacher.num_parameters, count_parameters(config.model, derived.padded_vocab_size)),
        # The other tensor-parallel ranks have copies of the same losses.
        is_collecting=world.groups.tp.rank() == 0,
        path=derived.run_directory / COMPARISON_NAME if world.is_main_rank else None,
    )


def wire_model(
    model: ModelConfig,
    *,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    padded_vocab_size: int,
    world: World,
    vocab_size: int | None = None,
    seed: int | None = None,
    reset_position_ids: bool = False,
    lora: LoraConfig | None = None,
) -> list[GPTModel]:
    """Build this rank's model chunks, one or one per virtual pipeline stage; all ranks call this.

    Args:
        vocab_size: tokens, without padding; None takes model.vocab_size, or all rows of the embedding if it is null.
        seed: None leaves the weights undefined until a checkpoint is loaded.
        lora: adapters, the only weights that are then trained; None for none.
    """
    kernels = choose_kernels(model.torch_compile, device=world.device)
    uses_te = model.transformer_impl == "transformer_engine"
    install_megatron_patches(rotary=kernels.rotary, prefers_library_rotary=uses_te)
    transformer_config = build_transformer_config(model, parallel=parallel, precision=precision)
    # Layer specification, chunks, initial weights.
    chunks = build_model_chunks(
        model,
        transformer_config=transformer_config,
        padded_vocab_size=padded_vocab_size,
        pp_rank=world.pp_rank,
        groups=world.groups,
        device=world.device,
        seed=seed,
        vocab_size=model.vocab_size if vocab_size is None else vocab_size,
        reset_position_ids=reset_position_ids,
        kernels=kernels,
        lora=lora,
    )
    _check_all_layers_are_built(chunks, num_layers=model.num_layers, world=world)
    return chunks


def wrap_in_engine(
    chunks: Sequence[GPTModel],
    *,
    config: EngineConfig,
    optimizer: OptimizerConfig,
    precision: PrecisionConfig,
    groups: ProcessGroupCollection,
    device: torch.device,
    objective: Objective = PREDICT_NEXT,
) -> Engine:
    """Build the engine that `config` selects around this rank's model chunks, whose weights have their data type."""
    kind = MegatronEngine if isinstance(config, MegatronEngineConfig) else DeepSpeedEngine
    build: Callable[..., Engine] = kind
    return build(
        chunks,
        config=config,
        optimizer=optimizer,
        precision=precision,
        groups=groups,
        device=device,
        objective=objective,
    )


def _check_all_layers_are_built(chunks: Sequence[GPTModel], *, num_layers: int, world: World) -> None:
    """Check that the pipeline holds every layer once: a model without one would train, but be another model."""
    counts = count_layers(chunks, num_layers=num_layers).to(world.device)
    distributed.all_reduce(counts, group=world.groups.pp)
    wrong = {layer: count for layer, count in enumerate(counts.tolist(), start=1) if count != 1}
    assert not wrong, f"pipeline stages hold these layers (by number) this many times instead of once: {wrong}"


def _layout(config: TrainConfig, world: World) -> Layout:
    return layout_of(
        config.parallel, world_size=world.world_size, engine=config.engine.name, device_type=world.device.type
    )
