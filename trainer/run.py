"""Run training in one process: check the inputs, join the other processes, build, train, release."""

import logging
from contextlib import nullcontext

from trainer.parallel import cpu_shim

cpu_shim.install()  # before Megatron-Core is imported

from trainer.build import build_run  # noqa: E402 - the shim comes first
from trainer.config.describe import describe_run  # noqa: E402 - as above
from trainer.health.watchdog import Watchdog  # noqa: E402 - as above
from trainer.inputs import check_training_host, load_inputs  # noqa: E402 - as above
from trainer.loop.signals import StopRequest  # noqa: E402 - as above
from trainer.parallel.cpu_memory import keep_freed_memory  # noqa: E402 - as above
from trainer.parallel.world import start_world, stop_world  # noqa: E402 - as above
from trainer.run_directory.directory import lock_run_directory  # noqa: E402 - as above
from trireme.errors import EXIT_OK, EXIT_REQUEUE, EXIT_STOPPED  # noqa: E402 - as above
from trireme.logging import configure_logging  # noqa: E402 - as above
from trireme.processes import global_rank  # noqa: E402 - as above
from trireme.start_notice import seconds_since_start  # noqa: E402 - as above
from trireme.waiting import log_waiting_for  # noqa: E402 - as above

_EXIT_CODES = {"done": EXIT_OK, "stopped": EXIT_REQUEUE, "unsaved": EXIT_STOPPED}
_LOGGER = logging.getLogger(__name__)


def run(overrides: list[str]) -> int:
    """Train a run from its start, or from its latest checkpoint, to its end; every process of the job calls this.

    Returns:
        The exit code.
    Raises:
        ConfigError: the configuration or an input is invalid.
    """
    inputs = load_inputs(overrides, check_files=check_training_host)
    config, derived = inputs.config, inputs.derived
    seconds = seconds_since_start()
    if seconds is not None:
        _LOGGER.info("Imported libraries and checked inputs in %.1f s.", seconds)
    is_main_rank = global_rank() == 0
    lock = lock_run_directory(derived.run_directory, resume=config.resume) if is_main_rank else nullcontext()
    with StopRequest() as stop, lock:
        world = start_world(
            config.parallel,
            timeout_seconds=config.cluster.timeout_seconds,
            gloo_timeout_seconds=config.gloo_timeout_seconds,
            seed=config.training.seed,
        )
        if world.device.type == "cpu":
            keep_freed_memory()
        configure_logging(rank=world.rank, run_directory=derived.run_directory)
        if world.is_main_rank:
            for line in describe_run(config, derived):
                _LOGGER.info(line)
        with Watchdog(config.health, rank=world.rank, run_directory=derived.run_directory) as watchdog:
            is_dpo = config.finetune.task == "dpo"
            last = "the losses of its reference to be there" if is_dpo else "its checkpoint to be loaded"
            with log_waiting_for(f"the model to be built and {last}"):
                built = build_run(config, derived=derived, world=world, watchdog=watchdog, tokenizer=inputs.tokenizer)
            stop.defer(watchdog.has_lost_rank)
            outcome = built.loop.run(stop)
            built.close()
        stop_world()
    return _EXIT_CODES[outcome]
