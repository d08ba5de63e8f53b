"""Memory against the formulas of its sources, and against the schedules that are played through."""

import dataclasses

import numpy as np
import pytest

from launch.plan.coefficients import MemoryRates
from launch.plan.hardware import load_devices, load_frameworks
from launch.plan.job import Layout, ModelShape, TrainingJob, stack
from launch.plan.memory import (
    Stage,
    first_stage,
    last_stage,
    micro_batches_in_flight,
    predict_memory,
    predict_peak_memory,
    stage_parameters,
)
from launch.plan.timeline import play_schedule

PLAIN = MemoryRates(activations=1.0, logits=1.0, reserve=0.0, buffer_gib=0.0, context_gib=0.0)


def gpt(**changes: float) -> ModelShape:
    """GPT-3 175B as in Korthikanti et al., table 3."""
    hidden = 12288
    values = {
        "num_layers": 96,
        "hidden_size": hidden,
        "seq_length": 2048,
        "vocab_size": 51200,
        "num_attention_heads": 96,
        "query_width": hidden,
        "key_value_width": 2 * hidden,
        "attention_parameters": 4 * hidden**2,
        "ffn_hidden_size": 4 * hidden,
        "num_mlp_matrices": 2,
        "is_tied": 1,
        "position_rows": 0,
        "dropout_masks": 2,
    }
    return ModelShape(**(values | changes))


def layout(**changes: float) -> Layout:
    values = dict.fromkeys(("tp", "pp", "vp", "cp", "ep", "etp", "dp", "micro_batch_size", "num_microbatches"), 1)
    values |= {"sequence_parallel": 0, "recomputed_share": 0, "dropped_share": 0, "recomputes_core": 0}
    values |= {"zero_stage": 0}
    values |= {"optimizer_shards": 1, "weight_bytes": 2, "gradient_bytes": 4, "optimizer_bytes": 12}
    return Layout(**(values | changes))


def job(model: ModelShape, where: Layout, *, framework: str = "Megatron-LM (2022)") -> TrainingJob:
    machine = load_devices()["a100_80gb"].machine(number_format="bf16")
    return TrainingJob(model=model, layout=where, machine=machine, framework=load_frameworks()[framework])


@pytest.mark.parametrize(
    ("changes", "per_layer"),
    [
        # Korthikanti et al. 2022, table 2, in units of s b h.
        ({}, lambda s, h, a, t: 34 + 5 * a * s / h),
        ({"tp": 8}, lambda s, h, a, t: 10 + 24 / t + 5 * a * s / (h * t)),
        ({"tp": 8, "sequence_parallel": 1}, lambda s, h, a, t: 34 / t + 5 * a * s / (h * t)),
        ({"tp": 8, "sequence_parallel": 1, "recomputes_core": 1}, lambda s, h, a, t: 34 / t),
        ({"dropped_share": 1}, lambda s, h, a, t: 2),
    ],
)
def test_activations_of_a_layer_are_those_of_korthikanti(changes, per_layer):
    model, where = gpt(), layout(micro_batch_size=4, **changes)
    size = 2048 * 4 * 12288
    # Of two pipelines that differ by one layer, the difference is what one layer keeps.
    more, less = (
        predict_memory(
            job(model, where), PLAIN, Stage(index=0, num_layers=n, has_embedding=0, has_output=0)
        ).activations
        for n in (3, 2)
    )
    assert more - less == pytest.approx(size * per_layer(2048, 12288, 96, where.tp))


def test_inputs_of_fp8_products_are_kept_in_8_bits():
    # Of 34 s b h without scores: two norms' outputs, and the inputs of both of the MLP's products, at one byte in place
    # of two; attention's output, which attention itself keeps in 16 bits, once more.
    model, where = gpt(dropout_masks=0), layout()
    stages = [Stage(index=0, num_layers=n, has_embedding=0, has_output=0) for n in (3, 2)]

    def kept(number_format: str, framework: str) -> float:
        machine = load_devices()["h100_sxm"].machine(number_format=number_format)
        case = TrainingJob(model=model, layout=where, machine=machine, framework=load_frameworks()[framework])
        more, less = (predict_memory(case, PLAIN, stage).activations for stage in stages)
        return (more - less) / (2048 * 12288)

    assert kept("bf16", "trireme-megatron") == pytest.approx(32)
    assert kept("fp8", "trireme-megatron") == pytest.approx(32 - 2 - 4 + 1)
    assert kept("fp8", "torchtitan") == pytest.approx(32)  # float8 casts what it has kept in 16 bits


def test_a_gate_in_two_steps_keeps_its_activation_as_well():
    stages = [Stage(index=0, num_layers=n, has_embedding=0, has_output=0) for n in (3, 2)]

    def kept(matrices: int, keeps: int) -> float:
        traits = dataclasses.replace(load_frameworks()["nanotron"], keeps_activated_gate=keeps)
        case = dataclasses.replace(job(gpt(num_mlp_matrices=matrices), layout()), framework=traits)
        more, less = (predict_memory(case, PLAIN, stage).activations for stage in stages)
        return (more - less) / (2048 * 12288)

    assert load_frameworks()["nanotron"].keeps_activated_gate == 1
    # act(gate), as wide as the MLP, which is four times the hidden size here, in two bytes.
    assert kept(3, 1) - kept(3, 0) == pytest.approx(2 * 4)
    assert kept(2, 1) == kept(2, 0)


def test_unused_memory_is_what_the_device_has_left():
    rates = dataclasses.replace(PLAIN, reserve=0.4)
    case = job(gpt(num_layers=1), layout(micro_batch_size=8, zero_stage=1, optimizer_shards=64))
    free = predict_peak_memory(case, rates)
    dynamic = float(free.activations + free.logits)
    assert float(free.reserve) == pytest.approx(0.4 * dynamic)
    needed = float(free.total - free.reserve)

    def reserve(memory_bytes: float) -> float:
        machine = dataclasses.replace(case.machine, memory_bytes=memory_bytes)
        return float(predict_peak_memory(dataclasses.replace(case, machine=machine), rates).reserve)

    assert reserve(needed + 0.25 * dynamic) == pytest.approx(0.25 * dynamic)
    # What a run needs at least does not depend on what there is.
    assert reserve(needed) == reserve(needed / 2) == pytest.approx(0.1 * dynamic)


def test_a_parameter_takes_18_bytes_and_zero_shards_them():
    model = gpt()
    stage = first_stage(model, layout())
    dense, _ = stage_parameters(model, layout(), stage)
    assert dense == pytest.approx(174.6e9, rel=0.01)
    for stage_number, expected in ((0, 18), (1, 6 + 12 / 64), (2, 2 + 16 / 64), (3, 18 / 64)):
        shards = 64 if stage_number else 1
        where = layout(dp=64, zero_stage=stage_number, optimizer_shards=shards)
        memory = predict_memory(job(model, where), PLAIN, stage)
        assert memory.weights + memory.gradients + memory.optimizer == pytest.approx(expected * dense)


@pytest.mark.parametrize(
    ("num_stages", "num_chunks", "num_microbatches"), [(4, 1, 8), (4, 1, 2), (4, 2, 8), (3, 4, 12)]
)
def test_micro_batches_in_flight_are_those_of_the_schedule(num_stages, num_chunks, num_microbatches):
    done = play_schedule(
        [1.0] * num_stages, [2.0] * num_stages, num_chunks=num_chunks, num_microbatches=num_microbatches
    )
    where = layout(pp=num_stages, vp=num_chunks, num_microbatches=num_microbatches)
    for index in range(num_stages):
        kept = most = 0
        for work in (work for work in done if work.stage == index):
            # A pass holds its chunk's activations from its beginning on; a backward pass frees them at its end.
            kept += 0 if work.is_backward else 1
            most = max(most, kept)
            kept -= 1 if work.is_backward else 0
        stage = Stage(index=index, num_layers=1, has_embedding=0, has_output=0)
        assert most == int(micro_batches_in_flight(where, stage))


def test_tied_tables_are_on_both_ends_of_a_pipeline_and_once_without():
    model, table = gpt(), 51200 * 12288
    for where in (layout(), layout(pp=2)):
        parts = [stage_parameters(model, where, end(model, where))[0] for end in (first_stage, last_stage)]
        layers = 96 * 12 * 12288**2 / where.pp
        assert parts == pytest.approx([layers + table] * 2)
    untied = dataclasses.replace(model, is_tied=0)
    assert stage_parameters(untied, layout(), first_stage(untied, layout()))[0] == pytest.approx(
        96 * 12 * 12288**2 + 2 * table
    )


def test_a_head_of_a_task_has_neither_an_output_table_nor_logits():
    model = gpt(has_output_layer=0, is_tied=0)
    for where in (layout(), layout(pp=2)):
        tables = 51200 * 12288 if where.pp == 1 else 0
        stage = last_stage(model, where)
        assert stage_parameters(model, where, stage)[0] == pytest.approx(96 * 12 * 12288**2 / where.pp + tables)
    wide = gpt(has_output_layer=0, vocab_size=500_000, num_layers=1)
    assert predict_peak_memory(job(wide, layout(micro_batch_size=8)), PLAIN).logits == 0


def test_the_larger_of_loss_and_layer_counts():
    few, many = (
        predict_peak_memory(job(gpt(vocab_size=size, num_layers=1), layout(micro_batch_size=8)), PLAIN)
        for size in (1000, 500_000)
    )
    assert few.logits == 0 and many.logits > 0
    assert few.activations > many.activations


def test_many_cases_are_predicted_as_each_alone():
    cases = [job(gpt(), layout(tp=tp, pp=pp, num_microbatches=16)) for tp in (1, 8) for pp in (1, 4)]
    together = predict_peak_memory(stack(cases), PLAIN).total
    assert np.allclose(together, [predict_peak_memory(case, PLAIN).total for case in cases])
