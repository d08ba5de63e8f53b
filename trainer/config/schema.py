"""The root of the training configuration: one field per Hydra group."""

from dataclasses import dataclass, field

from trainer.config.cluster import ClusterConfig
from trainer.config.engine import DeepSpeedEngineConfig, EngineConfig
from trainer.config.model import ModelConfig
from trainer.config.optim import LrScheduleConfig, OptimizerConfig, PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.config.run import (
    CheckpointConfig,
    DataConfig,
    HealthConfig,
    LoggingConfig,
    RecoveryConfig,
    TokenizerConfig,
    TrainingConfig,
)
from trireme.config.path_text import PathText

RESUME_KEYWORDS = ("auto", "never", "restart")
"""Values of `resume` that are no path: they speak of the run itself."""

_WATCHED_GLOO_SECONDS = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that one training run is told. Immutable after loading."""

    model: ModelConfig
    """What is trained."""
    run_name: str = "default"
    """Name of the run and of its directory."""
    output_dir: PathText = "outputs"
    """Directory that holds run directories."""
    resume: PathText = "auto"
    """auto continues the run's newest good checkpoint when there is one, never refuses a run directory that has one,
    restart moves what the run directory holds aside and starts anew, anything else is the path of a checkpoint, or of
    a run directory, to start from."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Length, batch and seed."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Layout over processes."""
    engine: EngineConfig = field(default_factory=DeepSpeedEngineConfig)
    """Back end of the optimizer step."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    """Number formats."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW."""
    lr_schedule: LrScheduleConfig = field(default_factory=LrScheduleConfig)
    """Learning rate over steps."""
    data: DataConfig = field(default_factory=DataConfig)
    """Token shards."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Tokenizer of the shards."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Saving."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Metrics."""
    health: HealthConfig = field(default_factory=HealthConfig)
    """Watching over the run."""
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    """What follows when training goes wrong."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """Machines."""

    @property
    def gloo_timeout_seconds(self) -> int:
        """Longest wait in one collective of gloo, which also counts time for which the whole run was suspended.

        A run with a watchdog gets a day at least: the watchdog ends what hangs, and its clock stands still meanwhile.
        """
        timeout = self.cluster.timeout_seconds
        return max(timeout, _WATCHED_GLOO_SECONDS) if self.health.watchdog else timeout
