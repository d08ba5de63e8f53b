"""Derived numbers, checked by hand."""

import dataclasses
from pathlib import Path

import pytest

from trainer.config.derived import count_processes, derive_config
from trainer.config.load import load_config


def test_numbers_of_the_quickstart() -> None:
    config = load_config(["experiment=quickstart"])
    derived = derive_config(config, world_size=8, vocab_size=8000)
    layer = 256 * (8 + 4 + 4) * 32 + 256 * 256 + 3 * 256 * 512 + 2 * 256
    assert derived.num_parameters == 4 * layer + 256 + 2 * 8000 * 256
    assert derived.num_parameters_padded == derived.num_parameters + 2 * 64 * 256
    assert (derived.world_size, derived.dp_size, derived.model_parallel_size) == (8, 2, 4)
    assert derived.num_microbatches == 1
    assert (derived.vocab_size, derived.padded_vocab_size) == (8000, 8064)
    assert derived.tokens_per_step == 8 * 256
    assert derived.total_tokens == 250 * 8 * 256
    assert (derived.decay_steps, derived.wsd_decay_steps) == (250, 25)
    assert derived.run_directory == Path("outputs/quickstart")
    assert derived.model_flops_per_token > 6 * (4 * (layer - 2 * 256) + 8000 * 256)
    with pytest.raises(dataclasses.FrozenInstanceError):
        derived.dp_size = 3  # type: ignore[misc]


def test_a_vocabulary_that_fits_is_not_padded() -> None:
    derived = derive_config(load_config([]), world_size=1, vocab_size=8192)
    assert derived.padded_vocab_size == 8192
    assert derived.num_parameters == derived.num_parameters_padded


def test_with_a_teacher_all_tokens_have_logits() -> None:
    def derive(*overrides: str) -> int:
        config = load_config(list(overrides), check=lambda config, doubtful: [])
        return derive_config(config, world_size=1, vocab_size=8192).target_flops_per_token

    model = load_config([]).model
    # 6 operations for each weight of the output layer and of a gated MLP.
    assert derive() == 6 * model.hidden_size * (8192 + 3 * model.ffn_hidden_size)
    assert derive("distill.teacher=outputs/teacher") == 0


@pytest.mark.parametrize(
    ("overrides", "num_processes"),
    [
        ([], 1),
        (["parallel=tp2_pp2"], 4),
        (["parallel=tp2_pp2", "parallel.context_parallel_size=2", "parallel.data_parallel_size=3"], 24),
        (["cluster=h100"], 8),
        (["cluster=h100", "cluster.num_nodes=4", "parallel=tp8_pp4"], 32),
    ],
)
def test_launchers_count_processes(overrides: list[str], num_processes: int) -> None:
    assert count_processes(load_config(overrides)) == num_processes
