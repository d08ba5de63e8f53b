"""Weight files are written by rows as the library writes them whole, and read back by rows; unsafe ones are refused."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from trainer.huggingface.tensor_map import SourceTensor
from trainer.huggingface.weight_files import PlannedTensor, SafetensorsSource, SafetensorsWriter
from trireme.errors import ConfigError

VALUES = {
    "first": torch.randn(7, 5, generator=torch.Generator().manual_seed(1)),
    "vector": torch.randn(9, generator=torch.Generator().manual_seed(2)).half(),
    "last": torch.randn(4, 3, generator=torch.Generator().manual_seed(3)).bfloat16(),
}


def write(directory: Path, *, max_shard_bytes: int) -> None:
    planned = [
        PlannedTensor(tensor=SourceTensor(name=name, shape=tuple(value.shape)), dtype=value.dtype)
        for name, value in VALUES.items()
    ]
    with SafetensorsWriter(directory, planned, max_shard_bytes=max_shard_bytes) as writer:
        for name, value in reversed(VALUES.items()):  # in any order
            for first in reversed(range(0, len(value), 2)):
                writer.write(name, first, value[first : first + 2].float())


def test_one_file(tmp_path: Path) -> None:
    write(tmp_path, max_shard_bytes=10**9)
    assert os.listdir(tmp_path) == ["model.safetensors"]
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == VALUES.keys()
    for name, value in VALUES.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}, "transformers refuses a file without it"


def test_several_files_with_an_index(tmp_path: Path) -> None:
    write(tmp_path, max_shard_bytes=150)  # the first tensor has 140 bytes, the others 18 and 24
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert sorted(os.listdir(tmp_path)) == [*names, "model.safetensors.index.json"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_size": 140 + 18 + 24},
        "weight_map": {"first": names[0], "last": names[1], "vector": names[1]},
    }
    source = SafetensorsSource(tmp_path)
    assert {name: stored.shape for name, stored in source.tensors.items()} == {
        name: tuple(value.shape) for name, value in VALUES.items()
    }
    assert torch.equal(source.read("first", 2, 5), VALUES["first"][2:5])
    assert torch.equal(source.read("first", 1, 3, axis=1), VALUES["first"][:, 1:3])
    assert torch.equal(source.read("vector", 8, 9), VALUES["vector"][8:])


def messages(directory: Path) -> str:
    with pytest.raises(ConfigError) as found:
        SafetensorsSource(directory)
    return str(found.value)


def test_pickles_are_refused(tmp_path: Path) -> None:
    assert "contains no model.safetensors" in messages(tmp_path)
    torch.save(VALUES, tmp_path / "pytorch_model.bin")
    assert "pytorch_model.bin, a pickle, which could run any code" in messages(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    save_file(VALUES, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-1])
    assert "model.safetensors: cannot be read" in messages(tmp_path)


def test_an_index_stays_in_its_directory_and_tells_the_truth(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    save_file(VALUES, tmp_path / "outside.safetensors")
    save_file(VALUES, inside / "part.safetensors")
    index = inside / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"first": "../outside.safetensors"}}))
    assert "is damaged: '../outside.safetensors' is not the name of a file" in messages(inside)
    index.write_text(
        json.dumps({"metadata": {}, "weight_map": {"first": "part.safetensors", "lost": "part.safetensors"}})
    )
    assert "part.safetensors: lacks lost" in messages(inside)
    index.write_text(
        json.dumps({"metadata": {}, "weight_map": {"first": "part.safetensors", "other": "gone.safetensors"}})
    )
    assert "gone.safetensors: cannot be read" in messages(inside)


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2, 2, dtype=torch.int8)}, tmp_path / "model.safetensors")
    assert "stores weight as I8" in messages(tmp_path)
