"""Which layouts are valid: the planner's arrays against the trainer's rules, and the nearest of the refused ones."""

import dataclasses
import itertools

import numpy as np
import pytest

from launch.plan.coefficients import load_coefficients
from launch.plan.from_config import DATA_PATHS, check_planner_input, planner_input_of
from launch.plan.layouts import RECOMPUTE_NAMES, enumerate_layouts
from launch.plan.ranking import FULL_SHARE, NUM_NEAREST, Ranking
from trainer.config.engine import DeepSpeedEngineConfig, MegatronEngineConfig
from trainer.config.load import load_config
from trainer.config.validate import validate
from trireme.config.suggest import divisors

SMALL = ("model=quickstart", "model.vocab_size=512", "cluster.gpus_per_node=8", "training.global_batch_size=16")
DENSE = (*SMALL, "model.num_layers=6", "precision=bf16", "engine=megatron")
EXPERTS = (*SMALL, "model.num_moe_experts=4", "model.moe_ffn_hidden_size=64", "precision=fp32", "engine=megatron")
LARGE = ("model=llama_70b", "cluster=h100", "cluster.num_nodes=4", "precision=bf16", "training.global_batch_size=128")


def judged_valid(config, sizes) -> bool:
    """What the trainer's rules say of a layout, given as a row of the table."""
    tp, pp, vp, cp, ep, etp, _dp, micro_batch_size, recompute, engine, accounts = sizes
    parallel = dataclasses.replace(
        config.parallel,
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        virtual_pipeline_model_parallel_size=vp if vp > 1 else None,
        context_parallel_size=cp,
        expert_model_parallel_size=ep,
        expert_tensor_parallel_size=etp if etp != tp else None,
        sequence_parallel=tp > 1,
        recompute_granularity={"none": None, "core_attn": "selective", "full": "full"}[recompute],
        recompute_modules=["core_attn"] if recompute == "core_attn" else [],
        recompute_method="uniform" if recompute == "full" else None,
        recompute_num_layers=1 if recompute == "full" else None,
        account_for_loss_in_pipeline_split=accounts > 0,
        account_for_embedding_in_pipeline_split=accounts > 1,
    )
    back_end = (
        DeepSpeedEngineConfig(zero_stage=engine.zero_stage)
        if engine.name == "deepspeed"
        else MegatronEngineConfig(use_distributed_optimizer=bool(engine.zero_stage))
    )
    training = dataclasses.replace(config.training, micro_batch_size=micro_batch_size)
    asked = dataclasses.replace(config, parallel=parallel, engine=back_end, training=training)
    return not validate(asked, world_size=8, ignore=DATA_PATHS)


@pytest.mark.parametrize("overrides", [DENSE, EXPERTS])
def test_the_table_has_what_the_rules_allow_and_nothing_else(overrides):
    config = load_config(overrides)
    setting = planner_input_of(config)
    table, refused = enumerate_layouts(config, setting)
    names = ("tp", "pp", "vp", "cp", "ep", "etp", "dp", "micro_batch_size")
    found, shapes = set(), set()
    for row in range(len(table)):
        sizes = [int(getattr(table, name)[row]) for name in names]
        recompute, engine = RECOMPUTE_NAMES[int(table.recompute[row])], table.engines[int(table.engine[row])]
        found.add((*sizes, recompute, engine, int(table.accounts[row])))
        shapes.add((*sizes, recompute, engine))
    experts = divisors(config.model.num_moe_experts or 1)
    tried = 0
    for tp, pp, cp, ep in itertools.product((1, 2, 4, 8), (1, 2, 4), (1, 2, 4), experts):
        if tp * pp * cp > 8:
            continue
        dp = 8 // (tp * pp * cp)
        # Every layout of these sizes is judged, of each setting that does not depend on them one in turn.
        sizes = itertools.product((1, 2, 3), sorted({1, tp}) if ep * tp > 1 else [tp], (1, 2, 3), (0, 1, 2))
        for number, (vp, etp, micro_batch_size, accounts) in enumerate(sizes):
            if config.model.num_moe_experts is None and etp != tp:
                continue
            recompute = RECOMPUTE_NAMES[number % len(RECOMPUTE_NAMES)]
            engine = table.engines[(number + tried) % len(table.engines)]
            row = (tp, pp, vp, cp, ep, etp, dp, micro_batch_size, recompute, engine, accounts)
            # Of several ways to cut the layers evenly, the one that counts the fewest others is in the table.
            is_another_cut = row[:-1] in shapes and row not in found
            assert (row in found) == judged_valid(config, row) or is_another_cut, row
            tried += 1
    assert tried > 400
    assert all(each.reason for each in refused)


@pytest.mark.parametrize("overrides", [LARGE, (*EXPERTS, "cluster=h100")])
def test_printed_overrides_compose_to_a_valid_configuration(overrides):
    config = load_config(overrides)
    ranking = Ranking(config, planner_input_of(config), load_coefficients())
    for candidate in ranking.best(6):
        chosen = load_config([*overrides, *candidate.overrides])
        assert not list(check_planner_input(chosen))
        assert validate(chosen, world_size=planner_input_of(config).world_size, ignore=DATA_PATHS) == []


def test_layouts_are_ranked_by_speed_and_fit():
    config = load_config(LARGE)
    setting = planner_input_of(config)
    ranking = Ranking(config, setting, load_coefficients())
    speeds = [candidate.tokens_per_second for candidate in ranking.everything(200)]
    assert speeds == sorted(speeds, reverse=True)
    limit = FULL_SHARE * float(setting.machine.memory_bytes)
    assert all(candidate.memory_bytes <= limit for candidate in ranking.everything(200))
    best = ranking.best(10)
    assert len({candidate.sizes for candidate in best}) == len(best) == 10
    front = ranking.pareto_front()
    assert front[0].sizes == best[0].sizes
    assert np.all(np.diff([candidate.memory_bytes for candidate in front]) < 0)
    assert np.all(np.diff([candidate.tokens_per_second for candidate in front]) <= 0)


def test_every_refused_layout_comes_with_the_nearest_valid_ones():
    config = load_config(LARGE)
    ranking = Ranking(config, planner_input_of(config), load_coefficients())
    refusals = list(ranking.refusals())
    assert any("memory" in refusal.reason for refusal in refusals)
    assert any("does not divide" in refusal.reason or "cannot be split" in refusal.reason for refusal in refusals)
    for refusal in refusals:
        assert len(refusal.nearest) == NUM_NEAREST
        assert all(near.memory_bytes <= FULL_SHARE * 80 * 2**30 for near in refusal.nearest)
    # All 70 B parameters on each device are refused for memory; what is near differs by one kind of parallelism.
    whole = next(refusal for refusal in refusals if refusal.layout == "pp2 dp16")
    assert all(near.sizes.tp * near.sizes.pp > 2 or "zero3" in near.engine for near in whole.nearest)


def test_tensor_parallelism_stays_within_the_links():
    config = load_config([*LARGE, "cluster.gpus_per_node=4", "cluster.num_nodes=8"])
    table, _ = enumerate_layouts(config, planner_input_of(config))
    assert table.tp.max() == 4
    rack = load_config([*LARGE, "cluster=gb200", "cluster.num_nodes=8"])
    table, _ = enumerate_layouts(rack, planner_input_of(rack))
    assert table.tp.max() == 8  # the key-value heads of the model
