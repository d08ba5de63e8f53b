"""Step time against counted operations, and against the schedules that are played through."""

import dataclasses

import numpy as np
import pytest

from launch.plan.coefficients import Rates, load_coefficients
from launch.plan.from_config import dropped_share, recomputed_share
from launch.plan.hardware import load_devices, load_frameworks
from launch.plan.job import Layout, TrainingJob, shape_of
from launch.plan.predict import predict, predict_timeline
from launch.plan.step_time import layer_time, predict_step_time
from trainer.config.load import load_config
from trainer.config.model import ModelConfig
from trainer.config.model_math import model_flops_per_token
from trainer.config.parallel import ParallelConfig

IDEAL = Rates(
    gemm=1,
    gemm_16bit=1,
    attention=1,
    attention_kernel=1,
    memory=1e9,
    link=1,
    network=1,
    framework=1,
    expert_gemm=1,
    narrow_width=0,
    small_area=0,
    launch_seconds=0,
    expert_launch_seconds=0,
    step_seconds=0,
    straggling=0,
    rank_seconds=0,
)
"""Products and attention at peak, memory as good as free: what is left is operations."""


def layout(**changes: float) -> Layout:
    values = dict.fromkeys(("tp", "pp", "vp", "cp", "ep", "etp", "dp", "micro_batch_size", "num_microbatches"), 1)
    values |= {"sequence_parallel": 0, "recomputed_share": 0, "dropped_share": 0, "recomputes_core": 0}
    values |= {"zero_stage": 0}
    values |= {"optimizer_shards": 1, "weight_bytes": 2, "gradient_bytes": 4, "optimizer_bytes": 12}
    return Layout(**(values | changes))


def model(**changes: object) -> ModelConfig:
    values = {
        "num_layers": 8,
        "hidden_size": 1024,
        "ffn_hidden_size": 2816,
        "num_attention_heads": 16,
        "num_query_groups": 4,
        "seq_length": 2048,
        "vocab_size": 32000,
    }
    return ModelConfig(**(values | changes))


def job(
    config: ModelConfig, where: Layout, *, framework: str = "trireme-megatron", device: str = "h100_sxm"
) -> TrainingJob:
    machine = load_devices()[device].machine(number_format="bf16")
    shape = shape_of(config, vocab_size=32000)
    return TrainingJob(model=shape, layout=where, machine=machine, framework=load_frameworks()[framework])


@pytest.mark.parametrize(
    "config",
    [
        model(),
        model(activation="gelu", untie_embeddings_and_output_weights=False),
        model(num_moe_experts=8, moe_ffn_hidden_size=512, moe_shared_expert_intermediate_size=256),
        model(num_moe_experts=8, moe_layer_freq=[0, 1]),
    ],
)
def test_computing_at_peak_takes_the_counted_operations(config):
    case = job(config, layout(num_microbatches=4))
    counted = model_flops_per_token(config, 32000) * case.tokens_per_step / case.machine.flops
    attention = 6 * config.num_layers * 1024 * 2048 * case.tokens_per_step / case.machine.flops
    # Fused attention computes the scores again in its backward pass: 3.5 times the forward operations instead of 3.
    expected = counted + attention * (3.5 / 3 - 1)
    assert predict_step_time(case, IDEAL).compute == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("share", "more"), [(1.0, 1.0), (0.5, 0.5)])
def test_recomputation_repeats_a_share_of_the_forward_pass(share, more):
    case = job(model(), layout(num_microbatches=4, recomputed_share=share))
    forward = layer_time(case, IDEAL).forward * 8 * 4
    assert predict_step_time(case, IDEAL).recompute == pytest.approx(more * forward)


def test_what_is_not_parallel_is_not_exchanged():
    times = predict_step_time(job(model(), layout(num_microbatches=4)), IDEAL)
    names = ("tensor_parallel", "context_parallel", "expert_parallel", "pipeline_parallel", "data_parallel", "bubble")
    assert [float(getattr(times, name)) for name in names] == [0] * len(names)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"tp": 4, "sequence_parallel": 1}, "tensor_parallel"),
        ({"cp": 4}, "context_parallel"),
        ({"pp": 4}, "pipeline_parallel"),
        ({"dp": 4, "zero_stage": 1, "optimizer_shards": 4}, "data_parallel"),
        ({"dp": 4, "zero_stage": 3, "optimizer_shards": 4}, "data_parallel"),
    ],
)
def test_each_kind_of_parallelism_pays_for_its_exchange_by_the_rate_of_its_link(change, part):
    case = job(model(), layout(num_microbatches=8, **change), framework="trireme-deepspeed")
    slow = dataclasses.replace(case, machine=dataclasses.replace(case.machine, link_rate=case.machine.link_rate / 2))
    seconds, slower = (float(getattr(predict_step_time(each, IDEAL), part)) for each in (case, slow))
    assert seconds > 0
    assert slower == pytest.approx(2 * seconds, rel=0.01)


def test_groups_that_leave_the_host_take_its_network():
    where = layout(tp=8, dp=4, num_microbatches=4, zero_stage=1, optimizer_shards=4)
    case = job(model(), where, framework="trireme-deepspeed")
    inside = dataclasses.replace(case, machine=dataclasses.replace(case.machine, link_domain=64))
    outside, within = (float(predict_step_time(each, IDEAL).data_parallel) for each in (case, inside))
    assert outside / within == pytest.approx(450 / 50, rel=0.01)


def test_gradients_without_a_sharded_optimizer_are_reduced_and_gathered():
    where = {"dp": 8, "num_microbatches": 1, "gradient_bytes": 4, "weight_bytes": 2}
    whole = job(model(), layout(**where), framework="trireme-deepspeed")
    sharded = job(model(), layout(**where, zero_stage=1, optimizer_shards=8), framework="trireme-deepspeed")
    seconds = [float(predict_step_time(each, IDEAL).data_parallel) for each in (whole, sharded)]
    # 4 bytes there and back, or 4 bytes there and a weight's 2 back.
    assert seconds[0] / seconds[1] == pytest.approx(8 / 6)


def test_scores_in_memory_are_passed_over_backward_once_and_a_half_as_often():
    rates = dataclasses.replace(IDEAL, memory=1.0)
    time = layer_time(job(model(), layout(), framework="Megatron-DeepSpeed"), rates)
    scores = 2048 * 2048 * 16
    product = 4 * 2048 * 2048 * 1024 / 989.4e12
    assert time.attention == pytest.approx(product + 13 * scores / 3352e9)
    assert time.attention_backward == pytest.approx(2 * product + 19 * scores / 3352e9)


def test_experts_are_sent_to_and_from_other_devices():
    config = model(num_moe_experts=8, moe_ffn_hidden_size=512)
    times = predict_step_time(job(config, layout(dp=8, ep=8, num_microbatches=4)), IDEAL)
    tokens, copies = 2048, 2
    # Dispatch and combine, forward and backward, of the tokens whose expert is on one of the 7 other devices.
    sent = 4 * 4 * 8 * tokens * copies * 7 / 8 * 1024 * 2
    assert float(times.expert_parallel) == pytest.approx(sent / 450e9)


def host_bound(number_format: str, **traits: float) -> float:
    """Return launches of one layer with experts, as the time of a step in which each takes a second."""
    case = job(model(num_layers=1, num_moe_experts=8, moe_ffn_hidden_size=512), layout(ep=2, dp=2, etp=1))
    machine = load_devices()["h100_sxm"].machine(number_format=number_format)
    framework = dataclasses.replace(case.framework, **traits)
    case = dataclasses.replace(case, machine=machine, framework=framework)
    return float(predict_step_time(case, dataclasses.replace(IDEAL, expert_launch_seconds=1.0)).compute)


def test_each_expert_of_a_device_is_launched_by_its_host():
    # Of 8 experts on 2 devices, 4: two products in three passes each, and 20 kernels more to round to fp8.
    assert host_bound("bf16") == pytest.approx(275 + 4 * 6, abs=0.1)
    assert host_bound("fp8") == pytest.approx(275 + 4 * 26, abs=0.1)
    assert host_bound("fp8", fuses_experts=1) == pytest.approx(275 + 26, abs=0.1)


def test_graphs_replay_launches_of_a_layer_and_of_experts_only_as_a_whole_step():
    assert host_bound("bf16", cuda_graphs=0.4) == pytest.approx(0.6 * 275 + 4 * 6, abs=0.1)
    assert host_bound("bf16", cuda_graphs=1) < 0.1


def test_inputs_of_experts_are_rounded_unless_their_kernel_does_it():
    rates = dataclasses.replace(IDEAL, memory=1.0)
    config = model(num_moe_experts=8, moe_ffn_hidden_size=512)

    def passes(number_format: str, fuses_experts: int) -> float:
        case = job(config, layout())
        machine = load_devices()["h100_sxm"].machine(number_format=number_format)
        framework = dataclasses.replace(case.framework, fuses_experts=fuses_experts)
        return float(layer_time(dataclasses.replace(case, machine=machine, framework=framework), rates).passes)

    # Two copies of each token and the experts' activations are rounded, with three values moved for one, in two bytes
    # by kernels of 1.2 times the traffic of fused ones; a token before attention is rounded in both cases.
    value = 2048 * 2 * 1.2 / 3352e9
    copies, activations, hidden = 2 * 1024, 2 * 512, 1024
    assert passes("fp8", 0) - passes("bf16", 0) == pytest.approx(3 * (hidden + copies + activations) * value)
    assert passes("fp8", 1) - passes("bf16", 1) == pytest.approx(3 * hidden * value)
    assert passes("bf16", 0) - passes("bf16", 1) == pytest.approx((3 * activations + 6 * copies) / 2 * value)


def test_recomputing_an_mlp_takes_a_smaller_share_of_a_long_sequence_but_saves_as_much():
    parallel = ParallelConfig(recompute_granularity="selective", recompute_modules=["mlp"])
    short, long = (model(seq_length=length) for length in (1024, 65536))
    mlp, attention = 3 * 1024 * 2816, 2.5 * 1024**2
    for config in (short, long):
        assert dropped_share(config, parallel) == pytest.approx(mlp / (mlp + attention))
        scores = config.seq_length * 1024
        assert recomputed_share(config, parallel) == pytest.approx(mlp / (mlp + attention + scores))


@pytest.mark.parametrize("num_chunks", [None, 2])
def test_bubble_is_that_of_the_schedule(num_chunks):
    config = load_config(
        [
            *("model=llama_8b", "cluster=h100", "precision=bf16", "engine=megatron"),
            *("parallel.pipeline_model_parallel_size=4", "training.global_batch_size=16"),
            f"parallel.virtual_pipeline_model_parallel_size={'null' if num_chunks is None else num_chunks}",
        ]
    )
    coefficients = load_coefficients()
    times = predict(config, coefficients).step_time
    timeline = predict_timeline(config, coefficients)
    end = max(work.end for work in timeline)
    # The timeline leaves out launches, the adding up of gradients, and what a step has once.
    assert times.compute + times.bubble == pytest.approx(end, rel=0.05)


def test_a_step_is_the_sum_of_its_parts_and_many_cases_are_predicted_at_once():
    where = layout(tp=np.array([1.0, 2.0, 4.0]), num_microbatches=np.array([4.0, 8.0, 16.0]))
    times = predict_step_time(job(model(), where), IDEAL)
    assert times.total.shape == (3,)
    assert np.allclose(times.total, sum(np.broadcast_to(value, 3) for value in vars(times).values()))


def test_attention_takes_the_kernel_that_a_die_has_for_a_framework():
    shipped = load_coefficients()
    share = {
        (device, framework): shipped.rates(device=device, number_format="bf16", framework=framework)
        for device in ("a100_80gb", "h100_sxm", "b200")
        for framework in ("trireme-megatron", "Megatron-Bridge", "torchtitan", "llm-foundry/Composer FSDP")
    }
    for framework in ("trireme-megatron", "Megatron-Bridge"):
        # cuDNN's on Hopper and Blackwell: 1.5 to 2 times FlashAttention 2 there, and the same as it on Ampere.
        for device in ("h100_sxm", "b200"):
            assert 1.4 < share[device, framework].attention_kernel < 2.1
        assert share["a100_80gb", framework].attention_kernel == 1
    for device in ("a100_80gb", "h100_sxm"):
        assert share[device, "torchtitan"].attention_kernel == 1
        assert share[device, "llm-foundry/Composer FSDP"].attention_kernel < 1
