"""Fine-tune a model on examples: training with `task=TASK`, one rank of it under torchrun.

    trireme finetune task=sft pretrained_checkpoint=PATH 'data.train=[{paths:[PREFIX]}]' [OVERRIDES]
    torchrun --nproc-per-node N -m trainer.finetune task=classify [OVERRIDES]

TASK: sft (the assistant's answers in conversations), classify (texts), tag (words), qa (answers inside a text) or dpo
(preferred answers); `trireme prepare-examples` makes the shards of each. OVERRIDES are those of `trireme train`, where
`finetune.task=TASK` says the same; `finetune.num_epochs` sets the length, `lora.rank=16` trains an adapter instead of
all weights, `pretrained_checkpoint` names an import or another run. Row length, head and classes follow from the
examples.

Exit codes are those of `trireme train`.
"""

import sys

from trainer.config.words import with_task
from trainer.train import main_with_word


def main() -> int:
    """Run the command."""
    return main_with_word(usage=__doc__ or "", expand=with_task)


if __name__ == "__main__":
    sys.exit(main())
