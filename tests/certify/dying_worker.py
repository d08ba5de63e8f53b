"""The process of a layout that dies under tensor parallelism, on its second rank."""

import sys
from typing import Any

from trainer.parallel import cpu_shim

cpu_shim.install()

from trainer.certificate import layout_run, worker  # noqa: E402 - the shim first

right = layout_run.run_layout


def die(job: Any, *, config: Any, world: Any) -> Any:
    if world.tp_rank == 1:
        raise RuntimeError("this rank gives up")
    return right(job, config=config, world=world)


if __name__ == "__main__":
    layout_run.run_layout = die
    sys.exit(worker.main())
