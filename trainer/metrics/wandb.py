"""Log to Weights & Biases, online or offline; a failure of it never stops the run."""

import logging
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from trainer.config.run import WANDB_MODES, WandbConfig, wandb_of
from trainer.metrics.record import (
    EvaluationMetrics,
    Metrics,
    RollbackMetrics,
    StepMetrics,
    ValidationMetrics,
    fields_of,
)
from trireme.files import write_whole

_LOGGER = logging.getLogger(__name__)

INIT_TIMEOUT_SECONDS = 60.0
"""Longest wait for the server (and for a reply to a login prompt) before training starts without W&B."""

FINISH_TIMEOUT_SECONDS = 60.0
"""Longest wait for the upload of the last records; they stay on disk for `wandb sync`."""


class WandbSink:
    """Log to one W&B run; after the first failure, log a warning and do nothing more."""

    def __init__(
        self,
        config: WandbConfig,
        *,
        run_directory: Path,
        run_name: str,
        run_config: Mapping[str, Any],
        resumed_step: int,
    ) -> None:
        """Start or resume the W&B run whose id is in the run directory; files go to `<run_directory>/wandb`."""
        self._run: Any = None
        config = wandb_of(config, environment=os.environ)
        if (named := os.environ.get("WANDB_MODE", "")) and named not in WANDB_MODES:
            _LOGGER.warning("WANDB_MODE=%s must be online, offline or disabled; using %s.", named, config.mode)
        if config.mode == "disabled":
            return
        is_resumed = resumed_step > 0
        try:
            _give_a_cache(run_directory)
            wandb = _import_wandb()
            run_id = os.environ.get("WANDB_RUN_ID") or load_run_id(run_directory, is_resumed=is_resumed)
            self._run = _start(
                wandb,
                config,
                run_directory=run_directory,
                run_name=os.environ.get("WANDB_NAME") or run_name,
                run_config=run_config,
                run_id=run_id,
            )
            # Not always the requested one: an agent of a sweep has its own.
            _keep(run_directory / "wandb" / "run_id", self._run.id)
            self._clock = _StepClock(run_directory / "wandb" / "step_offset", is_resumed=is_resumed)
        except (Exception, SystemExit) as error:
            self._give_up(error)

    @property
    def is_active(self) -> bool:
        """Whether records are sent to W&B."""
        return self._run is not None

    def record_step(self, metrics: StepMetrics) -> None:
        """Log one training record."""
        self._log(metrics)

    def record_validation(self, metrics: ValidationMetrics) -> None:
        """Log one validation record."""
        self._log(metrics)

    def record_evaluation(self, metrics: EvaluationMetrics) -> None:
        """Log the scores of the evaluation suite."""
        self._log(metrics)

    def record_rollback(self, metrics: RollbackMetrics) -> None:
        """Log a rollback; W&B also keeps the records of the steps that are repeated.

        The new ones follow those of the first time (`_step`), and have the same place on the axis (`step`).
        """
        self._log(metrics)

    def close(self) -> None:
        """Finish the run; the upload gets a limited time."""
        if self._run is None:
            return
        started, directory = time.monotonic(), self._run.dir
        try:
            self._run.finish()
            if time.monotonic() - started >= FINISH_TIMEOUT_SECONDS:
                _LOGGER.warning(
                    "Weights & Biases did not accept the last records within %.0f s. `wandb sync %s` uploads them;"
                    " metrics.jsonl has all records.",
                    FINISH_TIMEOUT_SECONDS,
                    Path(directory).parent,
                )
        except Exception as error:
            self._give_up(error)
        self._run = None

    def _log(self, metrics: Metrics) -> None:
        if self._run is None:
            return
        fields = fields_of(metrics)
        step = fields.pop("step")
        if isinstance(metrics, RollbackMetrics):
            del fields["skipped_samples"]
            fields["num_skipped_samples"] = metrics.num_skipped_samples
        # One curve for each number of a layer; the loads of single experts would be thousands, metrics.jsonl has them.
        for layer in fields.pop("moe_layers", ()):
            for key in ("load_balancing_loss", "z_loss", "max_load_ratio"):
                fields[f"moe_layer_{layer['layer']}/{key}"] = layer[key]
        named = {f"{metrics.kind}/{key}": value for key, value in fields.items() if value is not None}
        try:
            self._run.log({"step": step, **named}, step=self._clock.map(step))
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        self._run = None
        _LOGGER.warning(
            "Weights & Biases failed and is disabled for the rest of this run; metrics.jsonl has all records (%s: %s)",
            type(error).__name__,
            " ".join(str(error).split()) or "no message",
        )


def load_run_id(run_directory: Path, *, is_resumed: bool) -> str:
    """Return the W&B id of this run from the run directory; a run that starts from the beginning gets a new one."""
    path = run_directory / "wandb" / "run_id"
    if is_resumed and path.exists() and (kept := path.read_text().strip()):
        return kept
    run_id = uuid.uuid4().hex[:12]
    _keep(path, run_id)
    return run_id


class _StepClock:
    """Map training steps to W&B's `_step`: they are equal until steps are repeated.

    W&B drops records with a lower `_step`, and joins the parts of a run by it. So steps that are repeated after a
    rollback are counted after those that were taken before, in this and all later parts of the run.
    """

    def __init__(self, path: Path, *, is_resumed: bool) -> None:
        self._path = path
        kept = path.read_text().strip() if is_resumed and path.exists() else ""
        self._offset = int(kept) if kept.isdecimal() else 0
        if not is_resumed:
            path.unlink(missing_ok=True)
        self._latest_step = 0

    def map(self, step: int) -> int:
        """Return the `_step` of a record."""
        if step < self._latest_step:
            # One more: a rollback's record has its own row.
            self._offset += self._latest_step + 1 - step
            _keep(self._path, str(self._offset))
        self._latest_step = step
        return step + self._offset


def _keep(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text + "\n")


def _import_wandb() -> ModuleType:
    """Import late: it takes a second, only one rank needs it, and a broken installation must not stop a run."""
    # Read at import: without it, errors are reported over the network in offline mode too.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb  # noqa: PLC0415 - see above

    return wandb


def _give_a_cache(run_directory: Path) -> None:
    """Put W&B's own logs and cache into the run directory if the user has no writable home directory.

    Without a place for its log, W&B's service process writes it to the console.
    """
    if "WANDB_CACHE_DIR" in os.environ:
        return
    home = os.environ.get("HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or (home and os.path.join(home, ".cache"))
    try:
        Path(cache or "/dev/null", "wandb", "logs").mkdir(parents=True, exist_ok=True)  # as W&B does
    except OSError:
        os.environ["WANDB_CACHE_DIR"] = str(run_directory.absolute() / "wandb" / "cache")


def _wait_for_own_second(directory: Path, *, run_id: str) -> None:
    """Wait until this second has no part of the run yet.

    W&B names the files of a part by the second in which it starts, and overwrites those of another part of that second.
    """
    while list(directory.glob(f"*run-{time.strftime('%Y%m%d_%H%M%S')}-{run_id}")):
        time.sleep(0.05)


def _start(
    wandb: ModuleType,
    config: WandbConfig,
    *,
    run_directory: Path,
    run_name: str,
    run_config: Mapping[str, Any],
    run_id: str,
) -> Any:
    """Open the W&B run and set its x axis."""
    # Without a limit, a login prompt on an unattended terminal would block every rank.
    wandb.setup(wandb.Settings(login_timeout=INIT_TIMEOUT_SECONDS))
    _wait_for_own_second(run_directory / "wandb", run_id=run_id)
    run = wandb.init(
        project=config.project,
        entity=config.entity,
        name=run_name,
        tags=list(config.tags),
        id=run_id,
        # Offline, there is no server; the same id joins the parts when they are synced.
        resume="allow" if config.mode == "online" else None,
        mode=config.mode,
        dir=str(run_directory),
        config=dict(run_config),
        settings=wandb.Settings(
            init_timeout=INIT_TIMEOUT_SECONDS,
            finish_timeout=FINISH_TIMEOUT_SECONDS,
            console="off",
            silent=True,
        ),
    )
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    return run
