"""Run jobs of one world size, one after the other, in one process of the certificate.

    python -m trainer.torchrun --nproc-per-node N -m trainer.certificate.worker JOBS

The processes are started once, because importing the libraries takes longer than a small run.
"""

import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from trainer.certificate.job import Job, JobResult, read_jobs, write_result
from trainer.parallel import cpu_shim
from trireme.logging import configure_logging
from trireme.processes import global_rank, leave_exit_code


def main() -> int:
    """Run the jobs of the file that the command line names."""
    rank = global_rank()
    configure_logging(rank=rank)
    try:
        cpu_shim.install()
        run_jobs(read_jobs(Path(sys.argv[1])))
    except BaseException:
        leave_exit_code(1)
        lines = traceback.format_exc().splitlines(keepends=True)
        sys.stderr.write("".join(f"[rank {rank}] {line}" for line in lines))
        sys.stderr.flush()
        os._exit(1)  # the other ranks may wait for this one in a collective
    return 0


def run_jobs(jobs: Sequence[Job]) -> None:
    """Run jobs; all ranks call this."""
    # Late: the shim must be installed before Megatron-Core is imported.
    from torch import distributed  # noqa: PLC0415 - see above

    from trainer.certificate.layout_run import run_layout  # noqa: PLC0415 - see above
    from trainer.config.load import load_config_file  # noqa: PLC0415 - see above
    from trainer.parallel.world import end_layout, start_world, stop_world  # noqa: PLC0415 - see above

    for job in jobs:
        config = load_config_file(job.config_file)
        world = start_world(config.parallel, timeout_seconds=config.cluster.timeout_seconds, seed=config.training.seed)
        start = time.monotonic()
        run = run_layout(job, config=config, world=world)
        distributed.barrier()
        if world.is_main_rank:
            write_result(
                job,
                JobResult(
                    losses=[step.loss for step in run],
                    grad_norms=[step.grad_norm for step in run],
                    skipped_steps=[number for number, step in enumerate(run) if step.is_skipped],
                    seconds=time.monotonic() - start,
                    device=_name_of(world.device.type),
                ),
            )
        end_layout()
    stop_world()


def _name_of(device_type: str) -> str:
    import torch  # noqa: PLC0415 - as above

    return torch.cuda.get_device_name() if device_type == "cuda" else "CPU"


if __name__ == "__main__":
    sys.exit(main())
