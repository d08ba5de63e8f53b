"""Our generation of text on CPU against transformers' generate: same weights, same greedy tokens, same threads.

Both run in this process, in alternating rounds, and their processor time counts, so that a noisy machine is noisy for
both. Also measures the server of a run, if one is given: tokens per second of wall time with one request at a time and
with eight at once. Prints one JSON line.

    python -m benchmarks.generate [--rounds 7] [--threads 1] [--server RUN_DIRECTORY]
"""

import argparse
import concurrent.futures
import dataclasses
import json
import logging
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from trainer.parallel import cpu_shim

cpu_shim.install()  # before Megatron-Core is imported below

import torch  # noqa: E402
import transformers  # noqa: E402

from benchmarks.shapes import LLAMA_32M  # noqa: E402
from trainer.build import wire_model  # noqa: E402
from trainer.config.optim import PrecisionConfig  # noqa: E402
from trainer.config.parallel import ParallelConfig  # noqa: E402
from trainer.inference.generator import Generator  # noqa: E402
from trainer.inference.model_runner import ModelRunner  # noqa: E402
from trainer.inference.request import GenerationRequest  # noqa: E402
from trainer.inference.sampling import SamplingConfig  # noqa: E402
from trainer.parallel.world import World, start_world, stop_world  # noqa: E402

SHAPE = dataclasses.replace(LLAMA_32M, seq_length=1024)
NEW_TOKENS = 64
LENGTHS = {
    "batch_1": [128],
    "batch_1_long_prompt": [384],
    "batch_8": [128] * 8,
    "batch_8_unequal_prompts": [5, 17, 40, 64, 80, 99, 120, 128],
}
"""Tokens of the prompts, by case."""
Generate = Callable[[list[list[int]]], list[list[int]]]


class _NoText:
    """A tokenizer for a benchmark that looks at ids only."""

    def decode(self, ids: object) -> str:
        return ""


def main() -> None:
    """Measure all cases and print one JSON line."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.ERROR)
    world = start_world(ParallelConfig(), timeout_seconds=600, seed=1)
    model = _our_model(world)
    sides: dict[str, Generate] = {"peer": _peer_generate(model), "ours": _our_generate(model, world)}
    generator = torch.Generator().manual_seed(0)
    result: dict[str, object] = {
        "benchmark": "generate",
        "peer": f"transformers {transformers.__version__} LlamaForCausalLM.generate, sdpa",
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "parameters": sum(
            parameter.numel() for parameter in transformers.LlamaForCausalLM(_peer_config()).parameters()
        ),
        "new_tokens": NEW_TOKENS,
    }
    for name, lengths in LENGTHS.items():
        prompts = [
            torch.randint(1, SHAPE.vocab_size or 0, (length,), generator=generator).tolist() for length in lengths
        ]
        result[name] = _compare(sides, prompts, rounds=arguments.rounds)
    stop_world()
    if arguments.server is not None:
        result["server"] = _measure_server(arguments.server, threads=arguments.threads)
    print(json.dumps(result), flush=True)


def _compare(sides: dict[str, Generate], prompts: list[list[int]], *, rounds: int) -> dict[str, Any]:
    """Return tokens per second of processor time of both sides, and whether they write the same."""
    texts = {name: generate(prompts) for name, generate in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, generate in sides.items():
            begin = time.process_time()
            generate(prompts)
            seconds[name].append(time.process_time() - begin)
    num_tokens = len(prompts) * NEW_TOKENS
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = sorted(theirs / ours for theirs, ours in zip(seconds["peer"], seconds["ours"], strict=True))
    return {
        "same_tokens": texts["peer"] == texts["ours"],
        "tokens_per_cpu_second": {name: round(num_tokens / value, 1) for name, value in median.items()},
        "speed_ratio": round(statistics.median(ratios), 3),
        "speed_ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)],
    }


def _our_model(world: World) -> Any:
    (model,) = wire_model(
        SHAPE,
        parallel=ParallelConfig(),
        precision=PrecisionConfig(),
        padded_vocab_size=SHAPE.vocab_size or 0,
        world=world,
        seed=1,
        reset_position_ids=True,
    )
    return model.eval()


def _our_generate(model: Any, world: World) -> Generate:
    runner = ModelRunner(model, world=world, num_rows=8, max_length=SHAPE.seq_length)

    def generate(prompts: list[list[int]]) -> list[list[int]]:
        generator = Generator(
            runner,
            tokenizer=_NoText(),  # type: ignore[arg-type]
            vocab_size=SHAPE.vocab_size or 0,
            context_length=SHAPE.seq_length,
        )
        greedy = SamplingConfig(temperature=0.0)
        texts: list[list[int]] = [[] for _ in prompts]
        for piece in generator.run(
            [GenerationRequest(prompt=tuple(ids), max_new_tokens=NEW_TOKENS, sampling=greedy) for ids in prompts]
        ):
            texts[piece.request_id] += piece.tokens
        return texts

    return generate


def _peer_config() -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        vocab_size=SHAPE.vocab_size,
        hidden_size=SHAPE.hidden_size,
        intermediate_size=SHAPE.ffn_hidden_size,
        num_hidden_layers=SHAPE.num_layers,
        num_attention_heads=SHAPE.num_attention_heads,
        num_key_value_heads=SHAPE.num_query_groups,
        max_position_embeddings=SHAPE.seq_length,
        rms_norm_eps=SHAPE.norm_epsilon,
        rope_theta=SHAPE.rotary_base,
        tie_word_embeddings=not SHAPE.untie_embeddings_and_output_weights,
        attn_implementation="sdpa",
    )


def _peer_generate(model: Any) -> Generate:
    """Build transformers' model with copies of our weights, which must not be packed yet."""
    peer = transformers.LlamaForCausalLM(_peer_config()).eval()
    _copy_weights(dict(model.named_parameters()), dict(peer.named_parameters()))

    @torch.inference_mode()
    def generate(prompts: list[list[int]]) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        texts = peer.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
        )
        return [list(text) for text in texts[:, width:].tolist()]

    return generate


@torch.no_grad()
def _copy_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Give transformers' Llama the weights of ours: queries, keys and values are one matrix here, gate and up too."""
    heads, groups, hidden = SHAPE.num_attention_heads, SHAPE.num_query_groups, SHAPE.hidden_size
    theirs["model.embed_tokens.weight"].copy_(ours["embedding.word_embeddings.weight"])
    theirs["model.norm.weight"].copy_(ours["decoder.final_layernorm.weight"])
    if SHAPE.untie_embeddings_and_output_weights:
        theirs["lm_head.weight"].copy_(ours["output_layer.weight"])
    for layer in range(SHAPE.num_layers):
        own, peer = f"decoder.layers.{layer}.", f"model.layers.{layer}."
        mixed = ours[f"{own}self_attention.linear_qkv.weight"].view(groups, heads // groups + 2, -1, hidden)
        parts = {"q": mixed[:, :-2], "k": mixed[:, -2], "v": mixed[:, -1]}
        for name, part in parts.items():
            theirs[f"{peer}self_attn.{name}_proj.weight"].copy_(part.reshape(-1, hidden))
        gate, up = ours[f"{own}mlp.linear_fc1.weight"].chunk(2)
        theirs[f"{peer}mlp.gate_proj.weight"].copy_(gate)
        theirs[f"{peer}mlp.up_proj.weight"].copy_(up)
        same = {
            "self_attn.o_proj.weight": "self_attention.linear_proj.weight",
            "mlp.down_proj.weight": "mlp.linear_fc2.weight",
            "input_layernorm.weight": "input_layernorm.weight",
            "post_attention_layernorm.weight": "pre_mlp_layernorm.weight",
        }
        for their_name, our_name in same.items():
            theirs[peer + their_name].copy_(ours[own + our_name])


def _measure_server(run_directory: str, *, threads: int) -> dict[str, Any]:
    """Ask a server 24 times, one request after another and eight at once."""
    command = [sys.executable, "-m", "trainer.serve", run_directory, "--port", "0"]
    process = subprocess.Popen(
        ["env", f"OMP_NUM_THREADS={threads}", *command], stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stderr is not None
    try:
        found = None
        for line in process.stderr:
            if (found := re.search(r"at (http://\S+) \(API", line)) is not None:
                break
        assert found is not None, "the server has ended"
        url = f"{found[1]}/v1/completions"

        def ask(number: int) -> int:
            # Another first word each time: a beginning that was read before costs nothing.
            body = {"prompt": f"{number} " + "the sea and the ship " * 12, "max_tokens": NEW_TOKENS, "seed": number}
            request = urllib.request.Request(
                url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=600) as answer:
                return int(json.load(answer)["usage"]["completion_tokens"])

        ask(0)
        rates = {}
        for concurrency, first in ((1, 100), (8, 200)):
            begin = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
                num_tokens = sum(pool.map(ask, range(first, first + 24)))
            rates[concurrency] = num_tokens / (time.monotonic() - begin)
    finally:
        process.terminate()
        process.wait(timeout=60)
    return {
        "tokens_per_second": {str(concurrency): round(rate, 1) for concurrency, rate in rates.items()},
        "ratio": round(rates[8] / rates[1], 2),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--server", metavar="RUN_DIRECTORY", help="also measure the server of this run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
