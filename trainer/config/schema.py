"""Define the root of the training configuration: one field per Hydra group."""

from dataclasses import dataclass, field

from trainer.config.cluster import ClusterConfig
from trainer.config.distill import DistillConfig
from trainer.config.engine import DeepSpeedEngineConfig, EngineConfig
from trainer.config.evaluation import EvaluationConfig
from trainer.config.finetune import FinetuneConfig
from trainer.config.lora import LoraConfig
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
"""Values of `resume` that are not paths."""

_WATCHED_GLOO_SECONDS = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The complete configuration of a training run. Immutable after loading."""

    model: ModelConfig
    """Model."""
    run_name: str = "default"
    """Name of the run and of its directory."""
    output_dir: PathText = "outputs"
    """Directory of the run directories."""
    resume: PathText = "auto"
    """auto resumes from the run's latest valid checkpoint if there is one; never refuses a run directory that has one;
    restart moves the contents of the run directory aside and starts from scratch; anything else is the path of a
    checkpoint, or of a run directory, to start from."""
    pretrained_checkpoint: PathText | None = None
    """Run directory or checkpoint whose weights a new run starts from, at step 0 and with a fresh optimizer, under any
    layout and engine: those of another run, or of an import (`trireme import-hf`). Model and tokenizer are the
    checkpoint's too, unless model=PRESET is given; single values change them. null draws initial weights."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """A teacher beside the data."""
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    """Fine-tuning on examples instead of pretraining on text."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Low-rank adapters, trained instead of the model's weights."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Evaluation suite during training."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Length, batch size and seed."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Parallel layout."""
    engine: EngineConfig = field(default_factory=DeepSpeedEngineConfig)
    """Back end of the optimizer step."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    """Data types."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW."""
    lr_schedule: LrScheduleConfig = field(default_factory=LrScheduleConfig)
    """Learning-rate schedule."""
    data: DataConfig = field(default_factory=DataConfig)
    """Token shards."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Tokenizer of the shards."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Metrics."""
    health: HealthConfig = field(default_factory=HealthConfig)
    """Health monitoring."""
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    """Recovery from non-finite values and spikes."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """Hosts."""

    @property
    def gloo_timeout_seconds(self) -> int:
        """Return the timeout of a gloo collective, which also counts time for which the whole run was suspended.

        A run with a watchdog gets a day at least: the watchdog terminates hangs, and its clock stops while suspended.
        """
        timeout = self.cluster.timeout_seconds
        return max(timeout, _WATCHED_GLOO_SECONDS) if self.health.watchdog else timeout
