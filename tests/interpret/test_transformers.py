"""What a probe shows is what transformers' eager attention and captum compute for the same weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch

from tests.huggingface.models import VOCAB_SIZE, save_model, transformers
from trainer.huggingface.importing import import_model, open_source
from trainer.inference.loading import LoadedModel, load_model
from trainer.inference.options import ModelOptions
from trainer.interpret.attribution import attribute
from trainer.interpret.options import ProbeOptions
from trainer.interpret.probe import Probe, probe
from trainer.parallel.world import stop_world

captum = pytest.importorskip("captum.attr")

TOKENS = torch.randint(3, VOCAB_SIZE, (24,), generator=torch.Generator().manual_seed(5)).tolist()
"""More than the models' windows of 8."""
NAMES = ("llama2", "gpt2", "mistral", "qwen3", "gemma2", "qwen3_moe_mixed", "deepseek_v3")
"""Rotary and learned positions, a window, norms of heads, capped scores and logits, experts, latent heads."""


@contextmanager
def imported(name: str, folder: Path) -> Iterator[tuple[Any, LoadedModel]]:
    """A tiny model twice: transformers', with eager attention, and ours."""
    source = save_model(name, folder / "source")
    import_model(open_source(source), folder / "run", has_gate=False)
    peer = transformers.AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager").eval()
    loaded = load_model(
        ModelOptions(path=folder / "run", tokenizer=write_numbers(folder / "tokenizer.json")), packs_weights=False
    )
    try:
        yield peer, loaded
    finally:
        stop_world()


def write_numbers(path: Path) -> Path:
    """A tokenizer whose tokens are numbers."""
    words = {str(number): number for number in range(VOCAB_SIZE)}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0")).save(str(path))
    return path


def look(loaded: LoadedModel, **changes: Any) -> Probe:
    layers = tuple(range(1, loaded.config.num_layers + 1))
    found = probe(
        loaded.model,
        world=loaded.world,
        tokens=TOKENS,
        target=None,
        vocab_size=VOCAB_SIZE,
        options=ProbeOptions(layers=layers, **changes),
    )
    assert found is not None
    return found


@pytest.mark.parametrize("name", NAMES)
def test_attention_and_the_last_layer_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    with imported(name, tmp_path) as (peer, loaded), torch.no_grad():
        found = look(loaded, num_steps=0, top_k=4)
        expected = peer(torch.tensor([TOKENS]), output_attentions=True, output_hidden_states=True)
    assert list(found.attention) == list(range(1, len(expected.attentions) + 1))
    for number, attention in enumerate(expected.attentions, start=1):
        # The bound of the requirement; fp32 sums in another order.
        torch.testing.assert_close(found.attention[number], attention[0].float(), atol=1e-5, rtol=0)
    probabilities = expected.logits[0].float().softmax(dim=-1)
    for position, here in enumerate(found.output):
        followed = TOKENS[position + 1] if position + 1 < len(TOKENS) else found.target
        best = probabilities[position].topk(4)
        assert [token for token, _ in here.top] == best.indices.tolist()
        assert here.probability == pytest.approx(probabilities[position, followed].item(), rel=2e-3, abs=1e-7)
    assert found.target == int(probabilities[-1].argmax())
    assert found.lens[loaded.config.num_layers] == found.output
    # transformers' hidden states before its last one are those before the final norm.
    lower = peer.lm_head(_final_norm(peer)(expected.hidden_states[1])).detach()[0]
    if (cap := getattr(peer.config, "final_logit_softcapping", None)) is not None:
        lower = cap * torch.tanh(lower / cap)
    for position, here in enumerate(found.lens[1]):
        top = lower[position].float().softmax(dim=-1).max()
        assert here.top[0][1] == pytest.approx(top.item(), rel=2e-3)


def _final_norm(peer: Any) -> Any:
    return peer.transformer.ln_f if hasattr(peer, "transformer") else peer.model.norm


@pytest.mark.parametrize("name", ["llama2", "gpt2"])
def test_attribution_is_that_of_captum(name: str, tmp_path: Path) -> None:
    target, steps = 7, 40
    with imported(name, tmp_path) as (peer, loaded):
        found = attribute(
            loaded.model,
            world=loaded.world,
            tokens=TOKENS,
            target=target,
            num_steps=steps,
            batch_size=9,
            baseline="zero",
        )

    def log_probability(embeddings: torch.Tensor) -> torch.Tensor:
        return peer(inputs_embeds=embeddings).logits[:, -1].log_softmax(dim=-1)[:, target]

    embeddings = peer.get_input_embeddings()(torch.tensor([TOKENS])).detach()
    gradients = captum.IntegratedGradients(log_probability)
    expected, gap = gradients.attribute(
        embeddings, n_steps=steps, method="gausslegendre", internal_batch_size=10, return_convergence_delta=True
    )
    scores = expected.sum(dim=-1)[0]
    assert found is not None
    # Seen: 2e-5 of the largest; sums of 64 channels and 40 points in fp32.
    torch.testing.assert_close(torch.tensor(found.scores), scores.double().float(), atol=2e-4, rtol=2e-4)
    assert found.completeness_gap == pytest.approx(gap.item(), abs=2e-3)
    with torch.no_grad():
        embeddings[0, 5] = 0
        assert found.occlusion[5] == pytest.approx(found.value - log_probability(embeddings).item(), abs=1e-4)


def test_the_gap_vanishes_with_the_number_of_steps_where_the_model_is_smooth(tmp_path: Path) -> None:
    with imported("llama2", tmp_path) as (_, loaded):
        found = [
            attribute(
                loaded.model,
                world=loaded.world,
                tokens=TOKENS[:6],
                target=7,
                num_steps=steps,
                batch_size=32,
                baseline="mean",
            )
            for steps in (2, 200)
        ]
    shares = [abs(one.completeness_gap / (one.value - one.baseline_value)) for one in found if one is not None]
    # Seen: 0.9 and 0.002.
    assert shares[1] < 0.02 < shares[0]
