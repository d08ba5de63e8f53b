"""Train on this host: check the configuration, compute the number of processes, start torchrun.

usage: trireme local [--print | --config | --help] OVERRIDES

OVERRIDES are those of `trireme train`: GROUP=OPTION selects a file of conf/GROUP, PATH=VALUE sets one field
(docs/reference/training.md lists all of them). For example:

  trireme local experiment=quickstart training.train_iters=100
  trireme local model=gpt2_124m parallel=tp2_pp2 'data.train=[{paths:[/data/wiki],weight:1}]'

  --print    print the torchrun command and exit
  --config   print the composed configuration as YAML and exit; errors that prevent a start, such as missing data, are
             listed on stderr
  --help     print this help and exit

The number of processes is cluster.gpus_per_node if set, otherwise the product of the tensor, pipeline, context and
data-parallel sizes (parallel.data_parallel_size=null counts as 1). OMP_NUM_THREADS defaults to an equal share of this
host's cores. Ctrl-C and SIGTERM reach the run as if torchrun had been started by hand. Closing the terminal stops the
run like SIGTERM, unless it was started with nohup. Ctrl-Z suspends all processes.

Exit codes: 0 done; 2 bad configuration or input (all errors are printed, nothing is started); 75 stopped by a signal
after saving a checkpoint (rerun the same command to resume); otherwise the exit code of the process that failed first.
"""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.cli import split_arguments
from launch.environment import device_variables, schedule_variables
from launch.input_process import with_data_errors
from trainer.config.derived import count_processes
from trainer.config.load import dump_config, load_config
from trainer.config.schema import TrainConfig
from trainer.config.validate import check_packages, validate
from trireme.command import write_output
from trireme.errors import EXIT_OK, ConfigError, Violation, exit_code_of, format_config_error
from trireme.processes import config_handed_over, set_omp_threads, torchrun_here
from trireme.progress import format_number
from trireme.start_notice import announce_start

OPTIONS = ("--print", "--config", "--help")


def main() -> int:
    """Run the command; an invalid configuration prints all errors and exits with code 2."""
    return exit_code_of(lambda: run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Compose and check the configuration, and replace this process by torchrun, whose processes read it.

    Args:
        arguments: the command line without the program's name.
    Returns:
        0 after printing; otherwise this does not return.
    Raises:
        ConfigError: the configuration is invalid.
    """
    if {"--help", "-h"} & set(arguments):
        sys.stdout.write((__doc__ or "").lstrip())
        return 0
    split = split_arguments(arguments, options=OPTIONS)
    options, overrides = split.options, split.overrides
    config, problems = _load(list(split.check_words()), overrides)
    if "--config" in options:
        sys.stdout.write(dump_config(config))
        if problems:
            outcome = "this configuration cannot be started yet"
            sys.stderr.write(format_config_error(ConfigError(problems), outcome=outcome) + "\n")
        return 0
    if problems:
        raise with_data_errors(problems, overrides)
    num_processes = count_processes(config)
    command = [*torchrun_here(num_processes), "-m", "trainer.train"]
    wanted = device_variables(config, run_directory=Path(config.output_dir, config.run_name).absolute())
    wanted = {name: os.environ.get(name, value) for name, value in {**schedule_variables(config), **wanted}.items()}
    environment = {**set_omp_threads(os.environ, num_processes=num_processes), **wanted}
    if "--print" in options:
        shown = {"OMP_NUM_THREADS": environment["OMP_NUM_THREADS"], **wanted}
        words = [f"{name}={shlex.quote(value)}" for name, value in shown.items()]
        sys.stdout.write(f"{' '.join(words)} {shlex.join([*command, *overrides])}\n")
        return 0
    where = format_number(num_processes, "process")
    announce_start(f"run {config.run_name} ({where})", environment=environment)
    with config_handed_over(dump_config(config)) as handed:
        # Not a child: signals and the exit code are torchrun's without anything in between.
        os.execve(command[0], command, {**environment, **handed})


def run_with_word(
    arguments: Sequence[str], *, usage: str, setting: str, fix: str, expand: Callable[[Sequence[str]], list[str]]
) -> int:
    """Run a command that is `trireme local` with one setting that must be given, under a short name.

    Args:
        arguments: the command line without the program's name.
        usage: printed with --help.
        setting: path of the setting; its last part is the short name.
        fix: completes the error that it is missing.
        expand: writes the short name as the override of the setting.
    Raises:
        ConfigError: the setting is missing, or the configuration is invalid.
    """
    if {"--help", "-h"} & set(arguments):
        write_output(usage.lstrip())
        return EXIT_OK
    overrides = expand(arguments)
    if not any(override.startswith((f"{setting}=", "config_file=", "experiment=")) for override in overrides):
        path = setting.rpartition(".")[2]
        raise ConfigError([Violation(path=path, value="", message="is missing", fix=fix)])
    return run(overrides)


def _load(problems: Sequence[Violation], overrides: Sequence[str]) -> tuple[TrainConfig, list[Violation]]:
    """Load the configuration and collect the rules that it violates.

    Args:
        problems: errors of the command line.
    Raises:
        ConfigError: there are such errors, or the configuration cannot be composed; lists the violated rules, too.
    """
    try:
        config = load_config(overrides)
    except ConfigError as error:
        raise with_data_errors([*problems, *error.violations], overrides) from error
    broken = [*validate(config, world_size=count_processes(config)), *check_packages(config)]
    if config.cluster.num_nodes > 1:
        rule = "must be 1: trireme local starts processes on this host only"
        fix = "Use 1, or trireme slurm, or start torchrun on every host."
        broken.append(Violation(path="cluster.num_nodes", value=config.cluster.num_nodes, message=rule, fix=fix))
    if problems:
        raise with_data_errors([*problems, *broken], overrides)
    return config, broken


if __name__ == "__main__":
    sys.exit(main())
