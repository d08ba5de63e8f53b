"""Train a model: the entry of every process of a run.

    torchrun --nproc-per-node N -m trainer.train OVERRIDES
    python -m launch.local OVERRIDES        # the same, processes counted for you

OVERRIDES: GROUP=OPTION picks a file of conf/GROUP, PATH=VALUE sets one field; docs/configuration.md lists all of them.

Exit codes: 0 done, 1 the run ended without its last state saved, or failed, 2 bad configuration or input, 75 stopped by
a signal after saving (start it again to go on), 79 the run hung, 80 copies of weights differ, 81 another process is
gone, 82 training went wrong and going back did not help (docs/failure.md).
"""

import faulthandler
import logging
import os
import sys
import traceback
from contextlib import nullcontext

from trainer.config.describe import describe_run
from trireme.errors import EXIT_OK, EXIT_REQUEUE, EXIT_STOPPED, exit_code_of
from trireme.logging import configure_logging
from trireme.processes import leave_exit_code, name_process
from trireme.start_notice import announce_start, seconds_since_start
from trireme.waiting import telling_what_it_waits_for

_LOGGER = logging.getLogger(__name__)


def main() -> int:
    """The command."""
    rank = int(os.environ.get("RANK", "0"))
    if "RANK" in os.environ:
        name_process(rank)
    configure_logging(rank=rank)
    faulthandler.enable()  # what the system ends with SIGSEGV, SIGBUS or SIGABRT shows where it was
    try:
        code = exit_code_of(lambda: run(sys.argv[1:]))
    except BaseException:
        # Said at once and by this rank, not by whoever notices that it is gone.
        leave_exit_code(1)
        prefix = f"[rank {rank}] " if "RANK" in os.environ else ""
        sys.stderr.write("".join(prefix + line for line in traceback.format_exc().splitlines(keepends=True)))
        sys.stderr.flush()
        os._exit(1)  # the other threads may hang in a collective that will never end
    if os.environ.get("LOCAL_RANK", "0") == "0":  # each node's launcher looks for it
        leave_exit_code(code)
    if code not in (EXIT_OK, EXIT_REQUEUE):
        os._exit(code)  # as above
    return code


def run(overrides: list[str]) -> int:
    """Check everything, build the run, train.

    Returns:
        The exit code.
    Raises:
        ConfigError: the configuration or an input cannot be used.
    """
    is_main_rank = int(os.environ.get("RANK", "0")) == 0
    if {"--help", "-h"} & set(overrides):
        sys.stdout.write((__doc__ or "").lstrip() if is_main_rank else "")
        return EXIT_OK
    if is_main_rank:
        announce_start("training starts")
    # Late: it imports PyTorch, and logging stands before libraries say anything.
    from trainer.inputs import check_training_host, load_inputs  # noqa: PLC0415 - see above
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see above

    inputs = load_inputs(overrides, check_files=check_training_host)
    config, plan = inputs.config, inputs.plan
    cpu_shim.install()
    from trainer.build import build_run  # noqa: PLC0415 - the shim must stand before Megatron-Core is imported
    from trainer.health.watchdog import Watchdog  # noqa: PLC0415 - as above
    from trainer.loop.signals import StopRequest  # noqa: PLC0415 - as above
    from trainer.parallel.world import start_world, stop_world  # noqa: PLC0415 - as above
    from trainer.run_directory.directory import lock_run_directory  # noqa: PLC0415 - as above

    seconds = seconds_since_start()
    if seconds is not None:
        _LOGGER.info("libraries are imported and inputs checked after %.1f s", seconds)
    claim = lock_run_directory(plan.run_directory, resume=config.resume) if is_main_rank else nullcontext()
    with StopRequest() as stop, claim:
        world = start_world(
            config.parallel,
            timeout_seconds=config.cluster.timeout_seconds,
            gloo_timeout_seconds=config.gloo_timeout_seconds,
            seed=config.training.seed,
        )
        configure_logging(rank=world.rank, run_directory=plan.run_directory)
        if world.is_main_rank:
            for line in describe_run(config, plan):
                _LOGGER.info(line)
        with Watchdog(config.health, rank=world.rank, run_directory=plan.run_directory) as vigil:
            with telling_what_it_waits_for("the model to be built and its checkpoint to be loaded"):
                built = build_run(config, plan=plan, world=world, vigil=vigil, tokenizer=inputs.tokenizer)
            stop.defer(vigil.has_lost_rank)
            outcome = built.loop.run(stop)
            built.close()
        stop_world()
    return {"done": EXIT_OK, "stopped": EXIT_REQUEUE, "unsaved": EXIT_STOPPED}[outcome]


if __name__ == "__main__":
    sys.exit(main())
