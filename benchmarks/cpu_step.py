"""Our one-process CPU training step against transformers' LlamaForCausalLM: same shape, formats, optimizer, threads.

Both run in this process, in alternating rounds, so that a noisy machine is noisy for both. One step is forward,
backward, clipping by the global norm and fused AdamW. In bf16 both keep fp32 master weights and moments and add up
gradients in fp32. Prints one JSON line.

    python benchmarks/cpu_step.py [--rounds 9] [--threads 2]
"""

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable

from trainer.parallel import cpu_shim

cpu_shim.install()  # before Megatron-Core is imported below

import torch  # noqa: E402
import transformers  # noqa: E402

from benchmarks.shapes import LLAMA_32M  # noqa: E402
from trainer.build import wire_model  # noqa: E402
from trainer.config.engine import DeepSpeedEngineConfig  # noqa: E402
from trainer.config.optim import OptimizerConfig, PrecisionConfig  # noqa: E402
from trainer.config.parallel import ParallelConfig  # noqa: E402
from trainer.data.micro_batch import MicroBatch  # noqa: E402
from trainer.engine.deepspeed.engine import DeepSpeedEngine  # noqa: E402
from trainer.model.layer_spec import torch_dtype  # noqa: E402
from trainer.parallel.world import World, start_world, stop_world  # noqa: E402

SHAPE = LLAMA_32M
BATCH_SIZE = 4
OPTIMIZER = OptimizerConfig(lr=1e-4)
Step = Callable[[torch.Tensor], float]


def main() -> None:
    """Measure both precisions and print one JSON line."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.ERROR)
    world = start_world(ParallelConfig(), timeout_seconds=600, seed=1)
    result: dict[str, object] = {
        "benchmark": "cpu_step",
        "peer": f"transformers {transformers.__version__} LlamaForCausalLM, sdpa",
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "steps_per_round": arguments.steps,
        "parameters": sum(p.numel() for p in transformers.LlamaForCausalLM(_peer_config()).parameters()),
        "tokens_per_step": BATCH_SIZE * SHAPE.seq_length,
    }
    for precision in ("fp32", "bf16"):
        result[precision] = _compare(
            _our_step(world, precision), _peer_step(precision), rounds=arguments.rounds, steps=arguments.steps
        )
    stop_world()
    print(json.dumps(result), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="alternating rounds per precision")
    parser.add_argument("--steps", type=int, default=4, help="steps of each side per round")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    return parser.parse_args()


def _compare(ours: Step, peer: Step, *, rounds: int, steps: int) -> dict[str, object]:
    tokens = torch.randint(0, SHAPE.vocab_size or 0, (BATCH_SIZE, SHAPE.seq_length + 1))
    for step in (ours, peer):
        step(tokens)
    ours_seconds, peer_seconds = [], []
    for index in range(rounds):
        order = ((ours, ours_seconds), (peer, peer_seconds))
        for step, seconds in order if index % 2 == 0 else order[::-1]:
            started = time.perf_counter()
            for _ in range(steps):
                step(tokens)
            seconds.append((time.perf_counter() - started) / steps)
    ratios = [theirs / mine for mine, theirs in zip(ours_seconds, peer_seconds, strict=True)]
    tokens_per_step = BATCH_SIZE * SHAPE.seq_length
    return {
        "median_ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "our_tokens_per_second": round(tokens_per_step / statistics.median(ours_seconds), 1),
        "peer_tokens_per_second": round(tokens_per_step / statistics.median(peer_seconds), 1),
    }


def _our_step(world: World, precision: str) -> Step:
    chunks = wire_model(
        SHAPE,
        parallel=ParallelConfig(),
        precision=PrecisionConfig(params_dtype=precision),
        padded_vocab_size=SHAPE.vocab_size or 0,
        world=world,
        seed=1,
    )
    # One process has nothing to shard; in bf16 stage 1 is what keeps fp32 master weights.
    zero_stage = 1 if precision == "bf16" else 0
    engine = DeepSpeedEngine(
        chunks,
        config=DeepSpeedEngineConfig(zero_stage=zero_stage),
        optimizer=OPTIMIZER,
        precision=PrecisionConfig(params_dtype=precision),
        groups=world.groups,
        device=world.device,
    )
    mask = torch.ones(BATCH_SIZE, SHAPE.seq_length)
    positions = torch.arange(SHAPE.seq_length).expand(BATCH_SIZE, -1)

    def step(tokens: torch.Tensor) -> float:
        batch = MicroBatch(
            tokens=tokens[:, :-1], labels=tokens[:, 1:], loss_mask=mask, position_ids=positions, sample_ids=()
        )
        return engine.train_step([batch], learning_rate=OPTIMIZER.lr).loss

    return step


def _peer_config() -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        num_hidden_layers=SHAPE.num_layers,
        hidden_size=SHAPE.hidden_size,
        intermediate_size=SHAPE.ffn_hidden_size,
        num_attention_heads=SHAPE.num_attention_heads,
        num_key_value_heads=SHAPE.num_query_groups,
        vocab_size=SHAPE.vocab_size,
        max_position_embeddings=SHAPE.seq_length,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
        use_cache=False,
    )


def _peer_step(precision: str) -> Step:
    model = transformers.LlamaForCausalLM(_peer_config()).to(torch_dtype(precision)).train()
    weights = list(model.parameters())
    masters = weights if precision == "fp32" else [weight.detach().float().requires_grad_() for weight in weights]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in masters if p.ndim > 1], "weight_decay": OPTIMIZER.weight_decay},
            {"params": [p for p in masters if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=OPTIMIZER.lr,
        betas=(OPTIMIZER.adam_beta1, OPTIMIZER.adam_beta2),
        eps=OPTIMIZER.adam_eps,
        fused=True,
    )

    def step(tokens: torch.Tensor) -> float:
        output = model(input_ids=tokens[:, :-1], labels=tokens[:, :-1], shift_labels=tokens[:, 1:].contiguous())
        output.loss.backward()
        if masters is not weights:
            for master, weight in zip(masters, weights, strict=True):
                master.grad = weight.grad.float() if weight.grad is not None else None
                weight.grad = None
        torch.nn.utils.clip_grad_norm_(masters, OPTIMIZER.clip_grad)
        optimizer.step()
        optimizer.zero_grad()
        if masters is not weights:
            with torch.no_grad():
                torch._foreach_copy_(weights, masters)
        return float(output.loss)

    return step


if __name__ == "__main__":
    main()
