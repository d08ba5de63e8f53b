"""Our one-GPU training step against transformers' LlamaForCausalLM (sdpa, torch.compile'd): 0.5 to 8 B, bf16.

A step is forward, backward, clipping by the global norm and AdamW with fp32 weights and moments; at 8 B, whose
optimizer state no single GPU holds, forward and backward alone. The sides take turns, each round the other first, and
have the GPU to themselves: a side is built, warmed up, timed and released before the next. Prints one JSON line per
shape: tokens per second, model FLOP/s (docs of `trainer.config.model_math`: causal attention counts half, recomputation
not at all) over the device's bf16 peak, and peak memory as torch's allocator counts it. Beside the 8 B shape stand
torchtitan's published figures.

    python -m benchmarks.gpu_step [--shapes 0.5B,1B,3B,8B] [--rounds 3] [--steps 10]
    python -m benchmarks.gpu_step --device cpu --shapes tiny       the same path without a GPU
"""

import argparse
import json
import logging
import os
import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.gpu_step_sides import Measured, Shape, Sides

GOAL_MFU = 0.55

TORCHTITAN = {
    "model": "Llama 3.1 8B, bf16, 8,192 tokens, local batch of 2",
    "layout": "FSDP over 8 GPUs, torch.compile, selective activation checkpointing, with the optimizer",
    "device": "H100 with 96 GB of HBM2e, limited to 500 W",
    "tokens_per_second": 6667,
    "peak_memory_gib": 77.0,
    "own_mfu": "33 % to 39 %, without and with torch.compile; over the SXM peak, attention not halved",
    "source": "pytorch/torchtitan benchmarks/llama3_h100_202412_torchtitan.md, table 1 (torch of 2024-12-23)",
}
"""Published, not measured here."""


def main() -> None:
    """Measure every shape and print its line."""
    arguments = _arguments()
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    logging.disable(logging.ERROR)  # libraries log to stdout while they are imported
    # Late: which device there is decides whether Megatron-Core sees the CPU view of torch.
    from benchmarks import gpu_step_sides  # noqa: PLC0415 - see above

    names = arguments.shapes.split(",")
    shapes = gpu_step_sides.SHAPES
    if unknown := [name for name in names if name not in shapes]:
        raise SystemExit(f"--shapes={arguments.shapes}: {unknown[0]} is none of {', '.join(shapes)}")
    with gpu_step_sides.Sides(peer_backend=arguments.peer_backend) as sides:
        if arguments.device == "cuda" and sides.device.type != "cuda":
            raise SystemExit("There is no GPU here; --device cpu --shapes tiny runs the same path without one")
        for name in names:
            print(json.dumps(compare(name, shapes[name], sides, arguments)), flush=True)


def compare(name: str, shape: "Shape", sides: "Sides", arguments: argparse.Namespace) -> dict[str, object]:
    """Let both sides take turns with a shape; returns its line."""
    measured: dict[str, list[Measured]] = {"ours": [], "peer": []}
    for index in range(arguments.rounds):
        order = ("ours", "peer") if index % 2 == 0 else ("peer", "ours")
        for side in order:
            measured[side].append(sides.measure(side, shape, num_steps=arguments.steps, num_warm_up=arguments.warm_up))
    line: dict[str, object] = {
        "benchmark": "gpu_step",
        "shape": name,
        "device": sides.device_name,
        "parameters": sides.count_parameters(shape),
        "tokens_per_step": shape.tokens_per_step,
        "seq_length": shape.model.seq_length,
        "precision": "bf16",
        "has_optimizer": shape.has_optimizer,
        "recomputes_layers": shape.recomputes_layers,
        "peer": sides.peer_name,
        "rounds": arguments.rounds,
        "steps_per_round": arguments.steps,
        "goal_mfu": GOAL_MFU,
        **{f"{side}_figures": _figures(runs, shape, sides) for side, runs in measured.items()},
    }
    pairs = list(zip(measured["ours"], measured["peer"], strict=True))
    if all(one.seconds and other.seconds for one, other in pairs):
        ratios = [other.seconds / one.seconds for one, other in pairs if one.seconds and other.seconds]
        line |= {"median_ratio": round(statistics.median(ratios), 3), "ratios": [round(ratio, 3) for ratio in ratios]}
    if name == "8B":
        flops = sides.count_flops_per_token(shape) * float(TORCHTITAN["tokens_per_second"])  # type: ignore[arg-type]
        line["torchtitan_published"] = TORCHTITAN | {"model_tflops_counted_as_here": round(flops / 1e12, 1)}
    return line


def _figures(runs: "list[Measured]", shape: "Shape", sides: "Sides") -> dict[str, object]:
    """What one side reached: the median of its rounds, the highest of its peaks."""
    seconds = [run.seconds for run in runs if run.seconds is not None]
    if len(seconds) < len(runs):
        return {"error": next(run.error for run in runs if run.error is not None)}
    tokens_per_second = shape.tokens_per_step / statistics.median(seconds)
    tflops = tokens_per_second * sides.count_flops_per_token(shape) / 1e12
    peaks = [run.peak_memory_bytes for run in runs if run.peak_memory_bytes is not None]
    return {
        "tokens_per_second": round(tokens_per_second, 1),
        "model_tflops": round(tflops, 6),
        "mfu": round(tflops / sides.peak_tflops, 4) if sides.peak_tflops else None,
        "peak_memory_gib": round(max(peaks) / 2**30, 2) if peaks else None,
        "last_loss": round(runs[-1].last_loss or 0.0, 4),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="0.5B,1B,3B,8B", help="names of shapes, separated by commas")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="what to measure on")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds per shape")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each side per round")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before them, in which kernels are compiled")
    parser.add_argument("--peer-backend", default="inductor", help="back end of torch.compile for transformers' model")
    return parser.parse_args()


if __name__ == "__main__":
    main()
