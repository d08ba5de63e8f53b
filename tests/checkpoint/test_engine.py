"""Real engines: train, save, load under other layouts and by the other engine, and go on as if nothing had happened."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from tests.checkpoint.fragments import FP32, MODEL, build_chunks, layout_in, open_world, state_of
from tests.distributed.harness import run_distributed
from trainer.build import wrap_in_engine
from trainer.checkpoint.dcp import SafeReader, read_pieces
from trainer.checkpoint.load import load_checkpoint
from trainer.checkpoint.pieces import ShardedTensorView
from trainer.checkpoint.save import save_checkpoint
from trainer.config.engine import DeepSpeedEngineConfig, EngineConfig, MegatronEngineConfig
from trainer.config.model import ModelConfig
from trainer.config.optim import OptimizerConfig, PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.data.micro_batch import MicroBatch
from trainer.engine.base import Engine, LossScaleState
from trainer.parallel.world import World

GLOBAL_BATCH_SIZE = 4
DROPOUT = replace(MODEL, hidden_dropout=0.1, attention_dropout=0.1)
TP2 = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)
PP2_VP2 = ParallelConfig(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2)
DEEPSPEED, ZERO_0 = DeepSpeedEngineConfig(), DeepSpeedEngineConfig(zero_stage=0)
MEGATRON, MEGATRON_PLAIN = MegatronEngineConfig(), MegatronEngineConfig(use_distributed_optimizer=False)
MEGATRON_GATHER = MegatronEngineConfig(overlap_param_gather=True, bucket_size=500)
LOADED_UNDER: dict[str, tuple[ParallelConfig, EngineConfig]] = {
    "tp2": (TP2, DEEPSPEED),
    "pp2vp2": (PP2_VP2, DEEPSPEED),
    "dp2 zero0": (ParallelConfig(), ZERO_0),
    "megatron tp2 plain": (TP2, MEGATRON_PLAIN),
    "megatron dp2 gather": (ParallelConfig(), MEGATRON_GATHER),
    "megatron pp2vp2": (PP2_VP2, MEGATRON),
}
# Saved by the other engine, with fp16 weights and a loss scale that has moved.
FP16 = PrecisionConfig(params_dtype="fp16", initial_loss_scale=1024, loss_scale_window=2)
FP16_LOADED_UNDER: dict[str, tuple[ParallelConfig, EngineConfig]] = {
    "same": (PP2_VP2, MEGATRON),
    "plain tp2": (TP2, MEGATRON_PLAIN),
    "deepspeed pp2vp2": (PP2_VP2, DEEPSPEED),
}


def _micro_batches(step: int, world: World) -> list[MicroBatch]:
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, 64, (GLOBAL_BATCH_SIZE, MODEL.seq_length + 1), generator=generator)
    return [
        MicroBatch(
            tokens=tokens[sample : sample + 1, :-1],
            labels=tokens[sample : sample + 1, 1:],
            loss_mask=torch.ones(1, MODEL.seq_length),
            position_ids=torch.arange(MODEL.seq_length)[None],
            sample_ids=(sample,),
        )
        for sample in range(world.dp_rank, GLOBAL_BATCH_SIZE, world.dp_size)
    ]


def _train(engine: Engine, world: World, *, first: int, last: int) -> list[float]:
    return [engine.train_step(_micro_batches(step, world), learning_rate=1e-3).loss for step in range(first, last + 1)]


@contextmanager
def _engine(
    parallel: ParallelConfig,
    *,
    config: EngineConfig,
    model: ModelConfig = MODEL,
    precision: PrecisionConfig = FP32,
    seed: int = 1,
) -> Iterator[tuple[Engine, World]]:
    with open_world(parallel, seed=seed) as world:
        engine = wrap_in_engine(
            build_chunks(parallel, world, model=model, precision=precision, seed=seed),
            config=config,
            optimizer=OptimizerConfig(),
            precision=precision,
            groups=world.groups,
            device=world.device,
        )
        yield engine, world
        engine.close()


@dataclass(frozen=True, kw_only=True)
class _Run:
    losses: list[float]
    path: Path
    """Of the checkpoint of step 3."""
    loss_scale: LossScaleState | None
    """At step 3."""


def _train_and_save(
    directory: Path,
    model: ModelConfig = MODEL,
    *,
    parallel: ParallelConfig = TP2,
    config: EngineConfig = DEEPSPEED,
    precision: PrecisionConfig = FP32,
) -> _Run:
    """Five steps, with a checkpoint after the third that does not disturb them."""
    with _engine(parallel, config=config, model=model, precision=precision) as (engine, world):
        losses = _train(engine, world, first=1, last=3)
        path, scale = _save(directory, engine, world, parallel=parallel, model=model), engine.loss_scale
        losses += _train(engine, world, first=4, last=5)
    return _Run(losses=losses, path=path, loss_scale=scale)


def _save(directory: Path, engine: Engine, world: World, *, parallel: ParallelConfig, model: ModelConfig) -> Path:
    state = state_of(3, parallel=parallel, world_size=world.world_size, model=model)
    return save_checkpoint(
        directory,
        fragments=engine.optimizer_fragments(),
        state=replace(state, loss_scale=engine.loss_scale),
        keep_last=1,
    )


def _resume(
    path: Path,
    directory: Path,
    parallel: ParallelConfig,
    *,
    config: EngineConfig,
    model: ModelConfig = MODEL,
    precision: PrecisionConfig = FP32,
) -> _Run:
    """Load into other weights, save again at once, and train steps 4 and 5."""
    with _engine(parallel, config=config, model=model, precision=precision, seed=77) as (engine, world):
        layout = layout_in(parallel, world_size=world.world_size)
        state = load_checkpoint(path, fragments=engine.optimizer_fragments(), layout=layout)
        engine.restore(num_updates=state.num_updates, loss_scale=state.loss_scale)
        assert engine.num_updates == 3
        again, scale = _save(directory, engine, world, parallel=parallel, model=model), engine.loss_scale
        return _Run(losses=_train(engine, world, first=4, last=5), path=again, loss_scale=scale)


@dataclass(frozen=True, kw_only=True)
class _Account:
    """What one rank saw."""

    saved: _Run
    resumed: dict[str, _Run]
    dropout_saved: _Run
    dropout_resumed: _Run
    fp16_saved: _Run
    fp16_resumed: dict[str, _Run]


def _run(directory: Path) -> _Account:
    saved = _train_and_save(directory / "saved")
    dropout = _train_and_save(directory / "dropout", DROPOUT)
    fp16 = _train_and_save(directory / "fp16", parallel=PP2_VP2, config=MEGATRON, precision=FP16)
    return _Account(
        saved=saved,
        resumed={
            name: _resume(saved.path, directory / name, parallel, config=config)
            for name, (parallel, config) in LOADED_UNDER.items()
        },
        dropout_saved=dropout,
        dropout_resumed=_resume(dropout.path, directory / "dropout again", TP2, config=DEEPSPEED, model=DROPOUT),
        fp16_saved=fp16,
        fp16_resumed={
            name: _resume(fp16.path, directory / f"fp16 {name}", parallel, config=config, precision=FP16)
            for name, (parallel, config) in FP16_LOADED_UNDER.items()
        },
    )


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> _Account:
    return run_distributed(_run, 2, tmp_path_factory.mktemp("runs"), timeout_seconds=300)[0]


def _whole_tensors(path: Path) -> dict[str, torch.Tensor]:
    tensors, pieces = {}, {}
    for key, entry in SafeReader(path).read_metadata().state_dict_metadata.items():
        if not key.startswith("random_state"):
            tensors[key] = torch.full(entry.size, torch.nan)
            pieces[key] = ShardedTensorView(entry.size, dtype=torch.float32)
            pieces[key].add((0,) * len(entry.size), tensors[key])
    read_pieces(path, pieces)
    return tensors


def _assert_same_tensors(path: Path, other: Path) -> None:
    tensors, others = _whole_tensors(path), _whole_tensors(other)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[key], others[key]) for key in tensors), "fragments as they were saved"


def test_checkpoints_hold_weights_and_moments(account: _Account) -> None:
    assert account.saved.losses[-1] < account.saved.losses[0]
    tensors = _whole_tensors(account.saved.path)
    assert all(key.startswith("model.") or bool(tensor.any()) for key, tensor in tensors.items())


@pytest.mark.parametrize("name", LOADED_UNDER)
def test_training_resumes_under_every_layout_and_engine(name: str, account: _Account) -> None:
    run = account.resumed[name]
    _assert_same_tensors(account.saved.path, run.path)
    # Sums of gradients are taken in another order; 2.4e-7 was measured over all layouts.
    assert run.losses == pytest.approx(account.saved.losses[3:], rel=1e-6), name


def test_resuming_on_the_same_layout_is_bit_identical(account: _Account) -> None:
    assert account.resumed["tp2"].losses == account.saved.losses[3:]
    assert account.dropout_saved.losses != account.saved.losses
    assert account.dropout_resumed.losses == account.dropout_saved.losses[3:], "and with dropout"
    assert account.fp16_resumed["same"].losses == account.fp16_saved.losses[3:], "and with the other engine, in fp16"


@pytest.mark.parametrize("name", FP16_LOADED_UNDER)
def test_fp16_resumes_with_master_weights_and_loss_scale(name: str, account: _Account) -> None:
    saved, run = account.fp16_saved, account.fp16_resumed[name]
    assert saved.loss_scale == run.loss_scale == LossScaleState(scale=2048.0, num_good_steps=1, num_skips_left=2)
    _assert_same_tensors(saved.path, run.path)
    # fp16 keeps 11 bits; the loss is a mean over 128 tokens.
    assert run.losses == pytest.approx(saved.losses[3:], rel=2e-4), name
