"""The contracts on imports bite: a forbidden import, planted in each room, is named by import-linter."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("trireme", "trainer", "launch", "data_tools")
PLANTED = {
    # What stands below imports what stands above it.
    "trireme.errors": "trireme.config.compose",
    "trireme.shards.shard": "trireme.tokenizer.tokenizer",
    "trireme.tokenizer.backends": "trireme.examples.chat",
    "trireme.examples.chat": "trireme.verbs",
    "trireme.config.fields": "trainer.config.schema",
    "trireme.progress": "torch",
    "data_tools.errors": "data_tools.document",
    "data_tools.document": "data_tools.config.schema",
    "data_tools.config.schema": "data_tools.work.pool",
    "data_tools.work.journal": "data_tools.dedup.corpus",
    "data_tools.inputs.folders": "data_tools.readers.open",
    "data_tools.text.words": "data_tools.filters.url",
    "data_tools.dedup.minhash": "data_tools.readers.warc",
    "data_tools.readers.json_values": "data_tools.filters.size",
    "data_tools.extract.superscripts": "data_tools.output.tables",
    "data_tools.tokenizer.sample": "data_tools.stages.run",
    "data_tools.filters.size": "data_tools.filters.language",
    "data_tools.output.stats": "data_tools.report.page",
    "data_tools.report.figures": "data_tools.stages.cache",
    "data_tools.stages.steps": "data_tools.executors.ray",
    "data_tools.executors.run_share": "data_tools.prepare",
    "data_tools.crawl.fetch": "trainer.data.blend",
    "data_tools.examples.packing": "data_tools.inspect",
    "trainer.config.parallel": "trainer.data.sampler",
    "trainer.scores.tags": "trainer.config.model",
    "trainer.suite.words": "trainer.config.run",
    "trainer.data.permutation": "trainer.engine.base",
    "trainer.model.norm": "trainer.loop.lr_schedule",
    "trainer.parallel.gloo_groups": "trainer.health.rank_state",
    "trainer.engine.gradients": "trainer.checkpoint.collective",
    "trainer.run_directory.lock": "trainer.metrics.jsonl",
    "trainer.checkpoint.collective": "trainer.loop.signals",
    "trainer.metrics.record": "trainer.build",
    "trainer.health.phase_limits": "trainer.resume",
    "trainer.loop.lr_schedule": "trainer.inputs",
    "trainer.data_inputs": "trainer.inputs",
    "trainer.certificate.bounds": "trainer.train",
    "trainer.huggingface.record": "trainer.import_hf",
    "trainer.inference.sampling": "trainer.generate",
    "trainer.compression.rounding": "trainer.quantize",
    "trainer.evaluation.likelihood": "trainer.harness",
    "trainer.interpret.lens": "trainer.probe",
    "trainer.fairness.intervals": "trainer.bias",
    "launch.cli": "trainer.data.blend",
    "launch.plan.job": "torch",
    "launch.slurm.sweep": "data_tools.config.schema",
    "launch.preflight.finding": "trainer.model.norm",
}
"""Importing module -> what it may not import; at least one of every room."""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What import-linter says when everything is planted at once."""
    root = tmp_path_factory.mktemp("rooms")
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, root / package, ignore=shutil.ignore_patterns("__pycache__", "*.gz"))
    shutil.copy(REPOSITORY / "pyproject.toml", root)
    for module, imported in PLANTED.items():
        with (root / Path(*module.split("."))).with_suffix(".py").open("a") as stream:
            stream.write(f"\nimport {imported}\n")
    lint = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    command = [sys.executable, "-c", lint]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("module", PLANTED)
def test_a_forbidden_import_is_named(output: str, module: str) -> None:
    assert f"{module} -> {PLANTED[module]} " in output


def test_every_room_is_tried() -> None:
    rooms = {
        f"{package}.{folder.name}"
        for package in PACKAGES
        for folder in (REPOSITORY / package).iterdir()
        if (folder / "__init__.py").exists()
    }
    assert rooms <= {module.rsplit(".", 1)[0] for module in PLANTED}
