"""Distil a model: training with `teacher=PATH`, one rank of it under torchrun.

    trireme distill teacher=PATH OVERRIDES
    torchrun --nproc-per-node N -m trainer.distill teacher=PATH OVERRIDES

The loss is distill.weight * KL(teacher, model) + (1 - distill.weight) * cross entropy of the next token. The teacher, a
run or an import with the same tokenizer, runs under the layout of the model. OVERRIDES are those of `trireme train`,
where `distill.teacher=PATH` says the same. Validations measure the cross entropy alone.

Exit codes are those of `trireme train`.
"""

import sys

from trainer.config.words import with_teacher
from trainer.train import main_with_word


def main() -> int:
    """Run the command."""
    return main_with_word(usage=__doc__ or "", expand=with_teacher)


if __name__ == "__main__":
    sys.exit(main())
