"""The runs that tests of the engine share: all of one world size in one start of its processes."""

from dataclasses import dataclass, field, replace

import torch
from torch.nn import functional

from tests.engine.moe_runs import EP2, SPARSE
from tests.engine.steps import (
    GPT2,
    NUM_STEPS,
    OPTIMIZERS,
    Case,
    Formats,
    Skipped,
    Trained,
    find_formats,
    micro_batches,
    open_engine,
    rate_of,
    skip_a_step,
    train_all,
)
from trainer.config.engine import DeepSpeedEngineConfig, MegatronEngineConfig
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig

TP2 = ParallelConfig(tensor_model_parallel_size=2)
TP2_SP = replace(TP2, sequence_parallel=True)
PP2 = ParallelConfig(pipeline_model_parallel_size=2)
PP2_VP2 = replace(PP2, virtual_pipeline_model_parallel_size=2)
TP2_PP2 = replace(TP2_SP, pipeline_model_parallel_size=2)

CP2 = ParallelConfig(context_parallel_size=2)

ZERO_0 = DeepSpeedEngineConfig(zero_stage=0)
MEGATRON = MegatronEngineConfig()
MEGATRON_PLAIN = MegatronEngineConfig(use_distributed_optimizer=False)
# Buckets of a layer or so: several are in flight at once.
MEGATRON_GATHER = MegatronEngineConfig(overlap_param_gather=True, bucket_size=5000)
MEGATRON_LATE = MegatronEngineConfig(overlap_grad_reduce=False)

BF16 = PrecisionConfig(params_dtype="bf16")
BF16_SUMS = PrecisionConfig(params_dtype="bf16", grad_accumulation_dtype="params_dtype")
FP16 = PrecisionConfig(params_dtype="fp16")
# Far too large a scale, which falls with each skipped step and soon grows again.
OVERFLOWING = PrecisionConfig(
    params_dtype="fp16", initial_loss_scale=2**22, loss_scale_hysteresis=1, loss_scale_window=2
)

ONE = {
    "llama": Case(),
    "llama clipped": Case(optimizer="clipped"),
    "gpt2": Case(model=GPT2),
    "gpt2 clipped": Case(model=GPT2, optimizer="clipped"),
    "bf16": Case(precision=BF16),
    "megatron bf16": Case(precision=BF16, engine=MEGATRON),
    "megatron bf16 sums": Case(precision=BF16_SUMS, engine=MEGATRON),
    "fp16": Case(precision=FP16),
    "megatron fp16": Case(precision=FP16, engine=MEGATRON),
    "overflowing": Case(precision=OVERFLOWING),
    "megatron overflowing": Case(precision=OVERFLOWING, engine=MEGATRON_PLAIN),
    "megatron llama clipped": Case(optimizer="clipped", engine=MEGATRON),
    "megatron plain gpt2": Case(model=GPT2, engine=MEGATRON_PLAIN),
}
# Each beside the name of the same run in one process.
TWO = {
    "tp2": ("llama", Case(parallel=TP2)),
    "tp2 sp": ("llama clipped", Case(parallel=TP2_SP, optimizer="clipped")),
    "tp2 sp gpt2": ("gpt2", Case(parallel=TP2_SP, model=GPT2)),
    "pp2": ("llama", Case(parallel=PP2, micro_batch_size=1)),
    "pp2 tied gpt2": ("gpt2 clipped", Case(parallel=PP2, model=GPT2, optimizer="clipped")),
    "pp2 vp2": ("llama clipped", Case(parallel=PP2_VP2, optimizer="clipped")),
    "dp2": ("llama", Case()),
    "dp2 zero0": ("llama clipped", Case(optimizer="clipped", engine=ZERO_0)),
    "megatron tp2 sp gpt2": ("gpt2", Case(parallel=TP2_SP, model=GPT2, engine=MEGATRON)),
    "megatron pp2 tied gpt2": (
        "gpt2 clipped",
        Case(parallel=PP2, model=GPT2, optimizer="clipped", engine=MEGATRON_PLAIN),
    ),
    "megatron pp2 vp2": ("llama clipped", Case(parallel=PP2_VP2, optimizer="clipped", engine=MEGATRON)),
    "megatron cp2": ("llama clipped", Case(parallel=CP2, optimizer="clipped", engine=MEGATRON)),
    "megatron dp2": ("llama clipped", Case(optimizer="clipped", engine=MEGATRON)),
    "megatron dp2 plain": ("llama clipped", Case(optimizer="clipped", engine=MEGATRON_PLAIN)),
    "megatron dp2 gather": ("llama clipped", Case(optimizer="clipped", engine=MEGATRON_GATHER)),
    "megatron dp2 late": ("gpt2", Case(model=GPT2, engine=MEGATRON_LATE)),
}
FOUR = {
    "tp2 pp2": ("llama", Case(parallel=TP2_PP2)),
    "tp2 pp2 tied gpt2": ("gpt2 clipped", Case(parallel=TP2_PP2, model=GPT2, optimizer="clipped")),
    "dp2 pp2 tied gpt2": ("gpt2 clipped", Case(parallel=PP2, model=GPT2, optimizer="clipped")),
    "dp2 pp2 zero0": ("llama clipped", Case(parallel=PP2, optimizer="clipped", engine=ZERO_0)),
    "dp2 tp2 sp": ("llama clipped", Case(parallel=TP2_SP, optimizer="clipped")),
    "megatron tp2 pp2 tied gpt2": (
        "gpt2 clipped",
        Case(parallel=TP2_PP2, model=GPT2, optimizer="clipped", engine=MEGATRON),
    ),
    # Both stages' ranks own the same part of the tied embedding, though their buffers differ.
    "megatron dp2 pp2 tied gpt2": (
        "gpt2 clipped",
        Case(parallel=PP2, model=GPT2, optimizer="clipped", engine=MEGATRON),
    ),
    "megatron dp2 pp2 vp2 gather": (
        "llama clipped",
        Case(parallel=PP2_VP2, optimizer="clipped", engine=MEGATRON_GATHER),
    ),
    "megatron dp2 tp2 sp plain": (
        "llama clipped",
        Case(parallel=TP2_SP, optimizer="clipped", engine=MEGATRON_PLAIN),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Account:
    """What one rank saw of all runs of its world size."""

    trained: dict[str, Trained]
    skipped: dict[str, Skipped]
    formats: dict[str, Formats] = field(default_factory=dict)
    by_hand: tuple[list[float], list[float]] | None = None
    """Losses and gradient norms of a loop that is written out."""


def run_one() -> Account:
    return Account(
        trained=train_all(ONE),
        skipped={},
        formats={"megatron bf16 sums": find_formats(ONE["megatron bf16 sums"])},
        by_hand=train_by_hand(ONE["llama clipped"]),
    )


def run_two() -> Account:
    return Account(
        trained=train_all({name: case for name, (_, case) in TWO.items()}),
        skipped={
            "tp2": skip_a_step(Case(parallel=TP2_SP), bad_rank=1),
            "dp2 zero0": skip_a_step(Case(engine=ZERO_0), bad_rank=1),
            "megatron tp2 plain": skip_a_step(Case(parallel=TP2_SP, engine=MEGATRON_PLAIN), bad_rank=1),
            "megatron dp2": skip_a_step(Case(engine=MEGATRON), bad_rank=1),
            # No other rank has this expert, or a sum that it is part of.
            "megatron ep2": skip_a_step(
                Case(model=SPARSE, parallel=EP2, engine=MEGATRON), bad_rank=1, bad_weight="local_experts"
            ),
            "loss dp2": skip_a_step(Case(), bad_rank=1, is_loss_bad=True),
            "loss megatron pp2 vp2": skip_a_step(Case(parallel=PP2_VP2, engine=MEGATRON), bad_rank=1, is_loss_bad=True),
        },
    )


def run_four() -> Account:
    sixteen_bits = {
        "bf16": Case(parallel=TP2_PP2, precision=BF16),
        "megatron bf16": Case(parallel=TP2_SP, precision=BF16, engine=MEGATRON),
        "fp16": Case(parallel=PP2, precision=FP16),
        "megatron fp16": Case(parallel=PP2, precision=FP16, engine=MEGATRON),
    }
    plain = Case(parallel=TP2_SP, precision=BF16, engine=MEGATRON_PLAIN)
    return Account(
        trained=train_all({name: case for name, (_, case) in FOUR.items()} | sixteen_bits),
        skipped={
            "dp2 pp2": skip_a_step(Case(parallel=PP2), bad_rank=3),
            "loss dp2 pp2": skip_a_step(Case(parallel=PP2), bad_rank=3, is_loss_bad=True),
            "loss fp16": skip_a_step(sixteen_bits["fp16"], bad_rank=3, is_loss_bad=True),
            **{name: skip_a_step(case, bad_rank=3) for name, case in sixteen_bits.items()},
        },
        formats={name: find_formats(case) for name, case in sixteen_bits.items()}
        | {"megatron plain bf16": find_formats(plain)},
    )


def train_by_hand(case: Case) -> tuple[list[float], list[float]]:
    """The same training written out with torch alone: one batch, one mean, torch's clipping and AdamW."""
    optimizer_config = OPTIMIZERS[case.optimizer]
    with open_engine(case) as (_, (model,), _):
        decayed, undecayed = [], []
        for name, parameter in model.named_parameters():
            (undecayed if "norm" in name or name.endswith("bias") else decayed).append(parameter)
        optimizer = torch.optim.AdamW(
            [{"params": decayed}, {"params": undecayed, "weight_decay": 0.0}],
            betas=(optimizer_config.adam_beta1, optimizer_config.adam_beta2),
            eps=optimizer_config.adam_eps,
            weight_decay=optimizer_config.weight_decay,
            foreach=False,
        )
        losses, norms = [], []
        for step in range(NUM_STEPS):
            batches = micro_batches(step, case=case)
            tokens, labels, positions = (
                torch.cat([getattr(batch, name) for batch in batches]) for name in ("tokens", "labels", "position_ids")
            )
            mask = torch.cat([batch.loss_mask for batch in batches]).bool()
            logits = model(tokens, positions, None)
            loss = functional.cross_entropy(logits[mask].float(), labels[mask])
            optimizer.zero_grad()
            loss.backward()
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), optimizer_config.clip_grad).item())
            for group in optimizer.param_groups:
                group["lr"] = rate_of(step)
            optimizer.step()
            losses.append(loss.item())
    return losses, norms
