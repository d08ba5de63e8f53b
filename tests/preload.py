"""What the server of warm processes imports once: the trainer behind the CPU shim, the launcher, torchrun, pytest."""

import logging

from trainer.common.logging import quiet_libraries
from trainer.parallel import cpu_shim

quiet_libraries()
logging.getLogger().addHandler(_silence := logging.NullHandler())  # as trainer.forked_ranks has it
cpu_shim.install()

import pytest  # noqa: E402, F401 - the shim comes first; test modules import it
import torch.distributed.run  # noqa: E402, F401 - as above
from torch.distributed.elastic.multiprocessing import api  # noqa: E402, F401 - as above

import data_tools.stages  # noqa: E402, F401 - as above
import launch.local  # noqa: E402, F401 - as above
import trainer.build  # noqa: E402 - as above
import trainer.certificate.layout_run  # noqa: E402 - as above
import trainer.checkpoint.run_directory  # noqa: E402 - as above
import trainer.forked_ranks  # noqa: E402 - as above
import trainer.inputs  # noqa: E402, F401 - as above

logging.getLogger().removeHandler(_silence)
