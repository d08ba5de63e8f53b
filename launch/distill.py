"""Distil a model on this host: train it on the probabilities of a teacher as well as on the text.

usage: trireme distill teacher=PATH [--print | --config | --help] OVERRIDES

This is `trireme local distill.teacher=PATH OVERRIDES`, with its options and exit codes. For example:

  trireme distill teacher=outputs/quickstart experiment=quickstart model.num_layers=2 run_name=half

  teacher               run or import with the same tokenizer; it runs beside the model, under the same layout
  distill.weight        share of the teacher in the loss
  distill.temperature   softens the probabilities of both

On a cluster use `trireme slurm distill.teacher=PATH OVERRIDES`.
"""

import sys

from launch import local
from trainer.config.words import expand_word
from trireme.command import write_output
from trireme.errors import EXIT_OK, ConfigError, Violation, exit_code_of


def main() -> int:
    """Run the command; an invalid configuration prints all errors and exits with code 2."""
    return exit_code_of(lambda: run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Start the run.

    Raises:
        ConfigError: the configuration is invalid.
    """
    if {"--help", "-h"} & set(arguments):
        write_output((__doc__ or "").lstrip())
        return EXIT_OK
    overrides = expand_word(arguments, word="teacher", path="distill.teacher")
    if not any(override.startswith(("distill.teacher=", "config_file=", "experiment=")) for override in overrides):
        fix = "Add teacher=PATH: a run directory or a checkpoint."
        raise ConfigError([Violation(path="teacher", value="", message="is missing", fix=fix)])
    return local.run(overrides)


if __name__ == "__main__":
    sys.exit(main())
