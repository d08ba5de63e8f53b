"""Enumerate the layouts of a model on a number of devices that the trainer's rules allow, as arrays.

The rules are those of trainer.config.rules, written for arrays; tests compare the two. Sequence parallelism is always
combined with tensor parallelism, and uneven pipelines are limited to those that count the embedding and the output
layer as one layer each.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from launch.plan.from_config import EngineChoice, PlannerInput, low_precision_copies, state_bytes
from launch.plan.job import Array, Layout
from trainer.config.schema import TrainConfig
from trireme.config.suggest import divisors

RECOMPUTE = (
    (),
    ("parallel.recompute_granularity=selective", "parallel.recompute_modules=[core_attn]"),
    ("parallel.recompute_granularity=full", "parallel.recompute_method=uniform", "parallel.recompute_num_layers=1"),
)
"""Overrides of each kind of recomputation to try: none, the core of attention, full."""
RECOMPUTE_NAMES = ("none", "core_attn", "full")
_MAX_MICRO_BATCH = 32
_MAX_CHUNKS = 20


@dataclass(frozen=True, kw_only=True)
class LayoutTable:
    """Hold layouts as rows of whole numbers and indices into the choices."""

    tp: Array
    pp: Array
    vp: Array
    cp: Array
    ep: Array
    etp: Array
    dp: Array
    micro_batch_size: Array
    recompute: Array
    """Index into RECOMPUTE."""
    engine: Array
    """Index into `engines`."""
    accounts: Array
    """How many of output layer and embedding count as a layer when the pipeline is split: 0, 1 (output layer) or 2."""
    engines: tuple[EngineChoice, ...]

    def __len__(self) -> int:
        """Return the number of layouts."""
        return len(self.tp)

    def choose(self, index: Array) -> "LayoutTable":
        """Return the selected rows."""
        columns = {name: value[index] for name, value in vars(self).items() if name != "engines"}
        return LayoutTable(**columns, engines=self.engines)

    def overrides(self, row: int) -> tuple[str, ...]:
        """Return the overrides that select one layout."""
        sizes = {name: int(getattr(self, name)[row]) for name in ("tp", "pp", "vp", "cp", "ep", "etp", "accounts")}
        accounts = sizes["accounts"]
        settings = {
            "tensor_model_parallel_size": sizes["tp"],
            "sequence_parallel": "true" if sizes["tp"] > 1 else "false",
            "pipeline_model_parallel_size": sizes["pp"],
            "virtual_pipeline_model_parallel_size": sizes["vp"] if sizes["vp"] > 1 else "null",
            "context_parallel_size": sizes["cp"],
        }
        if accounts:
            settings["account_for_loss_in_pipeline_split"] = "true"
        if accounts > 1:
            settings["account_for_embedding_in_pipeline_split"] = "true"
        if sizes["ep"] > 1 or sizes["etp"] != sizes["tp"]:
            settings["expert_model_parallel_size"] = sizes["ep"]
            settings["expert_tensor_parallel_size"] = sizes["etp"]
        return (
            *(f"parallel.{name}={value}" for name, value in settings.items()),
            f"training.micro_batch_size={int(self.micro_batch_size[row])}",
            *RECOMPUTE[int(self.recompute[row])],
            *self.engines[int(self.engine[row])].overrides,
        )


def enumerate_layouts(config: TrainConfig, setting: PlannerInput) -> tuple[LayoutTable, list["RefusedSizes"]]:
    """Enumerate the layouts.

    Returns:
        Layouts that the trainer's rules allow, and parallel sizes for which they allow none.
    """
    world, model = setting.world_size, setting.model
    engines = _engines(setting)
    rows: list[tuple[int, ...]] = []
    refused: list[RefusedSizes] = []
    for tp, pp, cp in itertools.product(divisors(world), repeat=3):
        if world % (tp * pp * cp) or tp > setting.machine.link_domain or pp > model.num_layers:
            continue
        dp = world // (tp * pp * cp)
        for ep in divisors(model.num_moe_experts) if model.num_moe_experts else [1]:
            sizes = Sizes(tp=tp, pp=pp, cp=cp, ep=ep, dp=dp)
            problem = sizes_problem(config, setting, sizes)
            if problem is None:
                rows += _variants(setting, engines, sizes)
            elif ep <= tp * cp * dp:
                refused.append(RefusedSizes(sizes=sizes, reason=problem))
    return _table(rows, engines), refused


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Hold parallel sizes; the product of all but ep is the number of devices."""

    tp: int
    pp: int
    cp: int
    ep: int
    dp: int

    def __str__(self) -> str:
        shown = [f"tp{self.tp}", f"pp{self.pp}", f"cp{self.cp}", f"ep{self.ep}", f"dp{self.dp}"]
        return " ".join(part for part in shown if part[2:] != "1") or "dp1"


@dataclass(frozen=True, kw_only=True)
class RefusedSizes:
    """Describe parallel sizes for which this model has no valid layout."""

    sizes: Sizes
    reason: str


def sizes_problem(config: TrainConfig, setting: PlannerInput, sizes: Sizes) -> str | None:
    """Return why these sizes have no valid layout: the first of the trainer's rules that they violate; else None."""
    model, tp, cp = setting.model, sizes.tp, sizes.cp
    widths = {
        "model.num_attention_heads": model.num_attention_heads,
        "model.num_query_groups": model.num_query_groups,
        "model.ffn_hidden_size": model.ffn_hidden_size,
        "the padded vocabulary": int(setting.shape.vocab_size),
        "model.moe_shared_expert_intermediate_size": model.moe_shared_expert_intermediate_size or 0,
    }
    for name, width in widths.items():
        if width % tp:
            return f"tp={tp} does not divide {name}={width}"
    parts = math.lcm(2 * cp if cp > 1 else 1, cp * tp if tp > 1 else 1)
    if model.seq_length % parts:
        return f"model.seq_length={model.seq_length} is not a multiple of {parts}"
    if config.parallel.cp_comm_type == "a2a" and (model.num_query_groups // tp) % cp:
        return f"cp={cp} does not divide the {model.num_query_groups // tp} key-value heads per rank (a2a)"
    if setting.global_batch_size % sizes.dp:
        return f"dp={sizes.dp} does not divide training.global_batch_size={setting.global_batch_size}"
    if all(_accounts(model.num_layers, sizes.pp, vp) is None for vp in range(1, _MAX_CHUNKS + 1)):
        return f"model.num_layers={model.num_layers} cannot be split into pp={sizes.pp} equal stages"
    if not _expert_cuts(setting, sizes):
        return f"ep={sizes.ep} does not divide the {tp * cp * sizes.dp} ranks of a stage"
    return None


def _expert_cuts(setting: PlannerInput, sizes: Sizes) -> list[int]:
    """Return the valid expert tensor-parallel sizes."""
    model, tp = setting.model, sizes.tp
    if not model.num_moe_experts:
        return [tp]
    width = model.moe_ffn_hidden_size or model.ffn_hidden_size
    processes = tp * sizes.cp * sizes.dp
    return [
        cut
        for cut in sorted({tp, 1})
        if processes % (cut * sizes.ep) == 0 and width % cut == 0 and not (model.add_bias_linear and cut > 1)
    ]


def _accounts(num_layers: int, pp: int, vp: int) -> int | None:
    """Return how many of output layer and embedding must count as a layer for equal chunks; None if none works."""
    if num_layers % (pp * vp) == 0:
        return 0
    if pp > 1:
        for accounts in (1, 2):
            if (num_layers + accounts) % (pp * vp) == 0:
                return accounts
    return None


def _variants(setting: PlannerInput, engines: tuple[EngineChoice, ...], sizes: Sizes) -> Iterator[tuple[int, ...]]:
    """Yield all layouts with these sizes, as rows of a table."""
    model, per_rank = setting.model, setting.global_batch_size // sizes.dp
    chunks = range(1, (_MAX_CHUNKS if sizes.pp > 1 else 1) + 1)
    cuts = [(vp, accounts) for vp in chunks if (accounts := _accounts(model.num_layers, sizes.pp, vp)) is not None]
    micro_batches = [size for size in divisors(per_rank) if size <= _MAX_MICRO_BATCH]
    for etp, micro_batch_size, (vp, accounts) in itertools.product(_expert_cuts(setting, sizes), micro_batches, cuts):
        if vp > 1 and (per_rank // micro_batch_size) % sizes.pp:
            continue
        for index, engine in enumerate(engines):
            if engine.name == "deepspeed" and (
                (engine.zero_stage >= 2 and sizes.pp > 1) or sizes.ep > 1 or etp != sizes.tp
            ):
                continue
            for recompute in range(len(RECOMPUTE)):
                choices = (micro_batch_size, recompute, index, accounts)
                yield (sizes.tp, sizes.pp, vp, sizes.cp, sizes.ep, etp, sizes.dp, *choices)


def _table(rows: list[tuple[int, ...]], engines: tuple[EngineChoice, ...]) -> LayoutTable:
    names = ("tp", "pp", "vp", "cp", "ep", "etp", "dp", "micro_batch_size", "recompute", "engine", "accounts")
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), len(names))
    return LayoutTable(**dict(zip(names, columns.T, strict=True)), engines=engines)


def _engines(setting: PlannerInput) -> tuple[EngineChoice, ...]:
    first = 0 if setting.precision.params_dtype == "fp32" else 1
    engines = [EngineChoice(name="megatron", zero_stage=stage) for stage in (1, 0)]
    if setting.precision.grad_accumulation_dtype == "fp32":
        engines += [EngineChoice(name="deepspeed", zero_stage=stage) for stage in range(first, 4)]
    return tuple(engines)


def layouts_of(table: LayoutTable, setting: PlannerInput) -> Layout:
    """Return the layouts in the form that the formulas use: [n] per field."""
    engine = table.engine.astype(int)
    sizes = [state_bytes(choice, setting.precision) for choice in table.engines]
    stages = np.array([choice.zero_stage for choice in table.engines], dtype=np.float64)[engine]
    return Layout(
        tp=table.tp,
        pp=table.pp,
        vp=table.vp,
        cp=table.cp,
        ep=table.ep,
        etp=table.etp,
        dp=table.dp,
        micro_batch_size=table.micro_batch_size,
        num_microbatches=setting.global_batch_size / (table.dp * table.micro_batch_size),
        sequence_parallel=np.where(table.tp > 1, 1.0, 0.0),
        recomputed_share=np.where(table.recompute == RECOMPUTE_NAMES.index("full"), 1.0, 0.0),
        dropped_share=np.where(table.recompute == RECOMPUTE_NAMES.index("full"), 1.0, 0.0),
        recomputes_core=np.where(table.recompute == RECOMPUTE_NAMES.index("core_attn"), 1.0, 0.0),
        zero_stage=stages,
        optimizer_shards=np.where(stages > 0, table.dp * table.cp, 1),
        weight_bytes=np.array([size.weights for size in sizes], dtype=np.float64)[engine],
        gradient_bytes=np.array([size.gradients for size in sizes], dtype=np.float64)[engine],
        optimizer_bytes=np.array([size.optimizer for size in sizes], dtype=np.float64)[engine],
        extra_unsharded_bytes=low_precision_copies(setting.precision),
    )
