"""Rules of the DeepSpeed back end: what each ZeRO stage and the offload of optimizer state need."""

from collections.abc import Iterator

from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trireme.errors import Violation


@reads("engine.name", "engine.zero_stage", "parallel.pipeline_model_parallel_size")
def _zero_2_and_3_are_for_one_stage(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    engine, pp_size = config.engine, config.parallel.pipeline_model_parallel_size
    if engine.name == "deepspeed" and engine.zero_stage >= 2 and pp_size > 1:
        yield Violation(
            path="engine.zero_stage",
            value=engine.zero_stage,
            message="reduces gradients within each backward pass, and under"
            f" parallel.pipeline_model_parallel_size={pp_size} the passes of several micro batches interleave",
            fix="use 0 or 1, or engine=megatron, which shards optimizer state under every layout, or"
            " parallel.pipeline_model_parallel_size=1",
        )


@reads("engine.name", "engine.zero_stage", "engine.overlap_comm")
def _overlap_needs_reduction_in_the_backward_pass(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    engine = config.engine
    if engine.name == "deepspeed" and engine.overlap_comm and engine.zero_stage < 2:
        yield Violation(
            path="engine.overlap_comm",
            value="true",
            message="overlaps reduction with the backward pass, and"
            f" engine.zero_stage={engine.zero_stage} reduces after the last one",
            fix="use false, or engine.zero_stage=2 or 3, or engine=megatron, whose overlap_grad_reduce does it under"
            " every layout",
        )


@reads("engine.name", "engine.zero_stage", "engine.offload_optimizer", "engine.nvme_path")
def _offload_has_a_stage_and_a_place(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    engine = config.engine
    if engine.name != "deepspeed":
        return
    device, stage = engine.offload_optimizer, engine.zero_stage
    if device == "cpu" and stage == 0:
        yield Violation(
            path="engine.offload_optimizer",
            value=device,
            message="moves what is sharded, and engine.zero_stage=0 shards nothing",
            fix="use none, or engine.zero_stage=1, 2 or 3",
        )
    if device == "nvme" and stage != 3:
        yield Violation(
            path="engine.offload_optimizer",
            value=device,
            message=f"is for engine.zero_stage=3, and engine.zero_stage={stage}",
            fix="use none or cpu, or engine.zero_stage=3",
        )
    if device == "nvme" and engine.nvme_path is None:
        yield Violation(
            path="engine.nvme_path",
            value="null",
            message="leaves open where engine.offload_optimizer=nvme puts its files",
            fix="set it to a directory on a fast disk of each host, or use engine.offload_optimizer=cpu",
        )
    if device != "nvme" and engine.nvme_path is not None:
        yield Violation(
            path="engine.nvme_path",
            value=engine.nvme_path,
            message=f"is used by engine.offload_optimizer=nvme only, and engine.offload_optimizer={device}",
            fix="use null, or engine.offload_optimizer=nvme engine.zero_stage=3",
        )


RULES = (
    _zero_2_and_3_are_for_one_stage,
    _overlap_needs_reduction_in_the_backward_pass,
    _offload_has_a_stage_and_a_place,
)
