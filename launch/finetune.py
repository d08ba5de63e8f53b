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

from launch.local import run_with_word
from trainer.config.words import with_task
from trireme.errors import exit_code_of


def main() -> int:
    """Run the command; an invalid configuration prints all errors and exits with code 2."""
    return exit_code_of(
        lambda: run_with_word(
            sys.argv[1:],
            usage=__doc__ or "",
            setting="finetune.task",
            fix="Add task=sft, classify, tag, qa or dpo.",
            expand=with_task,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
