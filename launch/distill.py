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

from launch.local import run_with_word
from trainer.config.words import with_teacher
from trireme.errors import exit_code_of


def main() -> int:
    """Run the command; an invalid configuration prints all errors and exits with code 2."""
    return exit_code_of(
        lambda: run_with_word(
            sys.argv[1:],
            usage=__doc__ or "",
            setting="distill.teacher",
            fix="Add teacher=PATH: a run directory or a checkpoint.",
            expand=with_teacher,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
