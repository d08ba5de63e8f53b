"""The gate fails for the smallest mistakes, and names them where it can; nothing is left behind."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.huggingface.models import save_model
from trainer.checkpoint.trainer_state import read_state
from trainer.config.model import ModelConfig
from trainer.huggingface import exporting, gate
from trainer.huggingface.exporting import export_model
from trainer.huggingface.families.registry import find_family
from trainer.huggingface.gate import check_logits, compared_positions, gate_ids
from trainer.huggingface.importing import import_model, open_source
from trainer.huggingface.tensor_map import build_rules
from trainer.saved_run import open_saved_run
from trireme.errors import RunStopped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate")


def imported(name: str, folder: Path) -> tuple[Path, Path]:
    """A model's directory, and the checkpoint of its import."""
    source, run = folder / name, folder / f"{name}_run"
    if not run.exists():
        save_model(name, source)
        import_model(open_source(source), run, has_gate=False)
    return source, run / "checkpoints" / "step_00000000"


def judge(directory: Path, checkpoint: Path) -> str:
    """What the gate says of a directory that should be the same model as a checkpoint; empty where it passes."""
    source, state = open_source(directory), read_state(checkpoint)
    model = state.model_config()
    names = find_family(source.content).names_of(model)
    rules = build_rules(model, names, vocab_size=model.vocab_size or 0, padded_vocab_size=state.padded_vocab_size)
    dtypes = {name: stored.dtype for name, stored in source.weights.tensors.items()}
    try:
        check_logits(directory, checkpoint, rules=rules, dtypes=dtypes)
    except RunStopped as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("name", "key", "value", "field"),
    [
        ("llama2", "rms_norm_eps", 1e-5, "model.norm_epsilon is 1e-06 in the checkpoint and 1e-05 in config.json"),
        ("llama2", "rope_theta", 10001.0, "model.rotary_base is 10000.0 in the checkpoint and 10001.0"),
        ("gpt2", "activation_function", "gelu", "model.activation is gelu_tanh in the checkpoint and gelu in"),
        ("mistral", "sliding_window", 9, "model.window_size is [8, 8, 8] in the checkpoint and [9, 9, 9]"),
        ("qwen3_moe", "norm_topk_prob", False, "model.moe_router_pre_softmax is False in the checkpoint and True"),
    ],
    ids=["epsilon", "rotary base", "gelu", "window", "normalized weights"],
)
def test_a_wrong_setting_fails_by_name(
    name: str, key: str, value: Any, field: str, folder: Path, tmp_path: Path
) -> None:
    source, checkpoint = imported(name, folder)
    wrong = shutil.copytree(source, tmp_path / "wrong")
    content = json.loads((wrong / "config.json").read_text())
    if key == "rope_theta":
        content["rope_parameters"][key] = value
    else:
        content[key] = value
    (wrong / "config.json").write_text(json.dumps(content))
    assert field in judge(wrong, checkpoint)


def swap(weights: dict[str, torch.Tensor], one: str, other: str) -> None:
    weights[one], weights[other] = weights[other].clone(), weights[one].clone()


def test_swapped_experts_fail_by_name(folder: Path, tmp_path: Path) -> None:
    source, checkpoint = imported("qwen3_moe", folder)
    wrong = shutil.copytree(source, tmp_path / "wrong")
    weights = load_file(wrong / "model.safetensors")
    experts = "model.layers.1.mlp.experts."
    swap(weights, f"{experts}2.gate_proj.weight", f"{experts}5.gate_proj.weight")
    save_file(weights, wrong / "model.safetensors", metadata={"format": "pt"})
    said = judge(wrong, checkpoint)
    assert f"Weights differ: {experts}2.gate_proj.weight, {experts}5.gate_proj.weight." in said


def test_swapped_heads_of_queries_fail_by_name(folder: Path, tmp_path: Path) -> None:
    source, checkpoint = imported("llama2", folder)
    wrong = shutil.copytree(source, tmp_path / "wrong")
    weights = load_file(wrong / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    weights[name] = weights[name].unflatten(0, (4, 16))[[0, 2, 1, 3]].flatten(0, 1)
    save_file(weights, wrong / "model.safetensors", metadata={"format": "pt"})
    assert f"Weights differ: {name}." in judge(wrong, checkpoint)


def test_query_heads_in_the_order_of_another_framework_fail(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules that interleave heads wrongly: weights and settings are then equal by the same rules, logits are not."""
    from trainer.huggingface import tensor_map  # noqa: PLC0415 - what is broken here

    right = tensor_map._interleave

    def wrong(*args: Any, **kwargs: Any) -> Any:
        *segments, last = right(*args, **kwargs)
        query, key, *others = segments
        yield from (
            tensor_map.Segment(name=query.name, row=0, source_row=query.num_rows // 2, num_rows=query.num_rows // 2),
            tensor_map.Segment(name=query.name, row=query.num_rows // 2, source_row=0, num_rows=query.num_rows // 2),
        )
        yield from (key, *others, last)

    source, _ = imported("llama2", folder)
    monkeypatch.setattr(tensor_map, "_interleave", wrong)
    with pytest.raises(
        RunStopped, match="All settings and weights are the same, but the two programs compute different logits"
    ):
        import_model(open_source(source), folder / "wrong_run")
    assert not (folder / "wrong_run").exists(), "nothing is left behind"


def test_an_export_that_fails_the_gate_is_not_published(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, checkpoint = imported("llama2", folder)
    right = exporting.config_of

    def wrong(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**right(*args, **kwargs), "rms_norm_eps": 1e-5}

    monkeypatch.setattr(exporting, "config_of", wrong)
    saved = open_saved_run(checkpoint, verify=True)
    with pytest.raises(RunStopped, match="model.norm_epsilon"):
        export_model(saved, tmp_path / "exported")
    assert not list(tmp_path.iterdir())
    assert export_model(saved, tmp_path / "exported", has_gate=False).gate is None


EXTREME = (("llama2", 20.0), ("mixtral", 3.0))
"""Matrices so many times as large. Measured: both models differ by 1.0e-5 of the largest logit, and transformers' fp32
from its own fp64 by 1.5e-4 and 3.1e-5."""


def extreme(name: str, factor: float, folder: Path) -> tuple[Path, Path]:
    source, run = folder / f"extreme_{name}", folder / f"extreme_{name}_run"
    if not run.exists():
        save_model(name, source)
        weights = load_file(source / "model.safetensors")
        weights = {key: value * (factor if value.ndim > 1 else 1.0) for key, value in weights.items()}
        save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
        import_model(open_source(source), run, has_gate=False)
    return source, run / "checkpoints" / "step_00000000"


@pytest.mark.parametrize(("name", "factor"), EXTREME)
def test_weights_that_amplify_rounding_pass_within_the_rounding_of_transformers(
    name: str, factor: float, folder: Path, tmp_path: Path
) -> None:
    source, _ = extreme(name, factor, folder)
    figures = import_model(open_source(source), tmp_path / "run").gate
    assert figures is not None
    assert figures["relative_difference"] > 5e-6, "the usual limit refuses it"
    assert figures["relative_difference"] <= 2 * figures["rounding_error"] < 1e-3


@pytest.mark.parametrize(("name", "factor"), EXTREME)
def test_mistakes_fail_where_rounding_is_amplified_too(
    name: str, factor: float, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, checkpoint = extreme(name, factor, folder)
    wrong = shutil.copytree(source, tmp_path / "wrong")
    content = json.loads((wrong / "config.json").read_text())
    content["rope_parameters"]["rope_theta"] *= 1.0001
    (wrong / "config.json").write_text(json.dumps(content))
    assert "Settings differ: model.rotary_base is" in judge(wrong, checkpoint)
    # Equal settings and weights, but another computation: the same base, read wrongly by both directions.
    monkeypatch.setattr(gate, "describe_culprits", lambda *arguments, **options: "")
    said = judge(wrong, checkpoint)
    assert "All settings and weights are the same, but the two programs compute different logits." in said


def test_logits_that_are_not_finite_prove_nothing(folder: Path, tmp_path: Path) -> None:
    source = save_model("llama2", tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"] *= 1e38
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunStopped, match="logits are not finite in fp32, so nothing can be compared"):
        import_model(open_source(source), tmp_path / "run")


def test_the_right_model_passes(folder: Path) -> None:
    assert judge(*imported("llama2", folder)) == ""


def test_ids_are_longer_than_the_window_and_the_original_context() -> None:
    shape = {"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 4, "num_query_groups": 2}
    model = ModelConfig(**shape, seq_length=16384)
    assert gate_ids(model, vocab_size=100).shape == (2, 64)
    windowed = ModelConfig(**shape, seq_length=16384, window_size=4096)
    assert gate_ids(windowed, vocab_size=100).shape[1] > 4096
    scaled = ModelConfig(**shape, seq_length=16384, rope_scaling_factor=8.0)
    ids = gate_ids(scaled, vocab_size=100, bos_id=7)
    assert 8192 < ids.shape[1] <= 16384
    assert (ids[:, 0] == 7).all()
    assert (ids < 100).all()
    positions = compared_positions(ids.shape[1])
    assert (positions[0], positions[-1]) == (0, ids.shape[1] - 1)
    assert len(positions.unique()) == 256
