"""What the server of warm processes imports once: the trainer behind the CPU shim, the launcher, torchrun, pytest."""

import gc
import logging

from trainer.parallel import cpu_shim
from trireme.logging import quiet_libraries

quiet_libraries()
logging.getLogger().addHandler(_silence := logging.NullHandler())  # as trainer.forked_ranks has it
cpu_shim.install()

import deepspeed.runtime.bf16_optimizer  # noqa: E402 - the shim comes first
import deepspeed.runtime.zero.stage3  # noqa: E402
import deepspeed.runtime.zero.stage_1_and_2  # noqa: E402, F401
import pytest  # noqa: E402, F401 - test modules import it
import torch.distributed.run  # noqa: E402, F401 - as above
from torch.distributed.elastic.multiprocessing import api  # noqa: E402, F401 - as above

import launch.local  # noqa: E402, F401 - as above
import trainer.build  # noqa: E402 - as above
import trainer.certificate.layout_run  # noqa: E402 - as above
import trainer.forked_ranks  # noqa: E402 - as above
import trainer.inputs  # noqa: E402, F401 - as above

logging.getLogger().removeHandler(_silence)
gc.collect()
gc.freeze()  # DeepSpeed collects garbage while it opens an engine: 0.3 s each time where all of this is looked at
