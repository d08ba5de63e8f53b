"""Names of Megatron-LM, torchtitan and Hugging Face's Trainer lead to the settings of this schema."""

import pytest

from trainer.config.aliases import ALIASES, suggest_preset
from trainer.config.load import group_options, load_config
from trainer.config.schema import TrainConfig
from trireme.config.fields import leaf_paths
from trireme.errors import ConfigError


def errors_of(*overrides: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_config(["model.vocab_size=1000", "data.train=[{paths:[/data/wiki]}]", *overrides])
    return {violation.path: violation.fix for violation in caught.value.violations}


def test_each_alias_is_no_setting_and_leads_to_one() -> None:
    paths = {path for path, _ in leaf_paths(TrainConfig)}
    presets = {f"{group}={preset}" for group, known in group_options().items() for preset in known}
    for alias, settings in ALIASES.items():
        assert alias not in paths and alias not in group_options()
        assert all(each in paths or each in presets or each in group_options() for each in settings), settings


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("nodes=4", "cluster.num_nodes"),
        ("optimizer.learning_rate=3", "optimizer.lr"),
        ("training.steps=10", "training.train_iters"),
        ("training.max-steps=10", "training.train_iters"),
        ("parallel.tp=2", "parallel.tensor_model_parallel_size"),
        ("checkpoint.interval=5", "checkpoint.save_interval"),
        ("bf16=true", "precision=bf16"),
        ("batch_size=8", "training.global_batch_size or training.micro_batch_size"),
    ],
)
def test_an_unknown_field_is_answered_with_the_setting(override: str, meant: str) -> None:
    assert errors_of(override) == {override.partition("=")[0]: f"Did you mean {meant}?"}


@pytest.mark.parametrize(
    ("group", "name", "fix"),
    [
        ("parallel", "tp3", "Set parallel.tensor_model_parallel_size=3, or choose dp2, "),
        (
            "parallel",
            "TP4_PP2",
            "Set parallel.tensor_model_parallel_size=4 parallel.pipeline_model_parallel_size=2, or",
        ),
        ("parallel", "pp2tp2", "Did you mean tp2_pp2?"),
        ("parallel", "tp2_p2", ""),
        ("precision", "bfloat16", "Did you mean bf16?"),
        ("engine", "zero3", "Did you mean deepspeed_zero3?"),
        ("model", "tp3", ""),
    ],
)
def test_a_preset_that_does_not_exist_is_understood(group: str, name: str, fix: str) -> None:
    found = suggest_preset(group, name, group_options()[group])
    assert found.startswith(fix) and bool(found) == bool(fix)
    assert errors_of(f"{group}={name}")[group].startswith(fix)


def test_the_case_of_a_preset_s_name_is_no_obstacle() -> None:
    assert errors_of("cluster=H100")["cluster"].strip() == "Did you mean h100?"
