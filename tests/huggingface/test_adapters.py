"""Adapters go to peft and come back: PeftModel computes the same logits, and so does the merged model."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.data.shards import write_shard
from tests.huggingface.models import VOCAB_SIZE, save_model, transformers
from tests.huggingface.test_commands import QUIET, command
from tests.train.commands import REPOSITORY, environment
from trainer.checkpoint.trainer_state import read_state

peft = pytest.importorskip("peft")
FAMILIES = ("llama3", "gpt2")
EXPERTS = ("mixtral", "qwen3_moe", "qwen2_moe")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of transformers, its import, a run of adapters on that; rank 4, with a scale that is no power of 2."""
    return train_adapters(family, tmp_path_factory.mktemp(family))


def train_adapters(family: str, folder: Path, *further: str) -> Path:
    save_model(family, folder / "source", dtype=torch.float32)
    done = command("trainer.import_hf", folder / "source", folder / "base")
    assert done.returncode == 0, done.stderr
    write_shard(folder / "shard", [np.random.default_rng(1).integers(0, VOCAB_SIZE, 600)])
    done = command(
        "launch.local",
        f"pretrained_checkpoint={folder}/base",
        f"output_dir={folder}",
        "run_name=run",
        f"data.train=[{{paths:[{folder}/shard]}}]",
        "training.train_iters=4",
        "lora.rank=4",
        "lora.alpha=6",
        *[line for line in QUIET if not line.startswith("optimizer.lr")],
        "optimizer.lr=2e-2",
        *further,
    )
    assert done.returncode == 0, done.stderr
    return folder


def logits_of_peft(source: Path, adapter: Path, ids: torch.Tensor) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(model, str(adapter)).eval()
    with torch.no_grad():
        return model(ids).logits


def run(module: str, *arguments: Any) -> dict[str, Any]:
    done = command(module, *arguments)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_export_loads_in_peft_and_comes_back(family: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "peft"
    done = command("trainer.export_hf", folder / "run", out, "--adapter", "--base-model", folder / "source")
    assert done.returncode == 0, done.stderr
    assert "peft cannot load the base" not in done.stderr
    assert 0 < json.loads(done.stdout)["gate"]["relative_difference"] <= 5e-6
    assert sorted(path.name for path in out.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 6)
    # GPT-2's query, key and value are one layer of transformers, and three adapters of ours.
    assert bool(config["rank_pattern"]) == (family == "gpt2")
    back = run("trainer.import_hf", out, tmp_path / "back", "--base", folder / "base")
    assert back["gate"]["relative_difference"] <= 5e-6
    state = read_state(tmp_path / "back" / "checkpoints" / "step_00000000")
    assert state.base is not None and state.contents == "weights"
    ids = torch.randint(0, VOCAB_SIZE, (2, 40), generator=torch.Generator().manual_seed(0))
    second = tmp_path / "second"
    done = command("trainer.export_hf", tmp_path / "back", second, "--adapter", "--gate", "off")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("peft cannot load the base by the name in adapter_config.json, source: ") == 1
    first, again = (logits_of_peft(folder / "source", place, ids) for place in (out, second))
    # The name that was given suffices.
    with torch.no_grad():
        found = peft.AutoPeftModelForCausalLM.from_pretrained(str(out), dtype=torch.float32).eval()(ids).logits
    assert torch.equal(found, first)
    # Bit for bit where parts are layers of their own; otherwise ranks were padded with zeros.
    assert torch.allclose(first, again, atol=0 if family == "llama3" else 1e-5 * float(first.abs().max()))


def test_merged_model_is_the_same(family: str, folder: Path, tmp_path: Path) -> None:
    """The merge is proved by the command, and exported it computes the logits of peft."""
    result = run("trainer.merge_adapter", folder / "run", tmp_path / "merged")
    assert result["gate"]["relative_difference"] <= 5e-6
    run("trainer.export_hf", tmp_path / "merged", tmp_path / "hf")
    run("trainer.export_hf", folder / "run", tmp_path / "direct")
    merged, direct = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "direct"))
    assert all(torch.equal(merged[name], direct[name]) for name in merged), "an export merges alike"
    run("trainer.export_hf", folder / "run", tmp_path / "peft", "--adapter")
    ids = torch.randint(0, VOCAB_SIZE, (2, 40), generator=torch.Generator().manual_seed(0))
    expected = logits_of_peft(folder / "source", tmp_path / "peft", ids)
    with torch.no_grad():
        found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)(ids).logits
        plain = transformers.AutoModelForCausalLM.from_pretrained(folder / "source", dtype=torch.float32)(ids).logits
    limit = 5e-6 * float(expected.abs().max())  # the gate's own
    assert float((found - expected).abs().max()) <= limit
    assert float((plain - expected).abs().max()) > 100 * limit, "the adapters do something"


_STRICT_MERGE = """
import sys
from trainer.parallel import cpu_shim
cpu_shim.install()
from trainer import merge_adapter
from trainer.huggingface import gate
from trainer.huggingface.native_weights import NativeWeights
gate.MAX_RELATIVE_DIFFERENCE = 1e-9
factor, read = float(sys.argv.pop(1)), NativeWeights.read
NativeWeights.read = lambda self, *args: read(self, *args) * factor
sys.exit(merge_adapter.main())
"""


def test_a_merge_is_judged_by_the_rounding_of_the_model(family: str, folder: Path, tmp_path: Path) -> None:
    """With a limit below all rounding, a right merge is still accepted, and a wrong one refused."""
    if family != "llama3":
        pytest.skip("the same for all families")
    right, wrong = (
        subprocess.run(
            [sys.executable, "-c", _STRICT_MERGE, factor, folder / "run", tmp_path / factor],
            capture_output=True,
            text=True,
            check=False,
            cwd=REPOSITORY,
            env=environment(),
        )
        for factor in ("1", "1.00001")
    )
    assert right.returncode == 0, right.stderr
    gate = json.loads(right.stdout.splitlines()[-1])["gate"]
    assert 1e-9 < gate["relative_difference"] <= 2 * gate["rounding_error"] < 5e-6
    assert wrong.returncode == 1 and "is not that of base and adapters" in wrong.stderr, wrong.stderr
    assert "whose own rounding error is" in wrong.stderr and not list(tmp_path.glob("1.00001/checkpoints/step*"))


def make_peft(source: Path, out: Path, **settings: Any) -> None:
    """An adapter of peft with random A and B, which peft initializes as 0."""
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**settings))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(out)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["q_proj", "k_proj", "o_proj", "up_proj"], "use_rslora": True, "layers_to_transform": [1]},
        {
            "target_modules": ["q_proj", "k_proj", "down_proj"],
            "rank_pattern": {"k_proj": 2},
            "alpha_pattern": {"down_proj": 3},
        },
    ],
    ids=["query and value", "one layer", "patterns"],
)
def test_adapter_of_peft_comes_in(family: str, folder: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Different A for query, key and value, absent parts and layers, and ranks and scales by module."""
    if family != "llama3":
        pytest.skip("names of Llama's layers")
    make_peft(folder / "source", tmp_path / "adapter", r=4, lora_alpha=5, **settings)
    result = run("trainer.import_hf", tmp_path / "adapter", tmp_path / "run", "--base", folder / "base")
    assert 0 < result["gate"]["relative_difference"] <= 5e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "adapter_config.json: use_dora: is not supported"),
        ({"peft_type": "IA3"}, "adapter_config.json: peft_type: is not supported"),
        ({"r": 0}, "adapter_config.json: r: must be an integer of at least 1"),
    ],
)
def test_settings_that_cannot_be(
    family: str, folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if family != "llama3":
        pytest.skip("the same for all families")
    make_peft(folder / "source", tmp_path / "adapter", r=4, target_modules=["q_proj"])
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    done = command("trainer.import_hf", tmp_path / "adapter", tmp_path / "run", "--base", folder / "base")
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_other_wrong_input(family: str, folder: Path, tmp_path: Path) -> None:
    if family != "llama3":
        pytest.skip("the same for all families")
    make_peft(folder / "source", tmp_path / "adapter", r=4, target_modules=["q_proj", "lm_head"])
    for arguments, message in (
        (("trainer.import_hf", tmp_path / "adapter", tmp_path / "x", "--base", folder / "base"), "lm_head"),
        (("trainer.export_hf", folder / "base", tmp_path / "x", "--adapter"), "--adapter: holds all weights"),
        (("trainer.export_hf", folder / "run", tmp_path / "x", "--base-model", "a/b"), "written with --adapter only"),
        (("trainer.merge_adapter", folder / "base", tmp_path / "x"), "PATH: holds all weights and no adapters"),
        (("trainer.merge_adapter", folder / "run", tmp_path / "x", "--base", folder / "run"), "--base: is not"),
    ):
        done = command(*arguments)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr and "Traceback" not in done.stderr
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "name",
    # Qwen2-MoE's are among those of the next test too.
    [pytest.param(name, marks=pytest.mark.long if name == "qwen2_moe" else ()) for name in EXPERTS],
)
def test_adapters_of_experts_go_to_peft_and_come_back(name: str, tmp_path: Path) -> None:
    """As adapters of the fused parameters of transformers; gate and up have an A each with us, and one of twice the
    rank in peft."""
    targets = "[linear_qkv,experts.linear_fc1,experts.linear_fc2]"
    folder = train_adapters(name, tmp_path, f"lora.target_modules={targets}", "lora.dropout=0.1")
    out = tmp_path / "peft"
    result = run("trainer.export_hf", folder / "run", out, "--adapter")
    assert 0 < result["gate"]["relative_difference"] <= 5e-6
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["target_parameters"] == ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
    assert config["rank_pattern"] == {"mlp.experts.gate_up_proj": 8}
    tensors = load_file(out / "adapter_model.safetensors")
    moved = [tensor for key, tensor in tensors.items() if ".experts." in key and "lora_B" in key]
    assert moved and all(bool(tensor.any()) for tensor in moved), "experts were trained"
    back = run("trainer.import_hf", out, tmp_path / "back", "--base", folder / "base")
    assert back["gate"]["relative_difference"] <= 5e-6
    # The parts of gate and up are found again: no rank is padded.
    lora = read_state(tmp_path / "back" / "checkpoints" / "step_00000000").lora
    assert lora is not None and (lora["rank"], lora["alpha"]) == (4, 6)
    run("trainer.export_hf", tmp_path / "back", tmp_path / "second", "--adapter", "--gate", "off")
    again = load_file(tmp_path / "second" / "adapter_model.safetensors")
    assert tensors.keys() == again.keys()
    assert all(torch.equal(tensors[key], again[key]) for key in tensors)


@pytest.mark.parametrize(
    ("name", "others", "modules"),
    [
        (
            "deepseek_v3",
            "linear_q_down_proj,linear_q_up_proj,linear_kv_down_proj,linear_kv_up_proj,linear_proj",
            {"self_attn", "experts"},
        ),
        ("qwen2_moe", "linear_fc1,linear_fc2", {"shared_expert", "experts"}),
    ],
    ids=["compressed attention", "a shared expert"],
)
def test_adapters_beside_those_of_routed_experts_go_to_peft_and_come_back(
    name: str, others: str, modules: set[str], tmp_path: Path
) -> None:
    targets = f"[{others},experts.linear_fc1,experts.linear_fc2]"
    folder = train_adapters(name, tmp_path, f"lora.target_modules={targets}")
    out = tmp_path / "peft"
    result = run("trainer.export_hf", folder / "run", out, "--adapter")
    assert 0 < result["gate"]["relative_difference"] <= 5e-6
    tensors = load_file(out / "adapter_model.safetensors")
    assert {next(part for part in key.split(".")[5:] if part != "mlp") for key in tensors} == modules
    back = run("trainer.import_hf", out, tmp_path / "back", "--base", folder / "base")
    assert back["gate"]["relative_difference"] <= 5e-6
    run("trainer.export_hf", tmp_path / "back", tmp_path / "second", "--adapter", "--gate", "off")
    again = load_file(tmp_path / "second" / "adapter_model.safetensors")
    assert tensors.keys() == again.keys()
    assert all(torch.equal(tensors[key], again[key]) for key in tensors)


def test_adapters_that_peft_would_give_to_routed_experts_are_refused(tmp_path: Path) -> None:
    """Those of dense MLPs and shared experts: peft moves their names to the fused parameters. Merged they go out."""
    folder = train_adapters("deepseek_v3", tmp_path, "lora.target_modules=[linear_proj,linear_fc1,linear_fc2]")
    done = command("trainer.export_hf", folder / "run", tmp_path / "peft", "--adapter", "--gate", "off")
    assert done.returncode == 2, done.stderr
    assert (
        "lora.target_modules: contains dense MLPs or shared experts, which peft takes for routed experts" in done.stderr
    )
    assert not (tmp_path / "peft").exists()
    assert run("trainer.export_hf", folder / "run", tmp_path / "whole")["gate"]["relative_difference"] <= 5e-6
    # peft itself, whose file of such adapters holds none of theirs.
    make_peft(tmp_path / "source", tmp_path / "made", r=4, target_modules=["gate_proj", "up_proj", "down_proj"])
    assert not [one for one in load_file(tmp_path / "made" / "adapter_model.safetensors") if ".experts" not in one]


def test_an_adapter_of_shared_experts_comes_in_without_the_gate(tmp_path: Path) -> None:
    """As peft wrote it before transformers fused routed experts; the peft of today cannot compute with it."""
    save_model("deepseek_v3", tmp_path / "source", dtype=torch.float32)
    done = command("trainer.import_hf", tmp_path / "source", tmp_path / "base", "--gate", "off")
    assert done.returncode == 0, done.stderr
    weights = load_file(tmp_path / "source" / "model.safetensors")
    names = [name for name in weights if "shared_experts." in name]
    torch.manual_seed(1)
    tensors = {}
    for name in names:
        module = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{module}.lora_A.weight"] = torch.randn(4, weights[name].shape[1]) * 0.1
        tensors[f"{module}.lora_B.weight"] = torch.randn(weights[name].shape[0], 4) * 0.1
    modules = ["gate_proj", "up_proj", "down_proj"]
    peft.LoraConfig(r=4, lora_alpha=5, target_modules=modules, task_type="CAUSAL_LM").save_pretrained(tmp_path / "made")
    save_file(tensors, tmp_path / "made" / "adapter_model.safetensors")
    arguments = ("trainer.import_hf", tmp_path / "made", tmp_path / "run", "--base", tmp_path / "base")
    done = command(*arguments)
    assert done.returncode == 2 and "--gate: cannot compare model.layers." in done.stderr, done.stderr
    run(*arguments, "--gate", "off")
    run("trainer.export_hf", tmp_path / "run", tmp_path / "merged")
    found = load_file(tmp_path / "merged" / "model.safetensors")
    for name in names:
        a, b = (tensors[f"base_model.model.{name.removesuffix('.weight')}.lora_{one}.weight"] for one in "AB")
        torch.testing.assert_close(found[name], weights[name] + 5 / 4 * b @ a, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(found[name], weights[name]) for name in weights if name not in names)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": [], "target_parameters": ["experts.down_proj"]},
        {
            "target_modules": ["v_proj"],
            "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
            "rank_pattern": {"experts.down_proj": 2},
            "alpha_pattern": {"experts.gate_up_proj": 3},
        },
    ],
    ids=["one parameter", "patterns"],
)
def test_adapter_of_experts_comes_in(tmp_path: Path, settings: dict[str, Any]) -> None:
    save_model("qwen3_moe", tmp_path / "source", dtype=torch.float32)
    done = command("trainer.import_hf", tmp_path / "source", tmp_path / "base", "--gate", "off")
    assert done.returncode == 0, done.stderr
    make_peft(tmp_path / "source", tmp_path / "adapter", r=4, lora_alpha=5, **settings)
    result = run("trainer.import_hf", tmp_path / "adapter", tmp_path / "run", "--base", tmp_path / "base")
    assert 0 < result["gate"]["relative_difference"] <= 5e-6


def test_adapter_of_separate_experts_comes_in(tmp_path: Path) -> None:
    """As transformers 4 had them, and peft fuses them when it loads."""
    save_model("mixtral", tmp_path / "source", dtype=torch.float32)
    done = command("trainer.import_hf", tmp_path / "source", tmp_path / "base", "--gate", "off")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    hidden, width = config["hidden_size"], config["intermediate_size"]
    torch.manual_seed(1)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for expert in range(config["num_local_experts"]):
            for name, shape in {"w1": (width, hidden), "w3": (width, hidden), "w2": (hidden, width)}.items():
                module = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
                tensors[f"{module}.lora_A.weight"] = torch.randn(4, shape[1]) * 0.1
                tensors[f"{module}.lora_B.weight"] = torch.randn(shape[0], 4) * 0.1
    settings = peft.LoraConfig(r=4, lora_alpha=5, target_modules=["w1", "w2", "w3"], task_type="CAUSAL_LM")
    settings.save_pretrained(tmp_path / "adapter")
    save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors")
    result = run("trainer.import_hf", tmp_path / "adapter", tmp_path / "run", "--base", tmp_path / "base")
    assert 0 < result["gate"]["relative_difference"] <= 5e-6
