"""Fine-tune a model on this host: check the configuration, compute the number of processes, start torchrun.

usage: trireme finetune task=sft|classify|tag|qa|dpo [--print | --config | --help] OVERRIDES

This is `trireme local finetune.task=TASK OVERRIDES`, with its options and exit codes. For example:

  trireme finetune task=sft pretrained_checkpoint=outputs/smollm2 'data.train=[{paths:[outputs/chats/train]}]' \\
      lora.rank=16 finetune.num_epochs=2 run_name=my_chat

  pretrained_checkpoint   the model to start from: an import (`trireme import-hf`) or another run
  data.train              shards of examples (`trireme prepare-examples`); row length, head and classes follow from them
  finetune.num_epochs     passes over them, instead of training.train_iters
  lora.rank               trains an adapter of this rank instead of all weights

On a cluster use `trireme slurm finetune.task=TASK OVERRIDES`.
"""

import sys

from launch import local
from trainer.config.words import with_task
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
    overrides = with_task(arguments)
    if not any(override.startswith(("finetune.task=", "config_file=", "experiment=")) for override in overrides):
        fix = "Add task=sft, classify, tag, qa or dpo."
        raise ConfigError([Violation(path="task", value="", message="is missing", fix=fix)])
    return local.run(overrides)


if __name__ == "__main__":
    sys.exit(main())
