"""Weights & Biases: online, offline or not at all. Whatever goes wrong with it, the run goes on."""

import logging
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from trainer.config.run import WANDB_MODES, WandbConfig, wandb_of
from trainer.metrics.record import RollbackMetrics, StepMetrics, ValidationMetrics, fields_of
from trireme.files import write_whole

_LOGGER = logging.getLogger(__name__)

INIT_TIMEOUT_SECONDS = 60.0
"""Longest wait for the server (and for an answer to a login prompt) before training starts without it."""

FINISH_TIMEOUT_SECONDS = 60.0
"""Longest wait for the upload of the last records; they stay on disk for `wandb sync`."""


class WandbSink:
    """Logs to one W&B run; after the first failure it says so once and does nothing more."""

    def __init__(
        self,
        config: WandbConfig,
        *,
        run_directory: Path,
        run_name: str,
        run_config: Mapping[str, Any],
        resumed_step: int,
    ) -> None:
        """Start or continue the run whose id the run directory keeps; files go to `<run_directory>/wandb`."""
        self._run: Any = None
        config = wandb_of(config, environment=os.environ)
        if (named := os.environ.get("WANDB_MODE", "")) and named not in WANDB_MODES:
            _LOGGER.warning("WANDB_MODE=%s is not online, offline or disabled; using %s", named, config.mode)
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
            # Not always the one that was asked for: an agent of a sweep has its own.
            _keep(run_directory / "wandb" / "run_id", self._run.id)
            self._clock = _StepClock(run_directory / "wandb" / "step_offset", is_resumed=is_resumed)
        except (Exception, SystemExit) as error:
            self._give_up(error)

    @property
    def is_active(self) -> bool:
        """Whether records still go to W&B."""
        return self._run is not None

    def record_step(self, metrics: StepMetrics) -> None:
        """Log one training record."""
        self._log(metrics)

    def record_validation(self, metrics: ValidationMetrics) -> None:
        """Log one validation record."""
        self._log(metrics)

    def record_rollback(self, metrics: RollbackMetrics) -> None:
        """Log where training goes on from; W&B keeps the records of the steps that are taken again, too.

        They come behind those of the first time (`_step`), and at their own place on the axis (`step`).
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
                    "Weights & Biases has not taken the last records within %.0f s; `wandb sync %s` sends them, and"
                    " metrics.jsonl has every number",
                    FINISH_TIMEOUT_SECONDS,
                    Path(directory).parent,
                )
        except Exception as error:
            self._give_up(error)
        self._run = None

    def _log(self, metrics: StepMetrics | ValidationMetrics | RollbackMetrics) -> None:
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
            self._run.log({"step": step, **named}, step=self._clock.tell(step))
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        self._run = None
        _LOGGER.warning(
            "Weights & Biases failed and is off for the rest of this run; metrics.jsonl has every number (%s: %s)",
            type(error).__name__,
            " ".join(str(error).split()) or "no message",
        )


def load_run_id(run_directory: Path, *, is_resumed: bool) -> str:
    """The W&B id of this run: kept in the run directory, made anew when training starts from the beginning."""
    path = run_directory / "wandb" / "run_id"
    if is_resumed and path.exists() and (kept := path.read_text().strip()):
        return kept
    run_id = uuid.uuid4().hex[:12]
    _keep(path, run_id)
    return run_id


class _StepClock:
    """Tells W&B's `_step` of a training step: the step itself, until steps are taken again.

    W&B drops records that go back, and joins the parts of a run by `_step`. So steps that are taken again after a
    rollback are counted on behind those that were taken before, in this and all later parts of the run.
    """

    def __init__(self, path: Path, *, is_resumed: bool) -> None:
        self._path = path
        kept = path.read_text().strip() if is_resumed and path.exists() else ""
        self._offset = int(kept) if kept.isdecimal() else 0
        if not is_resumed:
            path.unlink(missing_ok=True)
        self._newest_step = 0

    def tell(self, step: int) -> int:
        """The `_step` of a record."""
        if step < self._newest_step:
            # One more: a rollback's record has a row of its own.
            self._offset += self._newest_step + 1 - step
            _keep(self._path, str(self._offset))
        self._newest_step = step
        return step + self._offset


def _keep(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text + "\n")


def _import_wandb() -> ModuleType:
    """Import late: it takes a second, only one rank needs it, and a broken installation must not stop a run."""
    # Read while it is imported: without it, errors are reported over the network in offline mode too.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb  # noqa: PLC0415 - see above

    return wandb


def _give_a_cache(run_directory: Path) -> None:
    """Lead W&B's own logs and cache to the run directory where the user has no home directory that takes them.

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


def _start(
    wandb: ModuleType,
    config: WandbConfig,
    *,
    run_directory: Path,
    run_name: str,
    run_config: Mapping[str, Any],
    run_id: str,
) -> Any:
    """Open the W&B run and tell it what the x axis is."""
    # Without a limit, a login prompt on a terminal nobody watches would keep every rank waiting.
    wandb.setup(wandb.Settings(login_timeout=INIT_TIMEOUT_SECONDS))
    run = wandb.init(
        project=config.project,
        entity=config.entity,
        name=run_name,
        tags=list(config.tags),
        id=run_id,
        # Offline there is no server to ask; the same id joins the parts when they are synced.
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
