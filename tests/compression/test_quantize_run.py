"""A quantized checkpoint is loaded by inference, export and import like any other; its weights are integer * scale."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

from tests.compression.models import VOCAB_SIZE, make_model, make_tokenizer, weights_of
from tests.data.shards import write_shard
from tests.distributed.harness import run_distributed
from tests.huggingface.test_commands import command as run_module
from trainer import quantize
from trainer.checkpoint.pretrained import check_weights
from trainer.checkpoint.quantized import QUANTIZED_NAME, QuantizedFile
from trainer.checkpoint.trainer_state import read_state
from trainer.huggingface.importing import import_model
from trainer.inference.loading import load_model
from trainer.inference.options import ModelOptions
from trainer.inference.request import GenerationRequest
from trainer.inference.sampling import SamplingConfig
from trainer.parallel.world import end_layout, stop_world
from trainer.saved_run import open_saved_run
from trireme.errors import ConfigError

PROMPT = (5, 77, 130, 9)


def run_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> dict[str, Any]:
    """Run the command in this process; its JSON."""
    options = () if "--decoding-rounds" in arguments else ("--decoding-rounds", "0")
    monkeypatch.setattr("sys.argv", ["quantize", *map(str, arguments), *options])
    assert quantize.run(quantize._parse()) == 0
    output = capsys.readouterr().out
    assert output.endswith("}\n") and output.count("\n") == 1, "one line of JSON"
    record: dict[str, Any] = json.loads(output)
    return record


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda *arguments: run_command(capsys, monkeypatch, *arguments)


def generate(path: Path, **options: Any) -> list[int] | None:
    """The most likely tokens after the prompt; None on ranks that follow."""
    end = end_layout if distributed.is_initialized() else stop_world
    model = load_model(ModelOptions(path=path, **options))
    try:
        if not model.is_driver:
            model.runner.follow()
            return None
        wanted = GenerationRequest(prompt=PROMPT, max_new_tokens=12, sampling=SamplingConfig(temperature=0.0))
        tokens = [token for piece in model.new_generator().run([wanted]) for token in piece.tokens]
        model.runner.stop()
        return tokens
    finally:
        end()


def test_a_quantized_run_is_its_dequantized_weights(
    command: Any, run_directory: Path, shard: Path, tmp_path: Path
) -> None:
    record = command(
        run_directory, tmp_path / "run", "--bits", 4, "--method", "gptq", "--calibration", shard, "--validation", shard
    )
    checkpoint = Path(record["output"])
    assert record["num_bytes"] < (checkpoint / QUANTIZED_NAME).stat().st_size < record["num_bytes"] + 8192
    assert record["error_ratio"] < 1
    ratio = record["perplexity"]["ratio"]
    assert ratio["low"] <= ratio["value"] <= ratio["high"]
    file = QuantizedFile(checkpoint)
    assert (file.quantization.bits, file.quantization.method) == (4, "gptq")
    original, found = (weights_of(one) for one in (open_saved_run(run_directory, verify=True).checkpoint, checkpoint))
    assert original.keys() == found.keys()
    for name, weight in found.items():
        is_matrix = weight.ndim == 2
        assert torch.equal(weight, original[name]) != is_matrix, name
        # The range of the largest group is cut into 15 steps, and clipped to 0.6 of it at most.
        assert float((weight - original[name]).abs().max()) <= 0.4 * float(original[name].abs().max()) + 1e-6


def test_the_costliest_matrices_have_eight_bits_up_to_a_size(
    command: Any, run_directory: Path, shard: Path, tmp_path: Path
) -> None:
    options = ("--bits", 4, "--embedding-bits", 8, "--calibration", shard, "--calibration-rows", 8)
    plain = command(run_directory, tmp_path / "plain", *options, "--max-size", 0)
    assert plain["fine"] == [] and plain["max_size"] == 0
    # All of the tiny model's norms are in fp32, so that it is larger than 0.18 with 4 bits.
    wanted = plain["size_ratio"] + 0.03
    record = command(run_directory, tmp_path / "mixed", *options, "--max-size", wanted)
    assert plain["size_ratio"] < record["size_ratio"] <= wanted == record["max_size"]
    assert QuantizedFile(Path(record["output"])).quantization.max_size == wanted
    from safetensors.torch import load_file  # noqa: PLC0415 - used here only

    stored = load_file(Path(record["output"]) / QUANTIZED_NAME).keys()
    assert 0 < len(record["fine"]) < 16 and {f"{name}.int8" for name in record["fine"]} <= stored
    assert sum(name.endswith(".int4") for name in stored) == 16 - len(record["fine"])
    alone = generate(tmp_path / "mixed")
    assert run_distributed(generate_under_layouts, 2, str(tmp_path / "mixed"))[0][:2] == [alone, alone]


def test_the_dequantized_model_computes_the_reported_perplexity(
    command: Any, run_directory: Path, shard: Path, tmp_path: Path
) -> None:
    record = command(run_directory, tmp_path / "run", "--bits", 8, "--validation", shard, "--validation-rows", 4)
    from trainer.compression.rows import read_rows, row_losses  # noqa: PLC0415 - after the shim
    from trainer.compression.whole_model import load_whole, one_process  # noqa: PLC0415 - after the shim

    rows = read_rows(shard, num_rows=4, seq_length=256, vocab_size=VOCAB_SIZE, path="", seed=2)
    with one_process() as world:
        losses = row_losses(load_whole(open_saved_run(tmp_path / "run", verify=True), world=world), rows)
    assert torch.tensor(losses.mean()).exp().item() == pytest.approx(record["perplexity"]["after"]["value"], rel=1e-9)
    assert record["perplexity"]["num_tokens"] == 4 * 256


def test_rows_that_cannot_be_read_are_refused(command: Any, run_directory: Path, shard: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "short", [np.arange(9)])
    write_shard(tmp_path / "odd", [np.full(600, VOCAB_SIZE + 7)])
    for prefix, further, message in (
        (shard, ("--row-length", 257), "--row-length: must be at most 256, the positions of the model"),
        (tmp_path / "short", (), "--validation: has 9 tokens, but a row has 256, and the one after it"),
        (tmp_path / "odd", (), f"--validation: contains token {VOCAB_SIZE + 7}, but the model has"),
    ):
        with pytest.raises(ConfigError, match=message):
            command(run_directory, tmp_path / "run", "--bits", 8, "--validation", prefix, *further)
    assert not (tmp_path / "run").exists()


def generate_under_layouts(path: str) -> list[list[int] | None]:
    return [
        generate(Path(path), tensor_model_parallel_size=2),
        generate(Path(path), pipeline_model_parallel_size=2),
        generate(Path(path), tensor_model_parallel_size=2, params_dtype="bf16"),
    ]


@pytest.mark.parametrize("further", [(), ("--offsets",)])
def test_texts_are_the_same_under_every_layout(
    further: tuple[str, ...], command: Any, run_directory: Path, tmp_path: Path
) -> None:
    command(run_directory, tmp_path / "run", "--bits", 4, *further)
    alone = generate(tmp_path / "run")
    tensor, pipeline, kernels = run_distributed(generate_under_layouts, 2, str(tmp_path / "run"))[0]
    assert tensor == alone and pipeline == alone
    # bf16 may choose another token where two are close; the first one is not close.
    assert kernels is not None and alone is not None and len(kernels) == len(alone) and kernels[0] == alone[0]


@pytest.mark.parametrize(("bits", "further"), [(8, ()), (4, ()), (4, ("--offsets",))])
def test_kernels_compute_the_logits_of_the_weights(
    bits: int, further: tuple[str, ...], command: Any, run_directory: Path, tmp_path: Path
) -> None:
    command(run_directory, tmp_path / "run", "--bits", bits, *further)
    from trainer.inference.model_runner import NewTokens, ReplicaStep  # noqa: PLC0415 - after the shim

    step = ReplicaStep(rows=(NewTokens(row=0, start=0, tokens=PROMPT),))
    logits = {}
    for packs in (True, False):
        model = load_model(ModelOptions(path=tmp_path / "run", params_dtype="bf16"), packs_weights=packs)
        kernels = [module.packed for module in model.model.modules() if getattr(module, "packed", None) is not None]
        # Four linear layers in each of four layers.
        assert len(kernels) == (16 if packs else 0)
        assert (model.model.packed_output is not None) == packs
        (logits[packs],) = model.runner.run([step])
        stop_world()
    found, expected = (logits[packs][:, :VOCAB_SIZE] for packs in (True, False))
    # Both are bf16; 8 significant bits through four layers.
    assert float((found - expected).abs().max()) < 0.03 * float(expected.abs().max())


@pytest.mark.parametrize(("kind", "bits", "further"), [("Q8_0", 8, ()), ("Q4_0", 4, ()), ("Q4_1", 4, ("--offsets",))])
def test_a_gguf_file_has_the_same_weights(
    kind: str, bits: int, further: tuple[str, ...], command: Any, run_directory: Path, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    from trainer.huggingface.gguf_files import open_gguf  # noqa: PLC0415 - gguf is optional

    command(run_directory, tmp_path / "run", "--bits", bits, "--group-size", 32, *further)
    command(run_directory, tmp_path / "model.gguf", "--gguf", kind)
    (tmp_path / "folder").mkdir()
    # transformers' own reading of the file computes the same logits.
    source = open_gguf(tmp_path / "model.gguf", folder=tmp_path / "folder")
    imported = import_model(source, tmp_path / "imported", has_gate=True).checkpoint
    expected, found = weights_of(open_saved_run(tmp_path / "run", verify=True).checkpoint), weights_of(imported)
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name
    own, theirs = (open_saved_run(path, verify=True).tokenizer_path for path in (run_directory, tmp_path / "imported"))
    from trireme.tokenizer.tokenizer import Tokenizer  # noqa: PLC0415 - used here only

    assert own is not None and theirs is not None
    text = "hello, wonderful world 1234!"
    assert Tokenizer(own).encode(text) == Tokenizer(theirs).encode(text)


def test_a_gguf_file_is_written_without_words_of_the_library(run_directory: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    done = run_module("trainer.quantize", run_directory, tmp_path / "model.gguf", "--gguf", "Q8_0")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"] == str(tmp_path / "model.gguf")
    assert done.stdout.endswith("}\n") and done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_offsets_meet_a_model_from_a_q4_1_file_exactly(command: Any, shard: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    from tests.huggingface.gguf_model import write_gguf  # noqa: PLC0415 - gguf is optional
    from trainer.huggingface.gguf_files import open_gguf  # noqa: PLC0415 - gguf is optional

    tokenizer = make_tokenizer()
    write_gguf(tmp_path / "first.gguf", make_model(tokenizer), tokenizer, kind=gguf.GGMLQuantizationType.Q4_1)

    def weights_of_file(name: str) -> dict[str, torch.Tensor]:
        (tmp_path / f"{name}_folder").mkdir()
        source = open_gguf(tmp_path / f"{name}.gguf", folder=tmp_path / f"{name}_folder")
        return weights_of(import_model(source, tmp_path / name, has_gate=False).checkpoint)

    expected = weights_of_file("first")
    options = ("--embedding-bits", 32, "--calibration", shard, "--calibration-rows", 4, "--validation", shard)
    record = command(tmp_path / "first", tmp_path / "run", "--bits", 4, "--offsets", *options)
    assert record["perplexity"]["ratio"]["value"] == 1
    command(tmp_path / "first", tmp_path / "second.gguf", "--gguf", "Q4_1", *options)
    found = weights_of(Path(record["output"])), weights_of_file("second")
    for name, weight in expected.items():
        assert all(torch.equal(one[name], weight) for one in found), name


def test_it_is_exported_with_its_dequantized_weights(command: Any, run_directory: Path, tmp_path: Path) -> None:
    from trainer.huggingface.exporting import export_model  # noqa: PLC0415 - after the shim

    command(run_directory, tmp_path / "run", "--bits", 4)
    exported = export_model(open_saved_run(tmp_path / "run", verify=True), tmp_path / "exported")
    assert exported.gate is not None  # its logits are those of transformers
    from safetensors.torch import load_file  # noqa: PLC0415 - used here only

    weights = weights_of(open_saved_run(tmp_path / "run", verify=True).checkpoint)
    found = load_file(tmp_path / "exported" / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    assert torch.equal(found, weights["decoder.layers.mlp.linear_fc2.weight (1,)"])


def test_training_from_it_is_refused(command: Any, run_directory: Path, tmp_path: Path) -> None:
    record = command(run_directory, tmp_path / "run", "--bits", 8)
    checkpoint = Path(record["output"])
    state = read_state(checkpoint)
    (found,) = check_weights(state.model_config(), padded_vocab_size=state.padded_vocab_size, checkpoint=checkpoint)
    assert str(found).startswith("pretrained_checkpoint: holds quantized weights, which are too coarse")
    with pytest.raises(ConfigError, match="is quantized already"):
        command(tmp_path / "run", tmp_path / "again", "--bits", 8)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--bits: must be set without --gguf"),
        (["--bits", "8", "--gguf", "Q4_0"], "--bits: contradicts --gguf Q4_0, which has 4 bits"),
        (["--bits", "4", "--group-size", "0"], "--group-size: must be at least 1"),
        (["--gguf", "Q4_0", "--group-size", "48"], "--group-size: must be a multiple of 32"),
        (["--gguf", "Q4_0", "--embedding-bits", "4"], "--embedding-bits: must be 8 or 32 in a GGUF file"),
        (["--bits", "4", "--method", "gptq"], "--method: requires calibration rows"),
        (["--bits", "4", "--method", "round", "--calibration", "x"], "--calibration: is read with --method gptq only"),
        (["--bits", "4", "--max-size", "1.2"], "--max-size: must be between 0 and 1"),
        (["--bits", "4", "--max-size", "0.2"], "--max-size: requires 4 bits with calibration"),
        (["--bits", "8", "--offsets"], "--offsets: requires groups of 4 bits"),
        (["--gguf", "Q4_0", "--offsets"], "--offsets: requires groups of 4 bits"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["quantize", str(tmp_path), str(tmp_path / "out"), *arguments])
    parsed: argparse.Namespace = quantize._parse()
    with pytest.raises(ConfigError, match=message):
        quantize.run(parsed)
