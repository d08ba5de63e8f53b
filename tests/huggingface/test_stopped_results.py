"""What predict, merge-adapter, export-hf, quantize and prune leave where they are killed, stopped or find no space.

Nothing half-written passes for a result, and the same command works afterwards. The models are a fine-tuned classifier,
and adapters on a run of all weights.
"""

import json
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.train.small_run import run_command, train, write_tokenizer
from tests.train.test_finetune import EXAMPLES, finetune
from tests.train.test_lora import adapt
from tests.trireme.small_disk import small_file_system

SITE = """
import os, signal
name, number, place, which = os.environ["STOP_AT"].split(":")
left = [int(which)]
real = getattr(os, name)
def call(path, *further, **named):
    if isinstance(path, int):
        path_text = os.readlink(f"/proc/self/fd/{path}")
    else:
        path_text = os.path.abspath(os.fspath(path))
    if place in path_text:
        if not left[0]:
            os.kill(os.getpid(), int(number))
        left[0] -= 1
    return real(path, *further, **named)
setattr(os, name, call)
"""
"""Sends this process a signal at a call of a function of `os` with a path in a directory."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    train(folder)
    code, log = adapt(folder, "adapters")
    assert code == 0, log
    write_tokenizer(
        folder / "tokenizer.json", letters="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789."
    )
    (folder / "classify.jsonl").write_text("".join(json.dumps(one) + "\n" for one in EXAMPLES["classify"]))
    for name in ("rows/classify", "rows/classify.validation"):
        prepare = ("--task", "classify", "--input", "classify.jsonl", "--tokenizer", "tokenizer.json")
        done = run_command("data_tools.prepare_examples", *prepare, "--seq-length", "48", "--output", name, cwd=folder)
        assert done.returncode == 0, done.stderr
    finetune(folder, "classify", "classifier", "training.train_iters=4", "training.eval_interval=0")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SITE)
    return folder


ROUNDS = ("--decoding-rounds", "1")
ROWS = ("--data", "data/train", "--rows", "1", "--validation-rows", "2", "--row-length", "8")
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "predict": ("trainer.predict", "outputs/classifier", "--input", "classify.jsonl", "--output", "{}/found.jsonl"),
    "merge": ("trainer.merge_adapter", "outputs/adapters", "{}/merged"),
    "export": ("trainer.export_hf", "outputs/classifier", "{}/exported"),
    "adapter": ("trainer.export_hf", "outputs/adapters", "{}/exported", "--adapter"),
    "quantize": ("trainer.quantize", "outputs/small", "{}/small", "--bits", "8", *ROUNDS),
    "prune": ("trainer.prune", "outputs/small", "{}/small", "--layers", "1", *ROWS, *ROUNDS),
}
RESULTS: Mapping[str, tuple[str, ...]] = {
    "predict": ("found.jsonl",),
    "merge": ("merged/checkpoints/step_00000000/manifest.json",),
    "export": ("exported/config.json", "exported/model.safetensors"),
    "adapter": ("exported/adapter_config.json", "exported/adapter_model.safetensors"),
    "quantize": ("small/checkpoints/step_00000000/manifest.json", "small/compression.json"),
    "prune": ("small/checkpoints/step_00000000/manifest.json", "small/compression.json"),
}


def command(name: str, place: Path) -> list[str]:
    return [word.format(place) for word in COMMANDS[name]]


def results(name: str, place: Path) -> list[str]:
    """What a reader takes for a result."""
    (first, *_) = RESULTS[name]
    return [first] if (place / first).exists() else []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda it: it.name)
@pytest.mark.parametrize(
    ("name", "call", "which"),
    [
        ("predict", "fsync", 0),
        ("merge", "fsync", 0),
        ("merge", "rename", 0),
        ("export", "fsync", 0),
        ("export", "rename", 2),
        ("adapter", "rename", 0),
        ("adapter", "rename", 1),
        ("quantize", "fsync", 0),
        ("quantize", "rename", 0),
        ("prune", "fsync", 0),
        ("prune", "rename", 0),
    ],
)
def test_a_stopped_command_leaves_no_result(
    folder: Path, tmp_path: Path, name: str, call: str, which: int, number: signal.Signals
) -> None:
    stop = {"PYTHONPATH": str(folder / "site"), "STOP_AT": f"{call}:{int(number)}:{tmp_path}:{which}"}
    done = run_command(*command(name, tmp_path), cwd=folder, **stop)
    assert done.returncode in (-number, 128 + number), done.stderr
    assert not results(name, tmp_path)
    if number == signal.SIGTERM:
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
        assert "Traceback" not in done.stderr
    again = run_command(*command(name, tmp_path), cwd=folder)
    assert again.returncode == 0, again.stderr
    assert all((tmp_path / result).is_file() for result in RESULTS[name])
    names = {path.name for path in tmp_path.rglob("*")}
    assert not [one for one in names if one.endswith(".partial") or ".tmp-" in one or ".trireme-" in one]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda it: it.name)
@pytest.mark.parametrize("name", ["quantize", "prune"])
def test_a_compression_that_was_stopped_before_its_result_is_made_again(
    folder: Path, tmp_path: Path, name: str, number: signal.Signals
) -> None:
    """Its checkpoint is whole, but without its figures; SIGTERM deletes it at once, the next start after a kill."""
    kept = tmp_path / "small" / "compression.json"
    stop = {"PYTHONPATH": str(folder / "site"), "STOP_AT": f"fsync:{int(number)}:{kept}:0"}
    done = run_command(*command(name, tmp_path), cwd=folder, **stop)
    assert done.returncode in (-number, 128 + number), done.stderr
    assert kept.parent.exists() == (number == signal.SIGKILL)
    again = run_command(*command(name, tmp_path), cwd=folder)
    assert again.returncode == 0, again.stderr
    assert json.loads(kept.read_text()) == json.loads(again.stdout)
    refused = run_command(*command(name, tmp_path), cwd=folder)
    assert refused.returncode == 2 and "already has checkpoints" in refused.stderr
    assert not [path for path in kept.parent.iterdir() if path.name.startswith(".") and "lock" not in path.name]


@pytest.mark.parametrize(
    ("name", "kibibytes"),
    [
        ("predict", 4),
        ("merge", 4),
        ("merge", 24),
        ("export", 4),
        ("export", 24),
        ("adapter", 4),
        ("adapter", 24),
        ("quantize", 4),
        ("quantize", 24),
        ("prune", 4),
        ("prune", 24),
    ],
)
def test_a_full_disk_is_a_message(folder: Path, tmp_path: Path, name: str, kibibytes: int) -> None:
    with small_file_system(tmp_path / "disk", kibibytes=kibibytes) as disk:
        done = run_command(*command(name, disk), cwd=folder)
        assert done.returncode == 1, done.stderr
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
        assert not [path for path in disk.rglob("*") if path.is_file()]
    assert run_command(*command(name, tmp_path), cwd=folder).returncode == 0
