"""Fine-tuning from an encoder without a head: its weights are taken, the scoring layer is new, the result is used."""

import json
from pathlib import Path

import pytest
import torch

from tests.huggingface.models import BERT, randomize, transformers
from tests.inference.test_fill_mask import write_tokenizer
from tests.train.commands import losses_of, tensors_of
from tests.train.small_run import run_command
from trainer.huggingface.importing import import_model, open_source

FURTHER = (
    "precision=fp32",
    "training.train_iters=1",
    "training.global_batch_size=4",
    "training.micro_batch_size=2",
    "optimizer.lr=1e-12",
    "lr_schedule.min_lr=0",
    "lr_schedule.warmup_steps=0",
    "optimizer.weight_decay=0",
)
"""A step that changes nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    (folder / "bert").mkdir()
    randomize(transformers.BertModel(transformers.BertConfig(**BERT))).save_pretrained(folder / "bert")
    write_tokenizer(folder / "bert")
    import_model(open_source(folder / "bert"), folder / "import")
    rows = [{"text": f"the {word} sat on the mat", "label": word} for word in ("cat", "dog", "house") for _ in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run_command(
        "data_tools.prepare_examples",
        *("--task", "classify", "--input", "rows.jsonl", "--tokenizer", "bert/tokenizer.json"),
        *("--seq-length", "32", "--output", "rows/train"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder


def finetune(folder: Path, name: str, *further: str) -> tuple[Path, str]:
    done = run_command(
        "launch.finetune",
        "task=classify",
        "pretrained_checkpoint=import",
        "data.train=[{paths:[rows/train]}]",
        f"run_name={name}",
        *FURTHER,
        *further,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder / "outputs" / name, done.stderr + done.stdout


def test_body_and_pooler_are_taken_and_the_scores_are_new(folder: Path) -> None:
    run, log = finetune(folder, "one")
    assert "It has no weights for this head: head.classifier.* begin with random values." in log
    before = tensors_of(folder / "import" / "checkpoints" / "step_00000000")
    after = tensors_of(run / "checkpoints" / "step_00000001")
    weights = {key for key in after if key.startswith("model.")}
    assert weights - before.keys() == {"model.head.classifier.weight", "model.head.classifier.bias"}
    assert "model.head.pooler.weight" in before.keys() & weights
    for key in weights & before.keys():
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=1e-9)
    assert 0 < after["model.head.classifier.weight"].std() < 0.05, "drawn with model.init_method_std"


def test_the_new_layer_does_not_depend_on_the_layout(folder: Path) -> None:
    one, _ = finetune(folder, "single")
    two, _ = finetune(folder, "cut", "parallel.tensor_model_parallel_size=2", "parallel.sequence_parallel=true")
    # fp32 sums in another order.
    assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-5)


def test_the_result_predicts_and_exports(folder: Path) -> None:
    run, _ = finetune(folder, "used")
    done = run_command(
        "trainer.predict", str(run), "--input", "rows.jsonl", "--output", "predictions.jsonl", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["labels"] == ["cat", "dog", "house"] and sum(map(sum, summary["confusions"])) == 12
    done = run_command("trainer.export_hf", str(run), str(folder / "exported"), cwd=folder)
    assert done.returncode == 0, done.stderr
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "exported")
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "house"}
