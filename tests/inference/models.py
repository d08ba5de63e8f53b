"""Small models of all kinds, generators for them, and what they should write."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from tests.checkpoint.fragments import MODEL, PADDED_VOCAB_SIZE, build_chunks, open_world

import torch  # isort: skip - after the CPU shim

from trainer.build import wire_model
from trainer.config.model import ModelConfig
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.inference.generator import Generator
from trainer.inference.model_runner import ModelRunner
from trainer.inference.request import GenerationRequest, Piece
from trainer.inference.sampling import SamplingConfig
from trainer.model.gpt import GPT
from trainer.parallel.world import World

CONTEXT = MODEL.seq_length
GREEDY = SamplingConfig(temperature=0.0)
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [12, 13]]
"""Of unequal lengths."""

# Weights of this size make logits that differ by far more than rounding.
_BASE = replace(MODEL, init_method_std=0.3)
GPT2 = replace(
    _BASE,
    position_embedding_type="learned_absolute",
    normalization="LayerNorm",
    activation="gelu",
    add_bias_linear=True,
    attention_dropout=0.5,
)
LLAMA = replace(_BASE, num_query_groups=2, qk_layernorm=True, untie_embeddings_and_output_weights=True)
WINDOWS = replace(LLAMA, window_size=5, window_attn_skip_freq=[1, 0], rotary_base_local=1000.0)
CAPPED = replace(
    WINDOWS,
    attn_logit_softcapping=2.0,
    final_logit_softcapping=3.0,
    norm_placement="both",
    embedding_scale=4.0,
)
EXPERTS = replace(LLAMA, num_moe_experts=4, moe_layer_freq=[0, 1], moe_shared_expert_intermediate_size=8)
LATENT = replace(
    _BASE,
    multi_latent_attention=True,
    q_lora_rank=12,
    kv_lora_rank=8,
    qk_head_dim=8,
    qk_pos_emb_head_dim=4,
    v_head_dim=6,
)
ALL_HEADS = replace(LLAMA, norm_placement="branch", qk_layernorm_width="all")
MODELS = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "windows": WINDOWS,
    "capped": CAPPED,
    "experts": EXPERTS,
    "latent": LATENT,
    "all_heads": ALL_HEADS,
}


class Numbers:
    """A tokenizer whose tokens are their numbers, with a space behind each."""

    vocab_size = PADDED_VOCAB_SIZE
    eos_id = None

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(f"{token} " for token in ids)


def build(model: ModelConfig, world: World, *, parallel: ParallelConfig | None = None) -> GPT:
    """A model with rotary angles that follow position ids, as inference has it."""
    (chunk,) = wire_model(
        model,
        parallel=parallel or ParallelConfig(),
        precision=PrecisionConfig(),
        padded_vocab_size=PADDED_VOCAB_SIZE,
        world=world,
        seed=1,
        reset_position_ids=True,
    )
    assert isinstance(chunk, GPT)
    return chunk.eval()


@contextmanager
def open_generator(model: ModelConfig, *, num_rows: int = 8, **options: int) -> Iterator[Generator]:
    """A generator of a model in this process."""
    with open_world(ParallelConfig()) as world:
        yield generator_of(build(model, world), world, num_rows=num_rows, **options)


def generator_of(chunk: GPT, world: World, *, num_rows: int = 8, **options: int) -> Generator:
    runner = ModelRunner(chunk, world=world, num_rows=num_rows, max_length=CONTEXT)
    return Generator(runner, tokenizer=Numbers(), vocab_size=PADDED_VOCAB_SIZE, context_length=CONTEXT, **options)  # type: ignore[arg-type]


def request(prompt: Sequence[int], count: int = 8, **changes: object) -> GenerationRequest:
    arguments: dict[str, object] = {"prompt": tuple(prompt), "max_new_tokens": count, "sampling": GREEDY}
    return GenerationRequest(**(arguments | changes))  # type: ignore[arg-type]


def tokens_of(pieces: Iterator[Piece]) -> list[list[int]]:
    """The tokens of every text, in the order of the requests."""
    texts: dict[int, list[int]] = {}
    for piece in pieces:
        assert piece.error is None
        texts.setdefault(piece.request_id, []).extend(piece.tokens)
    return [texts[number] for number in sorted(texts)]


def uncached(chunk: torch.nn.Module, prompt: Sequence[int], count: int) -> list[int]:
    """What the whole forward pass takes for the most likely tokens, one after another."""
    history = list(prompt)
    for _ in range(count):
        history.append(int(whole_forward(chunk, history)[-1].argmax()))
    return history[len(prompt) :]


@torch.no_grad()
def whole_forward(chunk: torch.nn.Module, tokens: Sequence[int]) -> torch.Tensor:
    """[tokens, v] logits."""
    ids = torch.tensor([list(tokens)])
    logits: torch.Tensor = chunk(ids, torch.arange(len(tokens))[None], None)[0]
    return logits


def expected_tokens(model: ModelConfig, count: int) -> list[list[int]]:
    """What a model writes after each of `PROMPTS` without a cache, in one process."""
    with open_world(ParallelConfig()) as world:
        (chunk,) = build_chunks(ParallelConfig(), world, model=model)
        chunk.eval()
        return [uncached(chunk, prompt, count) for prompt in PROMPTS]
