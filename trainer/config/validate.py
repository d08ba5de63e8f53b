"""Every rule between the fields of a configuration, all at once. Nothing is repaired, nothing is started."""

import importlib.util
from collections.abc import Collection

from trainer.config.rules import (
    documents,
    engines,
    health,
    layout,
    model,
    moe,
    pipeline,
    recompute,
    recovery,
    slurm,
    surroundings,
    training,
    zero,
)
from trainer.config.rules.ranges import check_ranges
from trainer.config.schema import TrainConfig
from trireme.config.fields import is_inside
from trireme.errors import Violation

RULES = (
    *model.RULES,
    *layout.RULES,
    *pipeline.RULES,
    *moe.RULES,
    *recompute.RULES,
    *training.RULES,
    *engines.RULES,
    *zero.RULES,
    *documents.RULES,
    *health.RULES,
    *recovery.RULES,
    *surroundings.RULES,
    *slurm.RULES,
)


def validate(config: TrainConfig, *, world_size: int | None, ignore: Collection[str] = frozenset()) -> list[Violation]:
    """Check all rules.

    Args:
        config: of the right form, as the loader returns it.
        world_size: number of processes; None where it is not known yet, which leaves out the rules about it.
        ignore: paths whose values are doubtful already; rules that read them are left out.
    Returns:
        All violations, each with the nearest values that would be accepted; none when the run can start. What shards
        and tokenizer hold is checked by those who read them.
    """
    violations = [
        violation for violation in check_ranges(config) if not any(is_inside(violation.path, path) for path in ignore)
    ]
    doubtful = {*ignore, *(violation.path for violation in violations)}
    for rule in RULES:
        if not any(is_inside(read, path) or is_inside(path, read) for read in rule.reads for path in doubtful):
            violations.extend(rule.check(config, world_size))
    return violations


def needed_packages(config: TrainConfig) -> list[str]:
    """Distributions that the run needs beyond those that every run does."""
    return ["transformer-engine"] if config.model.transformer_impl == "transformer_engine" else []


def check_packages(config: TrainConfig) -> list[Violation]:
    """Name packages that the run needs and this host lacks.

    It is no rule: the host that plans or submits a run need not have what its nodes have.
    """
    if not needed_packages(config) or importlib.util.find_spec("transformer_engine"):
        return []
    return [
        Violation(
            path="model.transformer_impl",
            value="transformer_engine",
            message="needs the package transformer_engine, which is not installed here",
            fix="install transformer-engine, or use torch",
        )
    ]
