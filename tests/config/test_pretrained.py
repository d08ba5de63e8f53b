"""A run that starts from a checkpoint's weights has its model and tokenizer, unless the command line says otherwise."""

import dataclasses
import json
from pathlib import Path

import pytest

from trainer.config.load import load_config
from trainer.config.model import ModelConfig
from trainer.config.pretrained import add_pretrained_settings

MODEL = ModelConfig(
    num_layers=3,
    hidden_size=64,
    ffn_hidden_size=96,
    num_attention_heads=4,
    num_query_groups=2,
    seq_length=256,
    max_position_embeddings=256,
    rotary_base=500000.0,
    window_size=8,
    window_attn_skip_freq=[1, 0],
    activation="geglu_tanh",
    qk_layernorm=True,
    vocab_size=131,
)


def write_checkpoint(run: Path, *, step: int, serial: int, model: ModelConfig = MODEL, **state: object) -> Path:
    checkpoint = run / "checkpoints" / f"step_{step:08d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text(json.dumps({"serial": serial}))
    (checkpoint / "trainer_state.json").write_text(json.dumps({"model": dataclasses.asdict(model), **state}))
    return checkpoint


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The latest checkpoint is the one that was saved last, not that of the highest step."""
    run = tmp_path / "it's = a run"
    write_checkpoint(run, step=20, serial=1, model=dataclasses.replace(MODEL, num_layers=2))
    write_checkpoint(run, step=10, serial=2, tokenizer={"file": "tokenizer.json"})
    return run


def test_model_and_tokenizer_are_those_of_the_checkpoint(run: Path) -> None:
    config = load_config([f'pretrained_checkpoint="{run}"'])
    assert config.model == MODEL
    assert config.tokenizer.path == str(run / "checkpoints" / "step_00000010" / "tokenizer.json")
    assert config.pretrained_checkpoint == str(run)


@pytest.mark.parametrize("part", ["checkpoints", "checkpoints/step_00000010"])
def test_the_path_may_be_that_of_the_checkpoint(part: str, run: Path) -> None:
    assert load_config([f'pretrained_checkpoint="{run / part}"']).model == MODEL


def test_single_values_change_them(run: Path) -> None:
    config = load_config(
        [f'pretrained_checkpoint="{run}"', "model.seq_length=64", "tokenizer.path=/data/tokenizer.json"]
    )
    assert config.model == dataclasses.replace(MODEL, seq_length=64)
    assert config.tokenizer.path == "/data/tokenizer.json"


def test_a_preset_of_the_model_replaces_it(run: Path) -> None:
    config = load_config([f'pretrained_checkpoint="{run}"', "model=gpt2_124m"])
    assert config.model == load_config(["model=gpt2_124m"]).model


def test_a_recipe_may_name_the_checkpoint(run: Path, tmp_path: Path) -> None:
    """What the recipe sets of the model changes that of the checkpoint, and the command line changes both."""
    recipe = f"# @package _global_\npretrained_checkpoint: {json.dumps(str(run))}\nmodel:\n  hidden_dropout: 0.1\n"
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "ours.yaml").write_text(recipe)
    chosen = [f"hydra.searchpath=[{tmp_path}]", "experiment=ours"]
    config = load_config(chosen)
    assert config.model == dataclasses.replace(MODEL, hidden_dropout=0.1)
    assert config.tokenizer.path == str(run / "checkpoints" / "step_00000010" / "tokenizer.json")
    assert load_config([*chosen, "model.hidden_dropout=0.2"]).model.hidden_dropout == 0.2
    write_checkpoint(tmp_path / "other", step=1, serial=1, model=dataclasses.replace(MODEL, num_layers=5))
    other = load_config([*chosen, f"pretrained_checkpoint={tmp_path / 'other'}"])
    assert other.model == dataclasses.replace(MODEL, num_layers=5, hidden_dropout=0.1)
    without = load_config([*chosen, "model=gpt2_124m"])
    assert without.model == dataclasses.replace(load_config(["model=gpt2_124m"]).model, hidden_dropout=0.1)
    (tmp_path / "experiment" / "preset.yaml").write_text(
        recipe.replace("pretrained", "defaults:\n  - override /model: gpt2_124m\npretrained")
    )
    assert load_config([chosen[0], "experiment=preset"]).model == without.model


def test_fields_that_a_checkpoint_does_not_have_had_their_defaults(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, step=1, serial=1)
    record = json.loads((checkpoint / "trainer_state.json").read_text())
    del record["model"]["qk_layernorm"], record["model"]["window_attn_skip_freq"]
    record["model"]["field_of_a_newer_version"] = 7
    (checkpoint / "trainer_state.json").write_text(json.dumps(record))
    expected = dataclasses.replace(MODEL, qk_layernorm=False, window_attn_skip_freq=[1])
    assert load_config([f"pretrained_checkpoint={tmp_path}"]).model == expected


@pytest.mark.parametrize(
    "lines",
    [[], ["pretrained_checkpoint=null"], ["pretrained_checkpoint=/nowhere"], ["pretrained_checkpoint={broken"]],
)
def test_nothing_is_added_without_a_readable_checkpoint(lines: list[str]) -> None:
    assert add_pretrained_settings(lines) == lines
