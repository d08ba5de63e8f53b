"""Check settings of the DeepSpeed engine: requirements of each ZeRO stage and of optimizer offload."""

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
            message=f"must be 0 or 1 with parallel.pipeline_model_parallel_size={pp_size}: stages 2 and 3 reduce"
            " gradients within each backward pass, and a pipeline interleaves the passes of several micro batches",
            fix="Use 0 or 1, or parallel.pipeline_model_parallel_size=1, or engine=megatron, which shards optimizer"
            " state under every layout.",
        )


@reads("engine.name", "engine.zero_stage", "engine.overlap_comm")
def _overlap_needs_reduction_in_the_backward_pass(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    engine = config.engine
    if engine.name == "deepspeed" and engine.overlap_comm and engine.zero_stage < 2:
        yield Violation(
            path="engine.overlap_comm",
            value="true",
            message="requires engine.zero_stage=2 or 3:"
            f" engine.zero_stage={engine.zero_stage} reduces gradients after the last backward pass",
            fix="Use false, or set engine.zero_stage to 2 or 3, or use engine=megatron, whose overlap_grad_reduce works"
            " under every layout.",
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
            message="requires engine.zero_stage=1, 2 or 3: engine.zero_stage=0 shards no optimizer state",
            fix="Use none, or set engine.zero_stage to 1, 2 or 3.",
        )
    if device == "nvme" and stage != 3:
        yield Violation(
            path="engine.offload_optimizer",
            value=device,
            message="requires engine.zero_stage=3",
            fix="Use none or cpu, or engine.zero_stage=3.",
        )
    if device == "nvme" and engine.nvme_path is None:
        yield Violation(
            path="engine.nvme_path",
            value="null",
            message="must be set with engine.offload_optimizer=nvme",
            fix="Set it to a directory on a fast disk of each host, or use engine.offload_optimizer=cpu.",
        )
    if device != "nvme" and engine.nvme_path is not None:
        yield Violation(
            path="engine.nvme_path",
            value=engine.nvme_path,
            message="requires engine.offload_optimizer=nvme",
            fix="Use null, or engine.offload_optimizer=nvme engine.zero_stage=3.",
        )


RULES = (
    _zero_2_and_3_are_for_one_stage,
    _overlap_needs_reduction_in_the_backward_pass,
    _offload_has_a_stage_and_a_place,
)
