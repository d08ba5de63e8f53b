"""Every family: its tiny model is imported and exported, each proved by logits, and comes back bit for bit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.huggingface.models import MODELS, save_model
from trainer.checkpoint.trainer_state import read_state
from trainer.huggingface.config_json import read_config_json
from trainer.huggingface.exporting import export_model
from trainer.huggingface.families.family import find_differences
from trainer.huggingface.families.registry import choose_family, read_model
from trainer.huggingface.gate import MAX_RELATIVE_DIFFERENCE
from trainer.huggingface.importing import import_model, open_source
from trainer.saved_run import open_saved_run
from trireme.shards.examples import RECORD_NAME, ExamplesRecord, write_record


@pytest.mark.parametrize("name", MODELS)
def test_import_and_export(name: str, tmp_path: Path) -> None:
    source = save_model(name, tmp_path / "source")
    imported = import_model(open_source(source), tmp_path / "run")
    assert imported.gate is not None
    assert imported.gate["relative_difference"] <= MAX_RELATIVE_DIFFERENCE
    exported = export_model(open_saved_run(tmp_path / "run", verify=True), tmp_path / "exported")
    assert exported.gate is not None
    assert exported.model_type == imported.model_type == json.loads((source / "config.json").read_text())["model_type"]
    before, after = (load_file(path / "model.safetensors") for path in (source, tmp_path / "exported"))
    assert before.keys() == after.keys()
    different = [
        key for key in before if before[key].dtype != after[key].dtype or not torch.equal(before[key], after[key])
    ]
    assert not different
    model = read_state(imported.checkpoint).model_config()
    _, written = read_model(read_config_json(tmp_path / "exported"))
    assert not find_differences(model, written)
    assert model.max_position_embeddings == written.max_position_embeddings


@pytest.mark.parametrize("name", MODELS)
def test_the_family_of_a_model_is_found_without_a_hint(name: str) -> None:
    """A run that was not imported has no hint: its model decides, and equal models may be written as any family."""
    family, model = read_model(json.loads(MODELS[name]().config.to_json_string(use_diff=False)))
    vocab_size = model.vocab_size or 0
    chosen = choose_family(model, vocab_size=vocab_size)
    assert chosen is family


def test_names_of_classes_and_the_kind_of_problem_survive(tmp_path: Path) -> None:
    source = save_model("bert_SequenceClassification", tmp_path / "source")
    path = source / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"problem_type": "multi_label_classification"}))
    import_model(open_source(source), tmp_path / "run", has_gate=False)
    export_model(open_saved_run(tmp_path / "run", verify=True), tmp_path / "exported", has_gate=False)
    written = read_config_json(tmp_path / "exported")
    assert written["id2label"] == {"0": "good", "1": "bad", "2": "so so"}
    assert written["label2id"] == {"good": 0, "bad": 1, "so so": 2}
    assert written["problem_type"] == "multi_label_classification"
    assert written["architectures"] == ["BertForSequenceClassification"]
    # A run from it has classes of its own.
    saved = open_saved_run(tmp_path / "run", verify=False)
    own = ExamplesRecord(task="classify", seq_length=8, pad_token_id=0, num_examples=1, labels=("a", "b", "c"))
    (saved.checkpoint / RECORD_NAME).write_text(write_record(own))
    export_model(saved, tmp_path / "trained", has_gate=False)
    trained = read_config_json(tmp_path / "trained")
    assert list(trained["id2label"].values()) == ["a", "b", "c"]
    assert trained["problem_type"] == "single_label_classification"
