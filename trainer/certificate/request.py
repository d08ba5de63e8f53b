"""Read the command line: layouts, each with its configuration and its reference, all checked together."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trainer.certificate.layouts import LayoutSpec, read_layout, read_layouts
from trainer.certificate.settings import CertifyConfig, load_settings
from trainer.certificate.synthetic import write_synthetic_examples
from trainer.config.load import load_config
from trainer.config.run import DataConfig, DatasetConfig
from trainer.config.schema import TrainConfig
from trainer.config.validate import check_packages, validate
from trainer.data_inputs import check_data_files, open_tokenizer
from trireme.errors import ConfigError, Violation, raise_if_any
from trireme.files import nearest_existing_parent
from trireme.shards.shard import ShardWriter, shard_file, token_dtype

_OWN_GROUP = "certify"
_DROPOUTS = ("hidden_dropout", "attention_dropout", "head_dropout")
_MAX_SYNTHETIC_TOKENS = 1 << 20
_PROCESS_BYTES = 384 << 20
"""Memory of a process that has imported PyTorch, Megatron-Core and DeepSpeed: 393 MiB, measured."""
_AS_CONFIGURED = LayoutSpec(name="as configured", place="configuration", how=(), what=())


@dataclass(frozen=True, kw_only=True)
class Run:
    """Hold a layout's configuration and derived values."""

    config: TrainConfig
    vocab_size: int
    tokenizer_eod_id: int | None
    num_processes: int
    is_synthetic: bool
    """Whether the data is synthetic, because no data set is configured."""


@dataclass(frozen=True, kw_only=True)
class RequestedLayout:
    """Hold a layout and the run that it is compared with."""

    name: str
    run: Run
    reference: Run
    """Equal for layouts that compute the same."""
    subject: str
    """The words of the layout that define what is computed."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Hold everything that a certificate covers."""

    settings: CertifyConfig
    overrides: tuple[str, ...]
    """Of the command line, for the record."""
    layouts: tuple[RequestedLayout, ...]


def read_request(arguments: Sequence[str], *, num_devices: int | None) -> Request:
    """Read a command line.

    Args:
        arguments: overrides of the training configuration, `certify=...`, `certify.FIELD=...`, `layouts=[...]`. Without
            arguments, the standard matrix is read.
        num_devices: accelerators of this host; None on a CPU, where the number of processes is not limited.
    Raises:
        ConfigError: all errors of the settings and the layouts.
    """
    own = [_own_name(argument) for argument in arguments if _is_own(argument)]
    training = [argument for argument in arguments if not _is_own(argument)]
    try:
        settings, problems = load_settings(own if arguments else ["certify=standard"])
    except ConfigError as error:
        settings, problems = CertifyConfig(), list(error.violations)
    reader = _Reader([*settings.overrides, *training], num_devices=num_devices)
    specs = [_AS_CONFIGURED]
    if settings.layouts:
        specs, found = read_layouts(settings.layouts, shapes=settings.shapes)
        problems += found
    problems += _check_output_dir(Path(settings.output_dir))
    reference = None
    try:
        reference = read_layout(settings.reference, place="certify.reference", shapes=settings.shapes)
    except ConfigError as error:
        problems += error.violations
    layouts = []
    for spec in specs:
        run = reader.read(spec.overrides, spec=spec)
        expected = reader.read([*spec.what, *reference.overrides], spec=reference) if reference else None
        if run is not None and expected is not None:
            layouts.append(RequestedLayout(name=spec.name, run=run, reference=expected, subject=spec.subject))
    raise_if_any([*problems, *reader.violations()])
    return Request(settings=settings, overrides=tuple(arguments), layouts=tuple(layouts))


class _Reader:
    """Compose and check configurations, and collect their errors."""

    def __init__(self, base: Sequence[str], *, num_devices: int | None) -> None:
        self._base = list(base)
        self._num_devices = num_devices
        self._runs: dict[tuple[str, ...], Run | None] = {}
        self._found: dict[str, tuple[Violation, list[LayoutSpec]]] = {}
        self._checked_data: set[str] = set()

    def read(self, overrides: Sequence[str], *, spec: LayoutSpec) -> Run | None:
        """Return the run of a layout, or None if it has errors; the same for the same overrides."""
        key = tuple(overrides)
        if key not in self._runs:
            self._runs[key] = self._read(overrides, spec)
        return self._runs[key]

    def violations(self) -> list[Violation]:
        """Return all errors; one of every layout is an error of the settings that they share."""
        return [
            violation
            if len(specs) == len(self._runs)
            else replace(violation, path=f"{specs[0].place} ({specs[0].name}): {violation.path}")
            for violation, specs in self._found.values()
        ]

    def _read(self, overrides: Sequence[str], spec: LayoutSpec) -> Run | None:
        try:
            config = load_config([*self._base, *overrides])
        except ConfigError as error:
            # Without a data set, the data is synthetic.
            self._refuse([violation for violation in error.violations if violation.path != "data.train"], spec)
            return None
        num_processes = config.parallel.model_parallel_size * (config.parallel.data_parallel_size or 1)
        tokenizer, violations = open_tokenizer(config)
        vocab_size = config.model.vocab_size or (tokenizer.vocab_size if tokenizer else None)
        violations += validate(config, world_size=num_processes, ignore=() if config.data.train else ("data.train",))
        violations += check_packages(config)
        violations += _check_run(config, num_processes=num_processes, num_devices=self._num_devices)
        if config.data.train and str(config.data) not in self._checked_data:
            self._checked_data.add(str(config.data))
            violations += check_data_files(config, vocab_size or 0)
        if violations or vocab_size is None:
            self._refuse(violations, spec)
            return None
        return Run(
            config=config,
            vocab_size=vocab_size,
            tokenizer_eod_id=tokenizer.eos_id if tokenizer else None,
            num_processes=num_processes,
            is_synthetic=not config.data.train,
        )

    def _refuse(self, violations: Sequence[Violation], spec: LayoutSpec) -> None:
        for violation in {str(violation): violation for violation in violations}.values():
            self._found.setdefault(str(violation), (violation, []))[1].append(spec)


def _check_run(config: TrainConfig, *, num_processes: int, num_devices: int | None) -> list[Violation]:
    found = []
    for name in _DROPOUTS:
        if getattr(config.model, name) > 0:
            message, fix = "must be 0, because dropout masks depend on the layout", f"Use model.{name}=0."
            found.append(Violation(path=f"model.{name}", value=getattr(config.model, name), message=message, fix=fix))
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _PROCESS_BYTES
    if num_devices is None and num_processes > most:
        message = f"exceeds this host's memory: libraries alone take {_PROCESS_BYTES >> 20} MiB per process"
        fix = f"Use layouts of at most {most} processes."
        found.append(Violation(path="number of processes", value=num_processes, message=message, fix=fix))
    if num_devices is not None and num_processes > num_devices:
        message = f"must be at most {num_devices}, the number of this host's accelerators"
        fix = "Use smaller layouts, or hide the accelerators with CUDA_VISIBLE_DEVICES= to use the CPU."
        found.append(Violation(path="number of processes", value=num_processes, message=message, fix=fix))
    return found


def _check_output_dir(output_dir: Path) -> list[Violation]:
    """Check that the certificate can be written, before hours are spent on it."""
    there = nearest_existing_parent(output_dir)
    if not there.is_dir():
        message, fix = f"cannot be created: {there} is a file", "Use another directory, or move the file away."
    elif not os.access(there, os.W_OK | os.X_OK):
        message, fix = f"cannot be written: {there} is not writable", "Use another directory."
    else:
        return []
    return [Violation(path="certify.output_dir", value=output_dir, message=message, fix=fix)]


def write_synthetic_data(run: Run, *, folder: Path, num_steps: int) -> DataConfig:
    """Write synthetic documents that a model can learn from: each counts up from its own token in its own stride.

    Returns:
        A data set of one shard with a window for every sample of the run, while that is not too much. Documents end
        with token 0, or with data.eod_token_id. A run that fine-tunes gets `write_synthetic_examples`.
    """
    if run.config.finetune.task is not None:
        return write_synthetic_examples(run.config, vocab_size=run.vocab_size, folder=folder, num_steps=num_steps)
    model, data, vocab_size = run.config.model, run.config.data, run.vocab_size
    num_samples = num_steps * run.config.training.global_batch_size
    num_tokens = min(num_samples * model.seq_length + 1, max(_MAX_SYNTHETIC_TOKENS, 2 * model.seq_length + 1))
    end = run.tokenizer_eod_id if data.eod_token_id is None else data.eod_token_id
    prefix = folder / f"synthetic_{model.seq_length}_{vocab_size}_{num_tokens}_{end}"
    if not shard_file(prefix, ".idx").exists():
        generator = np.random.default_rng(0)
        with ShardWriter(prefix, dtype=token_dtype(vocab_size)) as writer:
            while writer.num_tokens < num_tokens:
                length = int(generator.integers(1, 2 * model.seq_length))
                start, stride = generator.integers(vocab_size), generator.integers(1, 4)
                document = (start + stride * np.arange(length)) % vocab_size
                writer.add_document(np.append(document[document != (end or 0)], end or 0))
            writer.commit()
    return replace(data, train=[DatasetConfig(paths=[str(prefix)])], validation=[], prefetch_steps=0)


def _is_own(argument: str) -> bool:
    path = argument.partition("=")[0].lstrip("+")
    return path in (_OWN_GROUP, "layouts") or path.startswith(f"{_OWN_GROUP}.")


def _own_name(argument: str) -> str:
    return f"{_OWN_GROUP}.{argument.lstrip('+')}" if argument.lstrip("+").startswith("layouts") else argument
