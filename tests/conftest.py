"""What holds for every test: one thread per process, no GPU, no network services, the same examples each time."""

import os

from hypothesis import settings

# Set before torch is imported, and inherited by every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# On a host with GPUs these tests are those of the CPU all the same; tests/gpu shows GPUs to the processes it starts.
os.environ.setdefault("TRIREME_TEST_GPUS", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

settings.register_profile("trireme", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("trireme")
