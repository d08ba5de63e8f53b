"""Train on a Slurm cluster: check the configuration, write one readable batch script, submit it.

usage: trireme slurm [action=submit|status|stop|logs] [dry_run=true] [chain=N] [-m] OVERRIDES
       trireme slurm data_prep=OPTION [dry_run=true] [data_prep.FIELD=VALUE ...]

OVERRIDES are those of `trireme train`; cluster.num_nodes, cluster.gpus_per_node and cluster.slurm.* describe the job
(docs/launch/clusters.md). For example:

  trireme slurm cluster=h100 cluster.num_nodes=4 cluster.slurm.partition=gpu run_name=first \\
    model=llama_8b parallel=tp8 precision=bf16 'data.train=[{paths:[/data/crawl]}]' tokenizer.path=/data/tok.model
  trireme slurm run_name=first action=logs follow=true

  action=submit   check, copy code and configuration to the run directory, submit (default)
  action=status   show the run's jobs, its last step and its latest checkpoint
  action=stop     stop the run: running jobs save a checkpoint and exit, pending jobs are cancelled
  action=logs     print the end of the run's output; follow=true keeps following it
  dry_run=true    print the batch script and exit; nothing is written
  chain=N         submit N dependent jobs, each resuming the run when the previous one reaches its time limit, instead
                  of one job that requeues itself
  -m, --multirun  sweep: an override with several values (optimizer.lr=1e-3,3e-4) becomes one run each, in a job array
  data_prep=...   prepare data in job arrays: trireme prepare with data_prep.executor.kind=slurm

Exit codes: 0 done; 1 Slurm failed or rejected the job; 2 bad configuration or input (all errors are printed, nothing
is submitted).
"""

import os
import sys
from collections.abc import Sequence

from launch.slurm.cli import Request, parse_request
from launch.slurm.runs import load_runs
from launch.slurm.status import print_status, show_logs, stop_runs
from launch.slurm.submit import plan_jobs, show_jobs, submit_jobs
from trainer.config.schema import TrainConfig
from trireme.command import run_command
from trireme.errors import EXIT_OK, EXIT_STOPPED, ConfigError, Violation, raise_if_any
from trireme.slurm import SlurmError


def main() -> int:
    """Run the command; an invalid configuration prints all errors and exits with code 2."""
    try:
        return run_command(lambda: run(sys.argv[1:]))
    except SlurmError as error:
        print(f"Slurm error:\n  {error}", file=sys.stderr)
        return EXIT_STOPPED
    except OSError as error:
        print(f"{error.filename}: cannot read or write this file: {error.strerror}", file=sys.stderr)
        return EXIT_STOPPED


def run(arguments: Sequence[str]) -> int:
    """Execute the command line.

    Raises:
        ConfigError: the configuration or the command line is invalid.
        SlurmError: Slurm is not installed or refuses a command.
    """
    if {"--help", "-h"} & set(arguments):
        sys.stdout.write((__doc__ or "").lstrip())
        return EXIT_OK
    request = parse_request(arguments)
    if any(override.startswith(("data_prep=", "data_prep.")) for override in request.overrides):
        _prepare_data(request)
    runs = load_runs(request)
    if request.action == "status":
        print_status(runs.configs)
    elif request.action == "stop":
        stop_runs(runs.configs)
    elif request.action == "logs":
        _show_logs(request, runs.configs)
    else:
        jobs = plan_jobs(request, runs)
        command = ["trireme", "slurm", *arguments]
        show_jobs(jobs, command=command) if request.dry_run else submit_jobs(jobs, command=command)
    return EXIT_OK


def _show_logs(request: Request, configs: Sequence[TrainConfig]) -> None:
    if len(configs) > 1:
        rule, fix = "shows one run only", "Omit -m, and set run_name to one of the runs."
        raise ConfigError([Violation(path="action=logs", value="", message=rule, fix=fix)])
    show_logs(configs[0], follow=request.follow)


def _prepare_data(request: Request) -> None:
    """Replace this process by the command that prepares data; it checks its own settings."""
    problems = list(request.problems)
    for word, value, usual in (("action", request.action, "submit"), ("chain", request.chain, 1)):
        if value != usual:
            rule = "applies to training only"
            fix = f"Omit {word}; manage the jobs of a data preparation with squeue and scancel."
            problems.append(Violation(path=word, value=value, message=rule, fix=fix))
    if request.is_sweep:
        problems.append(Violation(path="-m", value="", message="applies to training only", fix="Omit -m."))
    raise_if_any(problems)
    executor = ["data_prep.executor.kind=slurm", *(["data_prep.executor.dry_run=true"] if request.dry_run else [])]
    command = [sys.executable, "-m", "data_tools.prepare", *request.overrides, *executor]
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
