"""What a host needs for optimizer state in files."""

import os
from pathlib import Path

from trainer.config.engine import DeepSpeedEngineConfig, EngineConfig
from trireme.errors import Violation


def check_nvme_host(config: EngineConfig) -> list[Violation]:
    """Look for the directory and for what DeepSpeed's asynchronous reads and writes are compiled against."""
    if not isinstance(config, DeepSpeedEngineConfig) or config.offload_optimizer != "nvme" or config.nvme_path is None:
        return []
    violations = []
    path = Path(config.nvme_path)
    if not path.is_dir() or not os.access(path, os.W_OK):
        rule = "is no directory that can be written to"
        fix = "create it on every host, or choose another"
        violations.append(Violation(path="engine.nvme_path", value=path, rule=rule, fix=fix))
    # Importing DeepSpeed takes seconds, and only these runs ask it anything before they start.
    from deepspeed.ops.op_builder import AsyncIOBuilder  # noqa: PLC0415

    if not AsyncIOBuilder().is_compatible(verbose=False):
        rule = "needs libaio with its headers, and a C++ compiler finds none here"
        fix = "install libaio-dev (Debian) or libaio-devel (Red Hat) on every host, or use cpu"
        violations.append(Violation(path="engine.offload_optimizer", value="nvme", rule=rule, fix=fix))
    return violations
