"""Check everything that can be checked before a run is submitted, all at once.

usage: trireme preflight [checksums=false] [hardware=true] [on_nodes=true] [allow=CHECK,...] OVERRIDES

OVERRIDES are those of `trireme train`. The preflight checks the rules of the configuration; the layout against the
cluster's hosts; shards with their checksums (checksums=false: only their sizes), tokenizer, checkpoint and run
directory; device memory, as predicted by the planner; disk space for all retained checkpoints; W&B credentials; the
container image; the port; the clock; library versions; and, where Slurm is installed, whether it would accept the job
(sbatch --test-only).

  hardware=true  also measure this host's devices and links, and report slow or damaged ones
  on_nodes=true  run the hardware check as a job on the cluster's nodes: also measures the links between hosts, and
                 compares clocks, library versions and access to the run directory
  allow=layout   downgrade this check's failure to a warning

Exit codes: 0 the run can be submitted; 2 it cannot, and every reason is printed with its fix.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from launch.input_process import with_data_errors
from launch.preflight.checks import check_inputs, check_layout, check_memory
from launch.preflight.cli import Request, parse_request
from launch.preflight.finding import Finding, Verdict, allow, judge, skipped
from launch.preflight.hardware import check_hardware_here, check_hardware_on_nodes
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
from trainer.config.lora_math import count_trained_parameters
from trainer.config.schema import TrainConfig
from trainer.config.validate import check_packages, needed_packages, validate
from trireme.errors import EXIT_BAD_INPUT, EXIT_OK, ConfigError, exit_code_of
from trireme.progress import format_number

STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.ERROR: "bold red", Verdict.SKIPPED: "dim"}


def main() -> int:
    """Run the command."""
    return exit_code_of(lambda: run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run all checks and print their results.

    Returns:
        The exit code.
    Raises:
        ConfigError: the command line is invalid.
    """
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write((__doc__ or "").lstrip())
        return EXIT_OK
    request = parse_request(arguments)
    try:
        config = load_config(request.overrides)
    except ConfigError as error:
        raise with_data_errors(error.violations, request.overrides) from error
    findings = _make_checks(request, config)
    _print(findings)
    return EXIT_BAD_INPUT if any(finding.verdict is Verdict.ERROR for finding in findings) else EXIT_OK


def _make_checks(request: Request, config: TrainConfig) -> list[Finding]:
    findings: list[Finding] = []
    reported: set[str] = set()
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("")
        for name, check in _checks(request, config):
            progress.update(task, description=name)
            finding = check()
            fresh = [violation for violation in finding.violations if str(violation) not in reported]
            reported |= {str(violation) for violation in fresh}
            if finding.violations and not fresh:
                finding = skipped(name, "its errors are reported by the checks above")
            elif len(fresh) < len(finding.violations):
                finding = judge(name, fresh, otherwise="")
            findings.append(allow(finding) if name in request.allow else finding)
    return findings


def _checks(request: Request, config: TrainConfig) -> Iterator[tuple[str, Callable[[], Finding]]]:
    """Yield the name and the function of each check, cheap ones first."""
    num_processes = count_processes(config)
    run_directory = Path(config.output_dir, config.run_name)
    violations = validate(config, world_size=num_processes)
    good = f"valid for {format_number(num_processes, 'process')}"
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
    yield "hardware", lambda: _hardware(request, config, run_directory)


def _memory(config: TrainConfig, *, is_valid: bool) -> Finding:
    if not is_valid:
        return skipped("memory", "the configuration is invalid")
    return check_memory(config)


def _slurm(config: TrainConfig, *, is_valid: bool) -> Finding:
    if not is_valid:
        return skipped("slurm", "the configuration is invalid")
    return check_slurm(config)


def _disk(config: TrainConfig, run_directory: Path) -> Finding:
    vocab_size = config.model.vocab_size
    if vocab_size is None:
        return skipped("disk", "model.vocab_size=null: the checkpoint size depends on the tokenizer")
    return check_disk(
        config.checkpoint,
        run_directory=run_directory,
        num_parameters=count_trained_parameters(config.model, config.lora, pad_vocab_size(config.model, vocab_size)),
        train_iters=config.training.train_iters,
    )


def _hardware(request: Request, config: TrainConfig, run_directory: Path) -> Finding:
    if request.on_nodes:
        return check_hardware_on_nodes(config, run_directory=run_directory)
    if request.hardware:
        return check_hardware_here(
            num_processes=_processes_here(config), run_directory=run_directory, needed=needed_packages(config)
        )
    return skipped("hardware", "use hardware=true to measure this host, on_nodes=true to measure the cluster's nodes")


def _processes_here(config: TrainConfig) -> int:
    return config.cluster.gpus_per_node or count_processes(config)


def _print(findings: Sequence[Finding]) -> None:
    table = Table("check", "result", "details", title="Preflight")
    for finding in findings:
        table.add_row(finding.check, finding.verdict.value, finding.text, style=STYLES[finding.verdict])
    console = Console()
    console.print(table)
    for finding in findings:
        for violation in finding.violations:
            # Plain, so that a path stays on one line and can be copied.
            print(f"{finding.verdict.value}: {finding.check}: {violation}")


if __name__ == "__main__":
    sys.exit(main())
