"""Train on a Slurm cluster: check everything, write one readable batch script, submit it.

usage: python -m launch.slurm [action=submit|status|stop|logs] [dry_run=true] [chain=N] [-m] OVERRIDES
       python -m launch.slurm data_prep=OPTION [dry_run=true] [data_prep.FIELD=VALUE ...]

OVERRIDES are those of `trainer.train`; cluster.num_nodes, cluster.gpus_per_node and cluster.slurm.* describe the job
(docs/launch/clusters.md). For example:

  python -m launch.slurm cluster=h100 cluster.num_nodes=4 cluster.slurm.partition=gpu run_name=first \\
    model=llama_8b parallel=tp8 precision=bf16 'data.train=[{paths:[/data/crawl]}]' tokenizer.path=/data/tok.model
  python -m launch.slurm run_name=first action=logs follow=true

  action=submit   check, copy code and configuration into the run directory, submit (the default)
  action=status   what the run's jobs do, its last step and its newest checkpoint
  action=stop     ask the run to save and leave, and not to come back; take what waits from the queue
  action=logs     the end of what the run printed; follow=true goes on printing
  dry_run=true    print the batch script and stop; nothing is written
  chain=N         N jobs, each going on where the one before it had to stop, instead of one that requeues itself
  -m, --multirun  an override with several values (optimizer.lr=1e-3,3e-4) is one run each, in a job array
  data_prep=...   prepare data in job arrays: data_tools.prepare with data_prep.executor.kind=slurm

Exit codes: 0 done; 1 Slurm refused; 2 bad configuration or input (every problem is printed, nothing is submitted).
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
    """The command: exit code 2 with every problem named where the configuration cannot be used."""
    try:
        return run_command(lambda: run(sys.argv[1:]))
    except SlurmError as error:
        print(f"Slurm refused:\n  {error}", file=sys.stderr)
        return EXIT_STOPPED
    except OSError as error:
        print(f"{error.filename}: could not be read or written ({error.strerror})", file=sys.stderr)
        return EXIT_STOPPED


def run(arguments: Sequence[str]) -> int:
    """Do what the command line says.

    Raises:
        ConfigError: the configuration, or the command line, cannot be used.
        SlurmError: Slurm is not there, or refuses.
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
        command = ["python", "-m", "launch.slurm", *arguments]
        show_jobs(jobs, command=command) if request.dry_run else submit_jobs(jobs, command=command)
    return EXIT_OK


def _show_logs(request: Request, configs: Sequence[TrainConfig]) -> None:
    if len(configs) > 1:
        rule, fix = "names several runs", "leave -m and name one with run_name"
        raise ConfigError([Violation(path="action", value="logs", message=rule, fix=fix)])
    show_logs(configs[0], follow=request.follow)


def _prepare_data(request: Request) -> None:
    """Become the command that prepares data; its jobs go on by themselves, and it knows its own settings."""
    problems = list(request.problems)
    for word, value, usual in (("action", request.action, "submit"), ("chain", request.chain, 1)):
        if value != usual:
            rule, fix = "is for training", "leave it out: the output names squeue and scancel for these jobs"
            problems.append(Violation(path=word, value=value, message=rule, fix=fix))
    if request.is_sweep:
        rule, fix = "is for training", "leave it out"
        problems.append(Violation(path="option", value="-m", message=rule, fix=fix))
    raise_if_any(problems)
    executor = ["data_prep.executor.kind=slurm", *(["data_prep.executor.dry_run=true"] if request.dry_run else [])]
    command = [sys.executable, "-m", "data_tools.prepare", *request.overrides, *executor]
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
