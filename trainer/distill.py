"""Distil a model: training with `teacher=PATH`, one rank of it under torchrun.

    trireme distill teacher=PATH OVERRIDES
    torchrun --nproc-per-node N -m trainer.distill teacher=PATH OVERRIDES

The loss is distill.weight * KL(teacher, model) + (1 - distill.weight) * cross entropy of the next token. The teacher, a
run or an import with the same tokenizer, runs under the layout of the model. OVERRIDES are those of `trireme train`,
where `distill.teacher=PATH` says the same. Validations measure the cross entropy alone.

Exit codes are those of `trireme train`.
"""

import sys

from trainer.config.words import expand_word
from trainer.train import main as train
from trireme.command import write_output
from trireme.errors import EXIT_OK
from trireme.processes import global_rank


def main() -> int:
    """Run the command."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        if global_rank() == 0:
            write_output((__doc__ or "").lstrip())
        return EXIT_OK
    sys.argv[1:] = expand_word(sys.argv[1:], word="teacher", path="distill.teacher")
    return train()


if __name__ == "__main__":
    sys.exit(main())
