"""Everything that can be known before a run is queued, all at once.

usage: python -m launch.preflight [checksums=false] [sniff=true] [on_nodes=true] [accept=CHECK,...] OVERRIDES

OVERRIDES are those of `trainer.train`. Checked are: the rules of the configuration; the layout against the cluster's
hosts; shards with their checksums (checksums=false: by size), tokenizer, checkpoint, run directory; memory, by the
planner; room for all checkpoints that are kept; W&B's credentials; the container's image; the port; the clock; the
libraries' versions; whether Slurm would take the job (sbatch --test-only), where it is installed.

  sniff=true     also measure this host's devices and links, and name what is slow or damaged
  on_nodes=true  the same as a job on the cluster's nodes: also their links, clocks and versions, and whether the
                 run directory can be written from them
  accept=layout  what this check finds is meant: a warning, not an error

Exit codes: 0 the run can be queued, 2 it cannot; every reason is printed with its fix.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from launch.preflight.checks import check_inputs, check_layout, check_memory
from launch.preflight.cli import Request, parse_request
from launch.preflight.finding import Finding, Verdict, accept, judge, skipped
from launch.preflight.hardware import sniff_here, sniff_nodes
from launch.preflight.host_checks import (
    check_clock,
    check_container,
    check_disk,
    check_libraries,
    check_port,
    check_wandb,
)
from launch.preflight.slurm_job import check_slurm
from trainer.config.derived import count_processes, pad_vocab_size
from trainer.config.load import load_config
from trainer.config.model_math import count_parameters
from trainer.config.schema import TrainConfig
from trainer.config.validate import check_packages, needed_packages, validate
from trireme.errors import EXIT_BAD_INPUT, EXIT_OK, exit_code_of
from trireme.progress import format_number

STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.ERROR: "bold red", Verdict.SKIPPED: "dim"}


def main() -> int:
    """The command."""
    return exit_code_of(lambda: run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Make all checks and print what they found.

    Returns:
        The exit code.
    Raises:
        ConfigError: the command line cannot be read, or composes to no configuration.
    """
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write((__doc__ or "").lstrip())
        return EXIT_OK
    request = parse_request(arguments)
    config = load_config(request.overrides)
    findings = _make_checks(request, config)
    _print(findings)
    return EXIT_BAD_INPUT if any(finding.verdict is Verdict.ERROR for finding in findings) else EXIT_OK


def _make_checks(request: Request, config: TrainConfig) -> list[Finding]:
    findings: list[Finding] = []
    told: set[str] = set()
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("")
        for name, check in _checks(request, config):
            progress.update(task, description=name)
            finding = check()
            fresh = [violation for violation in finding.violations if str(violation) not in told]
            told |= {str(violation) for violation in fresh}
            if finding.violations and not fresh:  # another check has said it
                finding = skipped(name, "what it found is said above")
            elif len(fresh) < len(finding.violations):
                finding = judge(name, fresh, otherwise="")
            findings.append(accept(finding) if name in request.accept else finding)
    return findings


def _checks(request: Request, config: TrainConfig) -> Iterator[tuple[str, Callable[[], Finding]]]:
    """Name and body of each, cheap ones first."""
    num_processes = count_processes(config)
    run_directory = Path(config.output_dir, config.run_name)
    violations = validate(config, world_size=num_processes)
    good = f"{format_number(num_processes, 'process')}; every rule holds"
    yield "configuration", lambda: judge("configuration", violations, otherwise=good)
    yield "layout", lambda: check_layout(config)
    yield (
        "inputs",
        lambda: check_inputs(request.overrides, config=config, world_size=num_processes, reads_all=request.checksums),
    )
    yield "memory", lambda: _memory(config, is_valid=not violations)
    yield "disk", lambda: _disk(config, run_directory)
    yield "wandb", lambda: check_wandb(config.logging.wandb, environment=os.environ)
    yield "container", lambda: check_container(config.cluster.slurm.container)
    yield "port", lambda: check_port(os.environ)
    yield "clock", lambda: check_clock(run_directory)
    yield "libraries", lambda: check_libraries(lacking=check_packages(config))
    yield "slurm", lambda: _slurm(config, is_valid=not violations)
    yield "sniff", lambda: _sniff(request, config, run_directory)


def _memory(config: TrainConfig, *, is_valid: bool) -> Finding:
    if not is_valid:
        return skipped("memory", "the configuration breaks rules")
    return check_memory(config)


def _slurm(config: TrainConfig, *, is_valid: bool) -> Finding:
    if not is_valid:
        return skipped("slurm", "the configuration breaks rules")
    return check_slurm(config)


def _disk(config: TrainConfig, run_directory: Path) -> Finding:
    vocab_size = config.model.vocab_size
    if vocab_size is None:
        return skipped("disk", "model.vocab_size is null: the tokenizer says how large the embedding is")
    return check_disk(
        config.checkpoint,
        run_directory=run_directory,
        num_parameters=count_parameters(config.model, pad_vocab_size(config.model, vocab_size)),
        train_iters=config.training.train_iters,
    )


def _sniff(request: Request, config: TrainConfig, run_directory: Path) -> Finding:
    if request.on_nodes:
        return sniff_nodes(config, run_directory=run_directory)
    if request.sniff:
        return sniff_here(
            num_processes=_processes_here(config), run_directory=run_directory, needed=needed_packages(config)
        )
    return skipped("sniff", "ask with sniff=true for this host, with on_nodes=true for the cluster's")


def _processes_here(config: TrainConfig) -> int:
    return config.cluster.gpus_per_node or count_processes(config)


def _print(findings: Sequence[Finding]) -> None:
    table = Table("check", "verdict", "what was found", title="Preflight")
    for finding in findings:
        table.add_row(finding.check, finding.verdict.value, finding.text, style=STYLES[finding.verdict])
    console = Console()
    console.print(table)
    for finding in findings:
        for violation in finding.violations:
            # Plain: a path must stay one line that can be copied.
            print(f"{finding.verdict.value}: {finding.check}: {violation}")


if __name__ == "__main__":
    sys.exit(main())
